//! Resource URIs, in both families (DSP0227, MS-WSMV):
//!
//! ```text
//! http://schemas.microsoft.com/wbem/wsman/1/wmi/NAMESPACE/CLASS      the namespace is in the URI
//! http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CLASS            it is in the selector __cimnamespace
//! http://schemas.dmtf.org/wbem/wscim/1/*                             all classes, for association filters
//! http://schemas.dmtf.org/wbem/cim-xml/2/cim-schema/2/*              definitions of classes
//! ```
//!
//! A reply uses the family that the request used. Called by `envelope` for requests, `epr` for references, `write`
//! for replies.

use standin_cim::{Namespace, same_name};
use std::borrow::Cow;

const WMI: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi/";
/// The short form for `root/cimv2`.
const WMI_CIMV2: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmicimv2/";
const DMTF: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/";
const DMTF_ALL: &str = "http://schemas.dmtf.org/wbem/wscim/1/*";
const CLASSES: &str = "http://schemas.dmtf.org/wbem/cim-xml/2/cim-schema/2/";
/// Vendors put their own host before this.
const VENDOR: &str = "/wbem/wscim/1/cim-schema/2/";

/// Which family of URIs a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `schemas.microsoft.com/wbem/wsman/1/wmi/...`.
    Wmi,
    /// `schemas.dmtf.org/wbem/wscim/1/cim-schema/2/...`, or a vendor's host with the same path.
    Dmtf,
    /// Definitions of classes.
    Classes,
}

/// What a resource URI says.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource<'a> {
    /// The family.
    pub family: Family,
    /// The URI as the client wrote it, without a query.
    pub uri: &'a str,
    /// What stands before the name of a class, `/` included. In the family of WMI that includes the namespace.
    pub prefix: Cow<'a, str>,
    /// The namespace, where the URI has it: in its path, or in a query `?__cimnamespace=`.
    pub namespace: Option<Namespace>,
    /// The class; `None` for `*`.
    pub class: Option<&'a str>,
}

impl<'a> Resource<'a> {
    /// Reads a URI. `None` when it is of no known form.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let (uri, query) = text.split_once('?').unwrap_or((text, ""));
        let namespace = query.split('&').find_map(|part| {
            let (name, value) = part.split_once('=')?;
            same_name(name, "__cimnamespace").then(|| Namespace::new(value))
        });
        if same_name(uri, DMTF_ALL) {
            let prefix = Cow::Borrowed(DMTF);
            return Some(Self { family: Family::Dmtf, uri, prefix, namespace, class: None });
        }
        let (prefix, class) = split_class(uri)?;
        let (family, namespace) = match () {
            () if begins(prefix, WMI_CIMV2) && prefix.len() == WMI_CIMV2.len() => {
                (Family::Wmi, Some(Namespace::from_static("root/cimv2")))
            }
            () if begins(prefix, WMI) => {
                let within = prefix.get(WMI.len()..)?.trim_matches(['/', '\\']);
                (!within.is_empty()).then_some(())?;
                (Family::Wmi, Some(Namespace::new(within)))
            }
            () if same_name(prefix, CLASSES) => (Family::Classes, namespace),
            () if is_cim_schema(prefix) => (Family::Dmtf, namespace),
            () => return None,
        };
        let class = (class != "*").then_some(class);
        Some(Self { family, uri, prefix: Cow::Borrowed(prefix), namespace, class })
    }

    /// How replies to this request are to be written, once its namespace is known.
    #[must_use]
    pub fn style(&self, namespace: Namespace) -> Style {
        let prefix = match self.family {
            // Definitions are CIM-XML; what else is said about them is in the standard's own form.
            Family::Classes => DMTF.to_owned(),
            _ => self.prefix.clone().into_owned(),
        };
        Style { family: self.family, prefix, namespace }
    }
}

/// How addresses in a reply are written.
#[derive(Debug, Clone, PartialEq)]
pub struct Style {
    /// The family.
    pub family: Family,
    /// What stands before a class of `namespace`.
    pub prefix: String,
    /// The namespace of the request.
    pub namespace: Namespace,
}

impl Style {
    /// Writes the URI of a class.
    pub fn write_uri(&self, out: &mut String, namespace: &Namespace, class: &str) {
        if self.family == Family::Wmi && *namespace != self.namespace {
            out.push_str(WMI);
            out.push_str(namespace.as_str());
            out.push('/');
        } else {
            out.push_str(&self.prefix);
        }
        out.push_str(class);
    }
}

/// The part up to and with the last separator, and the name behind it. Only names that can be written into a
/// reply as they are: a URI comes back as a namespace there.
fn split_class(uri: &str) -> Option<(&str, &str)> {
    let at = uri.rfind(['/', '\\'])?;
    let (prefix, class) = uri.split_at_checked(at + 1)?;
    let prefix_fits = prefix.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>&\"'".contains(&byte));
    let class_fits = class == "*"
        || class.bytes().enumerate().all(|(at, byte)| {
            byte.is_ascii_alphabetic() || byte == b'_' || (at > 0 && byte.is_ascii_digit())
        });
    (prefix_fits && class_fits && !class.is_empty()).then_some((prefix, class))
}

fn begins(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| same_name(start, prefix))
}

fn is_cim_schema(prefix: &str) -> bool {
    let host = prefix.strip_prefix("http://").unwrap_or(prefix);
    host.find('/').and_then(|at| host.get(at..)).is_some_and(|path| same_name(path, VENDOR))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Family, Option<String>, Option<&str>) {
        let resource = Resource::parse(text).unwrap();
        (resource.family, resource.namespace.map(|namespace| namespace.to_string()), resource.class)
    }

    #[test]
    fn both_families_are_read() {
        assert_eq!(
            parsed(
                "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Msvm_ComputerSystem"
            ),
            (Family::Wmi, Some("root/virtualization/v2".into()), Some("Msvm_ComputerSystem"))
        );
        assert_eq!(
            parsed("HTTP://schemas.microsoft.com/wbem/wsman/1/WMI/root\\virtualization\\v2\\*"),
            (Family::Wmi, Some("root/virtualization/v2".into()), None)
        );
        assert_eq!(
            parsed("http://schemas.microsoft.com/wbem/wsman/1/wmicimv2/Win32_OperatingSystem"),
            (Family::Wmi, Some("root/cimv2".into()), Some("Win32_OperatingSystem"))
        );
        assert_eq!(
            parsed("http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/Msvm_ConcreteJob"),
            (Family::Dmtf, None, Some("Msvm_ConcreteJob"))
        );
        assert_eq!(
            parsed("http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/X?__cimnamespace=root/interop"),
            (Family::Dmtf, Some("root/interop".into()), Some("X"))
        );
        assert_eq!(
            parsed("http://schemas.example.com/wbem/wscim/1/cim-schema/2/X_Y"),
            (Family::Dmtf, None, Some("X_Y"))
        );
        assert_eq!(parsed("http://schemas.dmtf.org/wbem/wscim/1/*"), (Family::Dmtf, None, None));
        assert_eq!(
            parsed("http://schemas.dmtf.org/wbem/cim-xml/2/cim-schema/2/*"),
            (Family::Classes, None, None)
        );
    }

    #[test]
    fn other_uris_and_what_would_break_a_reply_are_refused() {
        for text in [
            "",
            "*",
            "http://schemas.microsoft.com/wbem/wsman/1/config",
            "http://schemas.microsoft.com/wbem/wsman/1/wmi/Msvm_X",
            "http://schemas.microsoft.com/wbem/wsman/1/wmi//Msvm_X",
            "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/",
            "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/A b",
            "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/\"/X",
            "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/X>",
        ] {
            assert_eq!(Resource::parse(text), None, "{text}");
        }
    }

    #[test]
    fn replies_use_the_family_of_the_request() {
        let uri = |request: &str, namespace: &str| {
            let resource = Resource::parse(request).unwrap();
            let here = resource.namespace.clone().unwrap_or_else(|| Namespace::new("root/virtualization/v2"));
            let mut out = String::new();
            resource.style(here).write_uri(&mut out, &Namespace::new(namespace), "C");
            out
        };
        let wmi = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/*";
        assert_eq!(
            uri(wmi, "root/virtualization/v2"),
            "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/C"
        );
        assert_eq!(uri(wmi, "root/interop"), "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/interop/C");
        assert_eq!(
            uri("http://schemas.dmtf.org/wbem/wscim/1/*", "root/virtualization/v2"),
            "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/C"
        );
    }
}

//! Where something is read: the classes, the namespace and the host that relative names refer to.

use crate::{Namespace, ObjectPath, Schema, same_name};
use std::net::IpAddr;

/// What a query or an argument is read against.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The classes of the namespace.
    pub schema: &'a Schema,
    /// The namespace.
    pub namespace: &'a Namespace,
    /// The name of this host, as `__SERVER` says it.
    pub host: &'a str,
}

impl Context<'_> {
    /// Why a path cannot be one of this namespace on this host; `None` when it can.
    #[must_use]
    pub fn elsewhere(&self, path: &ObjectPath) -> Option<String> {
        if let Some(host) = &path.host {
            if !is_this_host(host, self.host) {
                return Some(format!("it is on the host {host}, and this is {}", self.host));
            }
        }
        match &path.namespace {
            Some(namespace) if namespace != self.namespace => {
                Some(format!("it is in the namespace {namespace}, and this is {}", self.namespace))
            }
            _ => None,
        }
    }
}

/// Whether `name`, as a client wrote it into a path, can mean the host called `host`.
///
/// Names are the same when their first labels are, because a client may know a host with or without its domain.
/// An address says nothing about a name, so it is taken to be the one the client connected to.
#[must_use]
pub fn is_this_host(name: &str, host: &str) -> bool {
    let name = name.trim();
    // `host:port` and `[v6]:port` come from URLs.
    let bare = match name.rsplit_once(':') {
        Some((before, port)) if !before.contains(':') || before.ends_with(']') => {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { before } else { name }
        }
        _ => name,
    };
    let bare = bare.trim_start_matches('[').trim_end_matches(']');
    if bare.is_empty() || bare == "." || same_name(bare, "localhost") || bare.parse::<IpAddr>().is_ok() {
        return true;
    }
    let first = |text: &str| text.split('.').next().unwrap_or_default().to_ascii_lowercase();
    first(bare) == first(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_known_by_short_and_long_name_by_address_and_with_a_port() {
        for name in
            ["kvm1", "KVM1.example.org", "kvm1:5985", ".", "localhost", "10.0.0.7", "[::1]:5986", "::1", ""]
        {
            assert!(is_this_host(name, "kvm1.example.net"), "{name}");
        }
        for name in ["kvm2", "kvm2.example.net", "kvm10", "kvm"] {
            assert!(!is_this_host(name, "kvm1.example.net"), "{name}");
        }
    }

    #[test]
    fn a_path_of_another_namespace_or_host_is_elsewhere() {
        let schema = Schema::default();
        let namespace = Namespace::from_static("root/virtualization/v2");
        let context = Context { schema: &schema, namespace: &namespace, host: "kvm1" };
        let here = ObjectPath::new("X", Vec::new());
        assert_eq!(context.elsewhere(&here), None);
        assert_eq!(context.elsewhere(&here.clone().within(Namespace::new(r"ROOT\Virtualization\V2"))), None);
        assert!(context.elsewhere(&here.clone().within(Namespace::new("root/cimv2"))).is_some());
        let mut there = here;
        there.host = Some("kvm2".into());
        assert!(context.elsewhere(&there).is_some_and(|reason| reason.contains("kvm2")));
    }
}

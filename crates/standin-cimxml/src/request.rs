//! The message: which operation, on what, with which arguments.

use crate::http::{Refusal, is_version_1};
use roxmltree::Node;
use standin_cim::xml::read_path::{attribute, children, is_path, name, only};
use standin_cim::xml::{self, Limits, XmlError, read};
use standin_cim::{CimError, Keys, MethodCall, Named, Namespace, StatusCode};

/// A request.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The `ID` that the answer repeats.
    pub id: String,
    /// What is asked for.
    pub call: Call,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// An operation of the standard.
    Intrinsic {
        /// Its name.
        name: String,
        /// The namespace it works in.
        namespace: Namespace,
        /// Its arguments, or what is wrong with a value among them.
        arguments: Result<Vec<Named>, CimError>,
    },
    /// A method of a class.
    Extrinsic {
        /// Its name.
        name: String,
        /// The call, or what is wrong with a value in it.
        call: Result<MethodCall, CimError>,
    },
}

/// Operations that change classes or qualifiers. Their arguments are not read: they are refused whatever they are.
const SCHEMA_CHANGES: [&str; 6] =
    ["CreateClass", "ModifyClass", "DeleteClass", "SetQualifier", "DeleteQualifier", "SetProperty"];

/// Reads a message.
///
/// # Errors
/// The text is not well-formed, is beyond the limits, is no request of DSP0201, or is of a version that is not
/// served.
pub fn read(text: &str) -> Result<Message, Refusal> {
    let document = xml::parse(text, &Limits::REQUEST)
        .map_err(|error| Refusal::bad("request-not-well-formed", error.to_string()))?;
    let cim = document.root_element();
    let message = inside(cim, "CIM", "MESSAGE")?;
    version(cim, "CIMVERSION", "unsupported-cim-version", |version| version.starts_with("2."))?;
    version(cim, "DTDVERSION", "unsupported-dtd-version", |version| version.starts_with("2."))?;
    let id = attribute(message, "ID").map_err(invalid)?.to_owned();
    version(message, "PROTOCOLVERSION", "unsupported-protocol-version", is_version_1)?;
    let request = only(message, "SIMPLEREQ").map_err(invalid)?;
    if name(request) == "MULTIREQ" {
        return Err(Refusal::unsupported("multiple-requests-unsupported", "send one request in a message"));
    }
    let request =
        if name(request) == "SIMPLEREQ" { request } else { inside(message, "MESSAGE", "SIMPLEREQ")? };
    // A correlator is a client's own mark.
    let mut calls = children(request).filter(|child| name(*child) != "CORRELATOR");
    let call = calls.next().ok_or_else(|| Refusal::bad("request-not-valid", "<SIMPLEREQ> lacks a call"))?;
    if calls.next().is_some() {
        return Err(Refusal::bad("request-not-valid", "<SIMPLEREQ> has more than one call"));
    }
    let call = match name(call) {
        "IMETHODCALL" => intrinsic(call)?,
        "METHODCALL" => extrinsic(call)?,
        other => return Err(Refusal::bad("request-not-valid", format!("<{other}> is no call"))),
    };
    Ok(Message { id, call })
}

/// The one element in `node`, which must have those names.
fn inside<'a, 'i>(
    node: Node<'a, 'i>,
    named: &'static str,
    child: &'static str,
) -> Result<Node<'a, 'i>, Refusal> {
    if name(node) != named {
        return Err(invalid(XmlError::Wanted { found: name(node).to_owned(), wanted: named }));
    }
    let found = only(node, child).map_err(invalid)?;
    if name(found) != child {
        return Err(invalid(XmlError::Wanted { found: name(found).to_owned(), wanted: child }));
    }
    Ok(found)
}

fn version(
    node: Node<'_, '_>,
    which: &'static str,
    refusal: &'static str,
    served: impl Fn(&str) -> bool,
) -> Result<(), Refusal> {
    let version = attribute(node, which).map_err(invalid)?;
    if served(version.trim()) {
        return Ok(());
    }
    Err(Refusal::unsupported(refusal, format!("{which} {:?} is not served", xml::error::shorten(version))))
}

fn invalid(error: XmlError) -> Refusal {
    Refusal::bad("request-not-valid", error.to_string())
}

/// A value that does not fit its type is an error of the operation; anything else is of the message.
fn value_or_refusal<T>(read: Result<T, XmlError>) -> Result<Result<T, CimError>, Refusal> {
    match read {
        Ok(value) => Ok(Ok(value)),
        Err(
            error @ (XmlError::Value { .. }
            | XmlError::Doctype
            | XmlError::Limit { .. }
            | XmlError::Malformed(_)),
        ) => Ok(Err(CimError::new(StatusCode::InvalidParameter, error.to_string()))),
        Err(error) => Err(invalid(error)),
    }
}

fn intrinsic(node: Node<'_, '_>) -> Result<Call, Refusal> {
    let method = attribute(node, "NAME").map_err(invalid)?.trim().to_owned();
    let mut inside = children(node);
    let space =
        inside.next().ok_or_else(|| Refusal::bad("request-not-valid", "<IMETHODCALL> lacks a namespace"))?;
    let namespace = read::namespace(space).map_err(invalid)?;
    if SCHEMA_CHANGES.iter().any(|name| name.eq_ignore_ascii_case(&method)) {
        return Ok(Call::Intrinsic { name: method, namespace, arguments: Ok(Vec::new()) });
    }
    let mut arguments = Ok(Vec::new());
    for child in inside {
        if name(child) != "IPARAMVALUE" {
            return Err(invalid(xml::read_path::unexpected(child, node)));
        }
        add(&mut arguments, value_or_refusal(read::parameter(child))?);
    }
    Ok(Call::Intrinsic { name: method, namespace, arguments })
}

fn extrinsic(node: Node<'_, '_>) -> Result<Call, Refusal> {
    let method = attribute(node, "NAME").map_err(invalid)?.trim().to_owned();
    let mut inside = children(node);
    let target = inside.next().filter(|target| is_path(*target));
    let target = target
        .ok_or_else(|| Refusal::bad("request-not-valid", "<METHODCALL> lacks the path of its target"))?;
    let target = value_or_refusal(read::path(target))?;
    if let Ok(target) = &target {
        if target.namespace.is_none() {
            return Err(Refusal::bad(
                "request-not-valid",
                "the target of a <METHODCALL> lacks its namespace",
            ));
        }
    }
    let mut arguments = Ok(Vec::new());
    for child in inside {
        if name(child) != "PARAMVALUE" {
            return Err(invalid(xml::read_path::unexpected(child, node)));
        }
        add(&mut arguments, value_or_refusal(read::parameter(child))?);
    }
    let call = match (target, arguments) {
        (Ok(target), Ok(arguments)) => Ok(MethodCall { target, method: method.clone(), arguments }),
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    Ok(Call::Extrinsic { name: method, call })
}

/// Keeps the first error.
fn add(arguments: &mut Result<Vec<Named>, CimError>, argument: Result<Named, CimError>) {
    match (arguments.as_mut(), argument) {
        (Ok(arguments), Ok(argument)) => arguments.push(argument),
        (Ok(_), Err(error)) => *arguments = Err(error),
        (Err(_), _) => {}
    }
}

impl Message {
    /// Whether the headers name the same operation and object as the body (DSP0200 6.2).
    ///
    /// # Errors
    /// They do not.
    pub fn agree(&self, method: &str, object: &str) -> Result<(), Refusal> {
        let (name, agrees) = match &self.call {
            Call::Intrinsic { name, namespace, .. } => (name, Namespace::new(object) == *namespace),
            Call::Extrinsic { name, call } => {
                (name, call.as_ref().map_or(true, |call| is_target(object, call)))
            }
        };
        if !name.eq_ignore_ascii_case(method) {
            let detail = format!("the header CIMMethod is not {name}, as the body is");
            return Err(Refusal::bad("header-mismatch", detail));
        }
        if agrees {
            Ok(())
        } else {
            Err(Refusal::bad("header-mismatch", "the header CIMObject is not the body's object"))
        }
    }
}

/// Whether a header can mean the target: the same namespace and class. Keys are not looked at, because clients
/// write them in forms of their own.
fn is_target(object: &str, call: &MethodCall) -> bool {
    let (namespace, rest) = match object.split_once(':') {
        Some((namespace, rest)) => (namespace, rest),
        None => return false,
    };
    let class = rest.split(['.', '=']).next().unwrap_or_default();
    let keys = rest.len() > class.len();
    call.target.namespace.as_ref() == Some(&Namespace::new(namespace))
        && class.eq_ignore_ascii_case(&call.target.class)
        && !(keys && call.target.keys == Keys::None)
}

#[cfg(test)]
mod tests;

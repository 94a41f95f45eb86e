//! Reading the elements that name something: namespaces, hosts, classes, instances.

use super::error::{XmlError, shorten};
use crate::{CimType, Key, KeyValue, Keys, Namespace, ObjectPath, Text, Value};
use roxmltree::Node;

/// The elements inside an element.
pub fn children<'a, 'i>(node: Node<'a, 'i>) -> impl Iterator<Item = Node<'a, 'i>> {
    node.children().filter(Node::is_element)
}

/// The name of an element, without a prefix.
#[must_use]
pub fn name<'a>(node: Node<'a, '_>) -> &'a str {
    node.tag_name().name()
}

/// The one element inside.
///
/// # Errors
/// There is none (it is said to lack `what`), or a second one.
pub fn only<'a, 'i>(node: Node<'a, 'i>, what: &'static str) -> Result<Node<'a, 'i>, XmlError> {
    let mut inside = children(node);
    let first = inside.next().ok_or_else(|| XmlError::Missing { element: name(node).to_owned(), what })?;
    match inside.next() {
        Some(second) => Err(unexpected(second, node)),
        None => Ok(first),
    }
}

/// The two elements inside.
///
/// # Errors
/// There are fewer or more.
pub fn pair<'a, 'i>(
    node: Node<'a, 'i>,
    what: &'static str,
) -> Result<(Node<'a, 'i>, Node<'a, 'i>), XmlError> {
    let mut inside = children(node);
    match (inside.next(), inside.next(), inside.next()) {
        (Some(first), Some(second), None) => Ok((first, second)),
        (_, _, Some(third)) => Err(unexpected(third, node)),
        _ => Err(XmlError::Missing { element: name(node).to_owned(), what }),
    }
}

/// An attribute that an element must have.
///
/// # Errors
/// It is not there.
pub fn attribute<'a>(node: Node<'a, '_>, attribute: &'static str) -> Result<&'a str, XmlError> {
    node.attribute(attribute)
        .ok_or_else(|| XmlError::Missing { element: name(node).to_owned(), what: attribute })
}

/// An attribute that is a name of CIM.
///
/// # Errors
/// It is not there, or is no name.
pub fn name_attribute<'a>(node: Node<'a, '_>, which: &'static str) -> Result<&'a str, XmlError> {
    let value = attribute(node, which)?.trim();
    if crate::path_text::is_name(value) {
        return Ok(value);
    }
    Err(XmlError::Attribute { element: name(node).to_owned(), attribute: which, value: shorten(value) })
}

/// The text of an element without elements inside.
///
/// # Errors
/// It has elements inside.
pub fn text(node: Node<'_, '_>) -> Result<String, XmlError> {
    let mut all = String::new();
    for child in node.children() {
        if child.is_element() {
            return Err(unexpected(child, node));
        }
        // The text of a comment is no text of the element.
        if child.is_text() {
            all.push_str(child.text().unwrap_or_default());
        }
    }
    Ok(all)
}

/// The error that `node` may not stand in `parent`.
#[must_use]
pub fn unexpected(node: Node<'_, '_>, parent: Node<'_, '_>) -> XmlError {
    XmlError::Unexpected { element: name(node).to_owned(), parent: name(parent).to_owned() }
}

/// `LOCALNAMESPACEPATH`.
///
/// # Errors
/// It is another element or holds anything but `NAMESPACE`s.
pub fn namespace(node: Node<'_, '_>) -> Result<Namespace, XmlError> {
    if name(node) != "LOCALNAMESPACEPATH" {
        return Err(XmlError::Wanted { found: name(node).to_owned(), wanted: "LOCALNAMESPACEPATH" });
    }
    let mut parts = Vec::new();
    for part in children(node) {
        if name(part) != "NAMESPACE" {
            return Err(unexpected(part, node));
        }
        parts.push(attribute(part, "NAME")?.trim());
    }
    if parts.is_empty() {
        return Err(XmlError::Missing { element: name(node).to_owned(), what: "NAMESPACE" });
    }
    Ok(Namespace::new(&parts.join("/")))
}

/// `NAMESPACEPATH`: a host and a namespace.
fn full_namespace(node: Node<'_, '_>) -> Result<(Text, Namespace), XmlError> {
    if name(node) != "NAMESPACEPATH" {
        return Err(XmlError::Wanted { found: name(node).to_owned(), wanted: "NAMESPACEPATH" });
    }
    let (host, local) = pair(node, "HOST and LOCALNAMESPACEPATH")?;
    if name(host) != "HOST" {
        return Err(unexpected(host, node));
    }
    Ok((Text::Owned(text(host)?.trim().to_owned()), namespace(local)?))
}

/// Whether [`path`] reads that element.
#[must_use]
pub fn is_path(node: Node<'_, '_>) -> bool {
    matches!(
        name(node),
        "INSTANCENAME" | "LOCALINSTANCEPATH" | "INSTANCEPATH" | "CLASSNAME" | "LOCALCLASSPATH" | "CLASSPATH"
    )
}

/// Any element that names an instance or a class: `INSTANCENAME`, `LOCALINSTANCEPATH`, `INSTANCEPATH`, `CLASSNAME`,
/// `LOCALCLASSPATH`, `CLASSPATH`.
///
/// # Errors
/// It is none of them, or malformed.
pub fn path(node: Node<'_, '_>) -> Result<ObjectPath, XmlError> {
    match name(node) {
        "INSTANCENAME" => instance_name(node),
        "CLASSNAME" => Ok(ObjectPath {
            host: None,
            namespace: None,
            class: Text::Owned(name_attribute(node, "NAME")?.to_owned()),
            keys: Keys::None,
        }),
        "LOCALINSTANCEPATH" | "LOCALCLASSPATH" => {
            let (space, object) = pair(node, "LOCALNAMESPACEPATH and a name")?;
            Ok(named(node, object)?.within(namespace(space)?))
        }
        "INSTANCEPATH" | "CLASSPATH" => {
            let (space, object) = pair(node, "NAMESPACEPATH and a name")?;
            let (host, space) = full_namespace(space)?;
            Ok(ObjectPath { host: Some(host), ..named(node, object)?.within(space) })
        }
        other => {
            Err(XmlError::Wanted { found: other.to_owned(), wanted: "the path of an instance or a class" })
        }
    }
}

/// The name at the end of a path with a namespace.
fn named(parent: Node<'_, '_>, node: Node<'_, '_>) -> Result<ObjectPath, XmlError> {
    let wanted = if name(parent).contains("INSTANCE") { "INSTANCENAME" } else { "CLASSNAME" };
    if name(node) == wanted { path(node) } else { Err(unexpected(node, parent)) }
}

/// `INSTANCENAME`. One without keys is the only instance of its class.
///
/// # Errors
/// It is malformed; a single key without a name (`KEYVALUE` or `VALUE.REFERENCE` alone) is refused.
pub fn instance_name(node: Node<'_, '_>) -> Result<ObjectPath, XmlError> {
    if name(node) != "INSTANCENAME" {
        return Err(XmlError::Wanted { found: name(node).to_owned(), wanted: "INSTANCENAME" });
    }
    let class = Text::Owned(name_attribute(node, "CLASSNAME")?.to_owned());
    let mut keys = Vec::new();
    for binding in children(node) {
        if name(binding) != "KEYBINDING" {
            return Err(unexpected(binding, node));
        }
        let key = name_attribute(binding, "NAME")?;
        keys.push(Key {
            name: Text::Owned(key.to_owned()),
            value: key_value(key, only(binding, "KEYVALUE")?)?,
        });
    }
    let keys = if keys.is_empty() { Keys::Singleton } else { Keys::Named(keys) };
    Ok(ObjectPath { host: None, namespace: None, class, keys })
}

/// `KEYVALUE` or `VALUE.REFERENCE`.
fn key_value(key: &str, node: Node<'_, '_>) -> Result<KeyValue, XmlError> {
    match name(node) {
        "VALUE.REFERENCE" => Ok(KeyValue::Reference(Box::new(path(only(node, "a path")?)?))),
        "KEYVALUE" => {
            let said = text(node)?;
            let cim_type = node.attribute("TYPE").and_then(CimType::parse);
            let kind = node.attribute("VALUETYPE").unwrap_or("string");
            let wrong = |cim_type| XmlError::Value { name: key.to_owned(), cim_type, text: shorten(&said) };
            match (kind, cim_type) {
                ("boolean", _) | (_, Some(CimType::Boolean)) => match Value::parse(CimType::Boolean, &said) {
                    Some(Value::Boolean(value)) => Ok(KeyValue::Boolean(value)),
                    _ => Err(wrong(CimType::Boolean)),
                },
                ("numeric", _) => {
                    match (Value::parse(CimType::Uint64, &said), Value::parse(CimType::Sint64, &said)) {
                        (Some(Value::Uint64(value)), _) => Ok(KeyValue::Unsigned(value)),
                        (_, Some(Value::Sint64(value))) => Ok(KeyValue::Signed(value)),
                        _ => Err(wrong(cim_type.unwrap_or(CimType::Sint64))),
                    }
                }
                ("string", _) => Ok(KeyValue::Text(Text::Owned(said))),
                (other, _) => Err(XmlError::Attribute {
                    element: name(node).to_owned(),
                    attribute: "VALUETYPE",
                    value: shorten(other),
                }),
            }
        }
        _ => Err(XmlError::Wanted { found: name(node).to_owned(), wanted: "KEYVALUE or VALUE.REFERENCE" }),
    }
}

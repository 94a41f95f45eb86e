//! Reading values, properties, parameters and instances.
//!
//! An instance inside a text (`EmbeddedObject`) is read too; it may hold further ones, each escaped once more, to
//! a depth of [`EMBEDDED_DEPTH`].

use super::document::{self, Limits};
use super::error::{XmlError, shorten};
use super::read_path::{attribute, children, is_path, name, name_attribute, only, pair, text, unexpected};
use crate::{CimType, Instance, Named, Property, RawValue, Text, TypedValue, Value};
use roxmltree::Node;

pub use super::read_path::{instance_name, namespace, path};

/// How many texts may lie within each other.
pub const EMBEDDED_DEPTH: usize = 8;

/// The `INSTANCE` in a text, bare or as WMI wraps it in `CIM`, `DECLARATION`, `DECLGROUP` and `VALUE.OBJECT`.
///
/// # Errors
/// The text is no XML, or has no instance or more than one.
pub fn instance_text(text: &str) -> Result<Instance, XmlError> {
    instance_text_within(text, EMBEDDED_DEPTH)
}

fn instance_text_within(text: &str, depth: usize) -> Result<Instance, XmlError> {
    let depth =
        depth.checked_sub(1).ok_or(XmlError::Limit { what: "embedded instances", limit: EMBEDDED_DEPTH })?;
    let document = document::parse(text, &Limits::EMBEDDED)?;
    instance_within(unwrapped(document.root_element())?, depth)
}

/// The instance inside the elements that may stand around it.
fn unwrapped<'a, 'i>(mut node: Node<'a, 'i>) -> Result<Node<'a, 'i>, XmlError> {
    loop {
        node = match name(node) {
            "INSTANCE" => return Ok(node),
            "CIM"
            | "DECLARATION"
            | "DECLARATIONS"
            | "DECLGROUP"
            | "VALUE.OBJECT"
            | "VALUE.EMBEDDEDOBJECT" => only(node, "INSTANCE")?,
            "VALUE.NAMEDINSTANCE"
            | "VALUE.NAMEDOBJECT"
            | "VALUE.OBJECTWITHPATH"
            | "VALUE.INSTANCEWITHPATH" => pair(node, "a path and an INSTANCE")?.1,
            found => return Err(XmlError::Wanted { found: found.to_owned(), wanted: "INSTANCE" }),
        }
    }
}

/// `INSTANCE`. System properties (`__PATH`, those of the class `___SYSTEM`) are left out.
///
/// # Errors
/// It is malformed, or a value does not fit its type.
pub fn instance(node: Node<'_, '_>) -> Result<Instance, XmlError> {
    instance_within(node, EMBEDDED_DEPTH)
}

fn instance_within(node: Node<'_, '_>, depth: usize) -> Result<Instance, XmlError> {
    if name(node) != "INSTANCE" {
        return Err(XmlError::Wanted { found: name(node).to_owned(), wanted: "INSTANCE" });
    }
    let mut instance = Instance::new(name_attribute(node, "CLASSNAME")?.to_owned());
    for child in children(node) {
        match name(child) {
            "QUALIFIER" => {}
            element if element.starts_with("PROPERTY") => {
                let property = name_attribute(child, "NAME")?;
                let system =
                    property.starts_with("__") || child.attribute("CLASSORIGIN") == Some("___SYSTEM");
                if system {
                    continue;
                }
                if instance.property(property).is_some() {
                    return Err(XmlError::Attribute {
                        element: element.to_owned(),
                        attribute: "NAME",
                        value: format!("{property} a second time"),
                    });
                }
                let value = property_value(child, depth)?;
                instance.properties.push(Property { name: Text::Owned(property.to_owned()), value });
            }
            _ => return Err(unexpected(child, node)),
        }
    }
    Ok(instance)
}

/// `VALUE.NAMEDINSTANCE`: the instance has the name as its path.
///
/// # Errors
/// It is malformed.
pub fn named_instance(node: Node<'_, '_>) -> Result<Instance, XmlError> {
    if name(node) != "VALUE.NAMEDINSTANCE" {
        return Err(XmlError::Wanted { found: name(node).to_owned(), wanted: "VALUE.NAMEDINSTANCE" });
    }
    let (path, inner) = pair(node, "INSTANCENAME and INSTANCE")?;
    Ok(Instance { path: Some(instance_name(path)?), ..instance(inner)? })
}

/// The value of a `PROPERTY`, `PROPERTY.ARRAY`, `PROPERTY.REFERENCE`, or WMI's `PROPERTY.OBJECT` and
/// `PROPERTY.OBJECTARRAY`.
pub(super) fn property_value(node: Node<'_, '_>, depth: usize) -> Result<TypedValue, XmlError> {
    let values = || children(node).filter(|child| name(*child) != "QUALIFIER");
    let element = name(node);
    let (cim_type, array) = match element {
        "PROPERTY" => (type_of(node, "TYPE")?, false),
        "PROPERTY.ARRAY" => (type_of(node, "TYPE")?, true),
        "PROPERTY.REFERENCE" => (CimType::Reference, false),
        "PROPERTY.OBJECT" => (CimType::String, false),
        "PROPERTY.OBJECTARRAY" => (CimType::String, true),
        _ => return Err(XmlError::Wanted { found: element.to_owned(), wanted: "a PROPERTY" }),
    };
    let mut found = values();
    let Some(first) = found.next() else { return Ok(TypedValue { cim_type, array, value: None }) };
    if let Some(second) = found.next() {
        return Err(unexpected(second, node));
    }
    let wanted = if array {
        &["VALUE.ARRAY", "VALUE.REFARRAY", "VALUE.OBJECTARRAY"][..]
    } else {
        &["VALUE", "VALUE.REFERENCE", "VALUE.OBJECT"]
    };
    if !wanted.contains(&name(first)) {
        return Err(unexpected(first, node));
    }
    let asked =
        Asked { name: node.attribute("NAME").unwrap_or_default(), cim_type, embedded: embedded(node), depth };
    Ok(TypedValue { cim_type, array, value: asked.read(first)? })
}

/// `PARAMVALUE`, `IPARAMVALUE`, or `RETURNVALUE` without a name: what the wire says of type is kept.
///
/// # Errors
/// It is malformed, or a value does not fit the type that it says it has.
pub fn parameter(node: Node<'_, '_>) -> Result<Named, XmlError> {
    let parameter = attribute(node, "NAME")?.trim().to_owned();
    let mut found = children(node);
    let first = found.next();
    if let Some(second) = found.next() {
        return Err(unexpected(second, node));
    }
    let value = match first {
        None => RawValue::Null,
        Some(value) => parameter_value(node, &parameter, value)?,
    };
    Ok(Named { name: parameter, value })
}

fn parameter_value(node: Node<'_, '_>, parameter: &str, value: Node<'_, '_>) -> Result<RawValue, XmlError> {
    let asked =
        |cim_type| Asked { name: parameter, cim_type, embedded: embedded(node), depth: EMBEDDED_DEPTH };
    let said = node.attribute("PARAMTYPE").or_else(|| node.attribute("TYPE"));
    match name(value) {
        "VALUE" | "VALUE.ARRAY" if said.is_some() || embedded(node) => {
            let cim_type = match said {
                Some(_) => type_of(node, if node.has_attribute("PARAMTYPE") { "PARAMTYPE" } else { "TYPE" })?,
                None => CimType::String,
            };
            let array = name(value) == "VALUE.ARRAY";
            Ok(RawValue::Typed(TypedValue { cim_type, array, value: asked(cim_type).read(value)? }))
        }
        "VALUE" => Ok(RawValue::Text(text(value)?)),
        "VALUE.ARRAY" => children(value)
            .map(|element| match name(element) {
                "VALUE" => Ok(RawValue::Text(text(element)?)),
                "VALUE.NULL" => Ok(RawValue::Null),
                _ => Err(unexpected(element, value)),
            })
            .collect::<Result<_, _>>()
            .map(RawValue::Array),
        "VALUE.REFERENCE" => Ok(RawValue::Reference(path(only(value, "a path")?)?)),
        "VALUE.REFARRAY" => match asked(CimType::Reference).read(value)? {
            Some(read) => Ok(RawValue::Typed(TypedValue {
                cim_type: CimType::Reference,
                array: true,
                value: Some(read),
            })),
            None => Ok(RawValue::Null),
        },
        "INSTANCE" => Ok(RawValue::Instance(Box::new(instance(value)?))),
        "VALUE.NAMEDINSTANCE" => Ok(RawValue::Instance(Box::new(named_instance(value)?))),
        _ if is_path(value) => Ok(RawValue::Reference(path(value)?)),
        _ => Err(unexpected(value, node)),
    }
}

/// A type that an attribute says.
pub(super) fn type_of(node: Node<'_, '_>, which: &'static str) -> Result<CimType, XmlError> {
    let said = attribute(node, which)?;
    CimType::parse(said.trim()).ok_or_else(|| XmlError::Attribute {
        element: name(node).to_owned(),
        attribute: which,
        value: shorten(said),
    })
}

/// Whether the text of a property or parameter is an instance. Both spellings are in use.
fn embedded(node: Node<'_, '_>) -> bool {
    let said = node.attribute("EmbeddedObject").or_else(|| node.attribute("EMBEDDEDOBJECT"));
    matches!(said, Some("instance" | "object"))
}

/// What value is read.
pub(super) struct Asked<'n> {
    /// The property or parameter it belongs to.
    pub name: &'n str,
    pub cim_type: CimType,
    /// A text is an instance.
    pub embedded: bool,
    /// How many texts may lie within each other.
    pub depth: usize,
}

impl Asked<'_> {
    /// `VALUE`, `VALUE.ARRAY`, `VALUE.REFERENCE`, `VALUE.REFARRAY`, `VALUE.OBJECT`, `VALUE.OBJECTARRAY`, `VALUE.NULL`.
    pub(super) fn read(&self, node: Node<'_, '_>) -> Result<Option<Value>, XmlError> {
        Ok(Some(match name(node) {
            "VALUE.NULL" => return Ok(None),
            "VALUE" => self.scalar(&text(node)?)?,
            "VALUE.REFERENCE" => Value::Reference(Box::new(path(only(node, "a path")?)?)),
            "VALUE.OBJECT" => {
                Value::Instance(Box::new(instance_within(only(node, "INSTANCE")?, self.depth)?))
            }
            "VALUE.ARRAY" | "VALUE.REFARRAY" | "VALUE.OBJECTARRAY" => Value::Array(
                children(node)
                    .map(|element| match name(element) {
                        "VALUE" | "VALUE.NULL" | "VALUE.REFERENCE" | "VALUE.OBJECT" => self.read(element),
                        _ => Err(unexpected(element, node)),
                    })
                    .collect::<Result<_, _>>()?,
            ),
            _ => return Err(XmlError::Wanted { found: name(node).to_owned(), wanted: "a VALUE" }),
        }))
    }

    fn scalar(&self, text: &str) -> Result<Value, XmlError> {
        if self.embedded && self.cim_type == CimType::String {
            return Ok(Value::Instance(Box::new(instance_text_within(text, self.depth)?)));
        }
        Value::parse(self.cim_type, text).ok_or_else(|| XmlError::Value {
            name: self.name.to_owned(),
            cim_type: self.cim_type,
            text: shorten(text),
        })
    }
}

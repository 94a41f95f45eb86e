//! Reading classes, as a client's class definition or another server's answer has them.

use super::error::XmlError;
use super::read::{Asked, EMBEDDED_DEPTH, property_value, type_of};
use super::read_path::{children, name, name_attribute, unexpected};
use crate::{
    CimType, Class, MethodDecl, ParameterDecl, PropertyDecl, Qualifier, Text, TypedValue, Value, same_name,
};
use roxmltree::Node;

/// `CLASS`. What qualifiers say (key, association, in and out, embedded instances) is taken from them.
///
/// # Errors
/// It is malformed, or a value does not fit its type.
pub fn class(node: Node<'_, '_>) -> Result<Class, XmlError> {
    if name(node) != "CLASS" {
        return Err(XmlError::Wanted { found: name(node).to_owned(), wanted: "CLASS" });
    }
    let class_name = Text::Owned(name_attribute(node, "NAME")?.to_owned());
    let superclass = match node.has_attribute("SUPERCLASS") {
        true => Some(Text::Owned(name_attribute(node, "SUPERCLASS")?.to_owned())),
        false => None,
    };
    let qualifiers = qualifiers(node)?;
    let mut class = Class {
        association: is(&qualifiers, "Association"),
        is_abstract: is(&qualifiers, "Abstract"),
        name: class_name,
        superclass,
        properties: Vec::new(),
        methods: Vec::new(),
        qualifiers,
    };
    for child in children(node) {
        match name(child) {
            "QUALIFIER" => {}
            "METHOD" => class.methods.push(method(child, &class.name)?),
            element if element.starts_with("PROPERTY") => {
                class.properties.push(property(child, &class.name)?)
            }
            _ => return Err(unexpected(child, node)),
        }
    }
    Ok(class)
}

fn property(node: Node<'_, '_>, class: &Text) -> Result<PropertyDecl, XmlError> {
    let qualifiers = qualifiers(node)?;
    Ok(PropertyDecl {
        name: Text::Owned(name_attribute(node, "NAME")?.to_owned()),
        default: property_value(node, EMBEDDED_DEPTH)?,
        reference_class: owned(node, "REFERENCECLASS"),
        embedded_class: embedded_class(&qualifiers),
        key: is(&qualifiers, "Key"),
        writable: is(&qualifiers, "Write"),
        origin: owned(node, "CLASSORIGIN").unwrap_or_else(|| class.clone()),
        qualifiers,
    })
}

fn method(node: Node<'_, '_>, class: &Text) -> Result<MethodDecl, XmlError> {
    let mut parameters = Vec::new();
    for child in children(node) {
        match name(child) {
            "QUALIFIER" => {}
            element if element.starts_with("PARAMETER") => parameters.push(parameter(child)?),
            _ => return Err(unexpected(child, node)),
        }
    }
    Ok(MethodDecl {
        name: Text::Owned(name_attribute(node, "NAME")?.to_owned()),
        returns: type_of(node, "TYPE")?,
        parameters,
        origin: owned(node, "CLASSORIGIN").unwrap_or_else(|| class.clone()),
        qualifiers: qualifiers(node)?,
    })
}

fn parameter(node: Node<'_, '_>) -> Result<ParameterDecl, XmlError> {
    let (cim_type, array) = match name(node) {
        "PARAMETER" => (type_of(node, "TYPE")?, false),
        "PARAMETER.ARRAY" => (type_of(node, "TYPE")?, true),
        "PARAMETER.REFERENCE" => (CimType::Reference, false),
        "PARAMETER.REFARRAY" => (CimType::Reference, true),
        other => return Err(XmlError::Wanted { found: other.to_owned(), wanted: "a PARAMETER" }),
    };
    let qualifiers = qualifiers(node)?;
    Ok(ParameterDecl {
        name: Text::Owned(name_attribute(node, "NAME")?.to_owned()),
        cim_type,
        array,
        reference_class: owned(node, "REFERENCECLASS"),
        embedded_class: embedded_class(&qualifiers),
        // DSP0004: a parameter is an input unless In says otherwise.
        input: find(&qualifiers, "In")
            .is_none_or(|qualifier| qualifier.value.value == Some(Value::Boolean(true))),
        output: is(&qualifiers, "Out"),
        required: is(&qualifiers, "Required"),
        qualifiers,
    })
}

/// The qualifiers of an element.
fn qualifiers(node: Node<'_, '_>) -> Result<Vec<Qualifier>, XmlError> {
    children(node).filter(|child| name(*child) == "QUALIFIER").map(qualifier).collect()
}

fn qualifier(node: Node<'_, '_>) -> Result<Qualifier, XmlError> {
    let said = node.attribute("NAME").unwrap_or_default();
    let cim_type = type_of(node, "TYPE")?;
    let asked = Asked { name: said, cim_type, embedded: false, depth: EMBEDDED_DEPTH };
    let value = match children(node).next() {
        Some(value) => asked.read(value)?,
        None => None,
    };
    let array = matches!(value, Some(Value::Array(_)));
    Ok(Qualifier {
        name: Text::Owned(name_attribute(node, "NAME")?.to_owned()),
        value: TypedValue { cim_type, array, value },
    })
}

fn find<'a>(qualifiers: &'a [Qualifier], name: &str) -> Option<&'a Qualifier> {
    qualifiers.iter().find(|qualifier| same_name(&qualifier.name, name))
}

fn is(qualifiers: &[Qualifier], name: &str) -> bool {
    find(qualifiers, name).is_some_and(|qualifier| qualifier.value.value == Some(Value::Boolean(true)))
}

/// The class of an embedded instance; empty where any class will do.
fn embedded_class(qualifiers: &[Qualifier]) -> Option<Text> {
    match &find(qualifiers, "EmbeddedInstance")?.value.value {
        Some(Value::String(class)) => Some(Text::Owned(class.clone())),
        _ => None,
    }
}

fn owned(node: Node<'_, '_>, attribute: &str) -> Option<Text> {
    node.attribute(attribute).map(|value| Text::Owned(value.to_owned()))
}

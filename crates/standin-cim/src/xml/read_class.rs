//! Reading classes, as a client's class definition or another server's answer has them.

use super::error::XmlError;
use super::read::{Asked, EMBEDDED_DEPTH, property_value, type_of};
use super::read_path::{children, name, name_attribute, unexpected};
use crate::qualifier::{QualifierDecl, QualifierScope};
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

/// `QUALIFIER.DECLARATION`.
///
/// # Errors
/// It is malformed, or its default does not fit its type.
pub fn qualifier_declaration(node: Node<'_, '_>) -> Result<QualifierDecl, XmlError> {
    if name(node) != "QUALIFIER.DECLARATION" {
        return Err(XmlError::Wanted { found: name(node).to_owned(), wanted: "QUALIFIER.DECLARATION" });
    }
    let cim_type = type_of(node, "TYPE")?;
    let said = |attribute: &str, default: bool| match node.attribute(attribute) {
        Some(value) => same_name(value, "true"),
        None => default,
    };
    let mut declared = QualifierDecl {
        name: Text::Owned(name_attribute(node, "NAME")?.to_owned()),
        default: TypedValue { cim_type, array: said("ISARRAY", false), value: None },
        scopes: Vec::new(),
        overridable: said("OVERRIDABLE", true),
        to_subclass: said("TOSUBCLASS", true),
        translatable: said("TRANSLATABLE", false),
    };
    for child in children(node) {
        if name(child) == "SCOPE" {
            let on = child.attributes().filter(|attribute| same_name(attribute.value(), "true"));
            declared.scopes = on.filter_map(|attribute| scope(attribute.name())).collect();
        } else {
            let asked = Asked { name: &declared.name, cim_type, embedded: false, depth: EMBEDDED_DEPTH };
            declared.default.value = asked.read(child)?;
        }
    }
    Ok(declared)
}

fn scope(name: &str) -> Option<QualifierScope> {
    const ALL: [QualifierScope; 7] = [
        QualifierScope::Class,
        QualifierScope::Association,
        QualifierScope::Indication,
        QualifierScope::Property,
        QualifierScope::Reference,
        QualifierScope::Method,
        QualifierScope::Parameter,
    ];
    ALL.into_iter().find(|scope| same_name(scope.as_str(), name))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;
    use crate::xml::write_class::{self, ClassOptions};
    use crate::xml::{Limits, parse};

    #[test]
    fn every_class_of_the_schema_survives_its_xml() {
        let declarations = schema::qualifiers();
        let options = ClassOptions { class_origin: true, declarations, ..ClassOptions::default() };
        for class in schema::virtualization().classes() {
            let mut text = String::new();
            write_class::class(&mut text, class, &options);
            let limits = Limits { bytes: usize::MAX, ..Limits::REQUEST };
            let document = parse(&text, &limits).unwrap();
            let read = super::class(document.root_element()).unwrap();
            assert_eq!((&read.name, &read.superclass), (&class.name, &class.superclass));
            assert_eq!(
                (read.association, read.is_abstract),
                (class.association, class.is_abstract),
                "{}",
                class.name
            );
            assert_eq!(read.properties, class.properties, "{}", class.name);
            assert_eq!(read.methods, class.methods, "{}", class.name);
        }
    }

    #[test]
    fn every_declaration_of_a_qualifier_survives_its_xml() {
        for declared in schema::qualifiers() {
            let mut text = String::new();
            write_class::qualifier_declaration(&mut text, declared);
            let document = parse(&text, &Limits::REQUEST).unwrap();
            let mut read = qualifier_declaration(document.root_element()).unwrap();
            read.scopes.sort_by_key(|scope| scope.as_str());
            let mut declared = declared.clone();
            if declared.scopes.contains(&QualifierScope::Any) {
                assert_eq!(read.scopes.len(), 7, "any is all of them");
                declared.scopes.clone_from(&read.scopes);
            }
            declared.scopes.sort_by_key(|scope| scope.as_str());
            assert_eq!(read, declared);
        }
    }

    #[test]
    fn what_is_asked_for_of_a_class_is_written() {
        let schema = schema::virtualization();
        let class = schema.classes().iter().find(|class| class.superclass.is_some()).unwrap();
        let local = ClassOptions { local_only: true, qualifiers: false, ..ClassOptions::default() };
        let mut text = String::new();
        write_class::class(&mut text, class, &local);
        let document = parse(&text, &Limits::REQUEST).unwrap();
        let read = super::class(document.root_element()).unwrap();
        let own = class.properties.iter().filter(|property| property.origin == class.name).count();
        assert_eq!(read.properties.len(), own);
        assert!(read.properties.iter().all(|property| property.qualifiers.is_empty()));
    }
}

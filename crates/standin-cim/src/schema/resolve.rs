//! From the tables to classes with everything they inherit.

use super::rows::{ClassRow, ElementRow, Literal, MethodRow, QualifierRow, SaidRow};
use crate::{
    CimType, Class, MethodDecl, ParameterDecl, PropertyDecl, Qualifier, QualifierDecl, QualifierScope,
    Schema, Text, TypedValue, Value, same_name,
};
use std::sync::Arc;

/// The classes of a table, in which a base stands before what is derived from it.
pub(super) fn schema(rows: &[ClassRow]) -> Arc<Schema> {
    let mut classes: Vec<Class> = Vec::with_capacity(rows.len());
    for row in rows {
        let base = classes.iter().find(|class| same_name(&class.name, row.superclass));
        let class = class(row, base);
        classes.push(class);
    }
    Arc::new(Schema::new(classes))
}

/// The declaration of a qualifier.
pub(super) fn declaration(row: &QualifierRow) -> QualifierDecl {
    const SCOPES: [QualifierScope; 8] = [
        QualifierScope::Class,
        QualifierScope::Association,
        QualifierScope::Indication,
        QualifierScope::Property,
        QualifierScope::Reference,
        QualifierScope::Method,
        QualifierScope::Parameter,
        QualifierScope::Any,
    ];
    let flavor = |name: &str| row.flavors.iter().any(|flavor| same_name(flavor, name));
    let scope = |name: &&str| SCOPES.into_iter().find(|scope| same_name(scope.as_str(), name));
    QualifierDecl {
        name: Text::Borrowed(row.name),
        default: typed(cim_type(row.cim_type), row.array, row.default),
        scopes: row.scopes.iter().filter_map(scope).collect(),
        overridable: !flavor("DisableOverride"),
        to_subclass: !flavor("Restricted"),
        translatable: flavor("Translatable"),
    }
}

fn class(row: &ClassRow, base: Option<&Class>) -> Class {
    let name = Text::Borrowed(row.name);
    let qualifiers = inherited(base.map(|base| &base.qualifiers[..]), row.qualifiers);
    let mut properties: Vec<PropertyDecl> = base.map(|base| base.properties.clone()).unwrap_or_default();
    properties.iter_mut().for_each(|property| drop_own(&mut property.qualifiers));
    for element in row.properties {
        let place = properties.iter().position(|property| same_name(&property.name, element.name));
        match place {
            Some(at) => properties[at] = property(&name, element, Some(&properties[at])),
            None => properties.push(property(&name, element, None)),
        }
    }
    let mut methods: Vec<MethodDecl> = base.map(|base| base.methods.clone()).unwrap_or_default();
    methods.iter_mut().for_each(|method| drop_own(&mut method.qualifiers));
    for found in row.methods {
        let place = methods.iter().position(|method| same_name(&method.name, found.name));
        match place {
            Some(at) => methods[at] = method(&name, found, Some(&methods[at])),
            None => methods.push(method(&name, found, None)),
        }
    }
    let superclass = (!row.superclass.is_empty()).then_some(Text::Borrowed(row.superclass));
    let (association, is_abstract) = (holds(&qualifiers, "Association"), holds(&qualifiers, "Abstract"));
    Class { name, superclass, association, is_abstract, properties, methods, qualifiers }
}

fn property(origin: &Text, row: &ElementRow, base: Option<&PropertyDecl>) -> PropertyDecl {
    let qualifiers = inherited(base.map(|base| &base.qualifiers[..]), row.qualifiers);
    let cim_type = if row.reference { CimType::Reference } else { cim_type(row.cim_type) };
    let mut default = typed(cim_type, row.array, row.default);
    if let (None, Some(base)) = (&default.value, base) {
        default.value.clone_from(&base.default.value);
    }
    PropertyDecl {
        // The spelling of the base is that of its instances.
        name: base.map_or(Text::Borrowed(row.name), |base| base.name.clone()),
        default,
        reference_class: row.reference.then_some(Text::Borrowed(row.cim_type)),
        embedded_class: text(&qualifiers, "EmbeddedInstance"),
        key: holds(&qualifiers, "Key"),
        writable: holds(&qualifiers, "Write"),
        origin: origin.clone(),
        qualifiers,
    }
}

fn method(origin: &Text, row: &MethodRow, base: Option<&MethodDecl>) -> MethodDecl {
    MethodDecl {
        name: base.map_or(Text::Borrowed(row.name), |base| base.name.clone()),
        returns: cim_type(row.returns),
        parameters: row.parameters.iter().map(parameter).collect(),
        origin: origin.clone(),
        qualifiers: inherited(base.map(|base| &base.qualifiers[..]), row.qualifiers),
    }
}

fn parameter(row: &ElementRow) -> ParameterDecl {
    let qualifiers = inherited(None, row.qualifiers);
    ParameterDecl {
        name: Text::Borrowed(row.name),
        cim_type: if row.reference { CimType::Reference } else { cim_type(row.cim_type) },
        array: row.array,
        reference_class: row.reference.then_some(Text::Borrowed(row.cim_type)),
        embedded_class: text(&qualifiers, "EmbeddedInstance"),
        // `In` is true where nothing is said.
        input: holds(&qualifiers, "In") || !qualifiers.iter().any(|found| found.name == "In"),
        output: holds(&qualifiers, "Out"),
        required: holds(&qualifiers, "Required"),
        qualifiers,
    }
}

/// What a class says itself, and what its base says and lets it inherit.
fn inherited(base: Option<&[Qualifier]>, own: &[SaidRow]) -> Vec<Qualifier> {
    // Values without their names, or with other names, would say something wrong: they come as a pair.
    let pair = |name: &str| matches!(name, "ValueMap" | "Values");
    let own_pair = own.iter().any(|(name, _)| pair(name));
    let said = |name: &str| own.iter().any(|(own, _)| *own == name) || (own_pair && pair(name));
    let above =
        base.unwrap_or_default().iter().filter(|above| is_inherited(&above.name) && !said(&above.name));
    own.iter().map(qualifier).chain(above.cloned()).collect()
}

fn drop_own(qualifiers: &mut Vec<Qualifier>) {
    qualifiers.retain(|qualifier| is_inherited(&qualifier.name));
}

fn declared(name: &str) -> Option<&'static QualifierRow> {
    super::QUALIFIERS.iter().find(|row| row.name == name)
}

fn is_inherited(name: &str) -> bool {
    declared(name).is_some_and(|row| !row.flavors.contains(&"Restricted"))
}

fn qualifier((name, value): &SaidRow) -> Qualifier {
    let (cim_type, array) =
        declared(name).map_or((CimType::String, false), |row| (cim_type(row.cim_type), row.array));
    Qualifier { name: Text::Borrowed(name), value: typed(cim_type, array, *value) }
}

fn cim_type(name: &str) -> CimType {
    // The build knows the types that there are.
    CimType::parse(name).unwrap_or(CimType::String)
}

fn typed(cim_type: CimType, array: bool, literal: Literal) -> TypedValue {
    TypedValue { cim_type, array, value: value(cim_type, literal) }
}

fn value(cim_type: CimType, literal: Literal) -> Option<Value> {
    match literal {
        Literal::Null => None,
        Literal::Boolean(value) => Some(Value::Boolean(value)),
        Literal::Text(text) => Value::parse(cim_type, text),
        Literal::Array(elements) => {
            Some(Value::Array(elements.iter().map(|element| value(cim_type, *element)).collect()))
        }
    }
}

fn holds(qualifiers: &[Qualifier], name: &str) -> bool {
    let said = qualifiers.iter().find(|qualifier| qualifier.name == name);
    said.is_some_and(|said| said.value.value == Some(Value::Boolean(true)))
}

fn text(qualifiers: &[Qualifier], name: &str) -> Option<Text> {
    match &qualifiers.iter().find(|qualifier| qualifier.name == name)?.value.value {
        Some(Value::String(text)) => Some(Text::Owned(text.clone())),
        _ => None,
    }
}

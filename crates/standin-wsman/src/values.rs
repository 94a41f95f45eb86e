//! Reading what a client gives: arguments of a method, properties of a Put or Create. The wire does not say types;
//! what it does say (references, date and time, nulls, objects) is kept, the rest stays text.

use crate::epr;
use crate::fault::{Fault, Kind};
use crate::names;
use crate::tree::{elements, is_nil, text, typed_class};
use roxmltree::Node;
use standin_cim::{
    CimType, Datetime, Instance, Named, Property, RawValue, Schema, Text, TypedValue, Value, same_name, xml,
};

/// Reads the children of an element as named values; those of one name are one array.
///
/// # Errors
/// `InvalidParameter` for a reference that is none.
pub fn named(parent: Node<'_, '_>, schema: &Schema) -> Result<Vec<Named>, Fault> {
    let mut read: Vec<Named> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for node in elements(parent) {
        let name = node.tag_name().name();
        let value = value(node, schema)?;
        match places.get(name).and_then(|at: &usize| read.get_mut(*at)) {
            Some(earlier) => append(&mut earlier.value, value),
            None => {
                places.insert(name, read.len());
                read.push(Named { name: name.to_owned(), value });
            }
        }
    }
    Ok(read)
}

fn append(place: &mut RawValue, value: RawValue) {
    match place {
        RawValue::Array(values) => values.push(value),
        single => {
            let first = std::mem::replace(single, RawValue::Null);
            *single = RawValue::Array(vec![first, value]);
        }
    }
}

/// Where the declaration says array, one element is an array of one.
#[must_use]
pub fn as_declared(value: RawValue, array: bool) -> RawValue {
    match value {
        RawValue::Null | RawValue::Array(_) => value,
        single if array => RawValue::Array(vec![single]),
        single => single,
    }
}

/// Reads one element.
///
/// # Errors
/// As [`named`].
pub fn value(node: Node<'_, '_>, schema: &Schema) -> Result<RawValue, Fault> {
    if is_nil(node) {
        return Ok(RawValue::Null);
    }
    if epr::is_reference(node) {
        return Ok(RawValue::Reference(epr::read(node)?));
    }
    let Some(first) = elements(node).next() else {
        return Ok(RawValue::Text(text(node).into_owned()));
    };
    match first.tag_name().name() {
        "Datetime" | "Interval" | "CIM_DateTime"
            if first.tag_name().namespace() == Some(names::CIM_COMMON) =>
        {
            Ok(datetime(first))
        }
        // CIM-XML that was put in as XML instead of text.
        "INSTANCE" if first.tag_name().namespace().is_none() => match xml::read::instance(first) {
            Ok(instance) => Ok(RawValue::Instance(Box::new(instance))),
            Err(error) => {
                let name = node.tag_name().name();
                let reason = format!("the instance in {name:.80} cannot be read: {error}");
                Err(Fault::new(Kind::InvalidParameter, reason))
            }
        },
        _ => Ok(RawValue::Instance(Box::new(instance(node, schema)?))),
    }
}

/// Date and time as XML Schema writes it, or in CIM's 25 characters. What is neither stays text and is refused
/// where its type is known.
fn datetime(node: Node<'_, '_>) -> RawValue {
    let text = text(node);
    match Datetime::parse_xsd(text.trim()).or_else(|| Datetime::parse_cim(text.trim())) {
        Some(at) => RawValue::Typed(TypedValue {
            cim_type: CimType::Datetime,
            array: false,
            value: Some(Value::Datetime(at)),
        }),
        None => RawValue::Text(text.into_owned()),
    }
}

/// An embedded object: its class by `xsi:type`, else by the namespace of its first property, else by its own name.
fn instance(node: Node<'_, '_>, schema: &Schema) -> Result<Instance, Fault> {
    let by_namespace = || {
        let uri = elements(node).next()?.tag_name().namespace()?;
        uri.rsplit('/').next().filter(|name| schema.class(name).is_some())
    };
    let class = typed_class(node).or_else(by_namespace).unwrap_or(node.tag_name().name());
    let declared = schema.class(class);
    let mut instance =
        Instance::new(declared.map_or_else(|| class.to_owned(), |class| class.name.to_string()));
    for Named { name, value } in named(node, schema)? {
        let declaration = declared.and_then(|class| class.property(&name));
        let (cim_type, array) = declaration
            .map_or((CimType::String, matches!(value, RawValue::Array(_))), |property| {
                (property.default.cim_type, property.default.array)
            });
        let value = typed(as_declared(value, array), cim_type);
        let name = declaration.map_or(name, |property| property.name.to_string());
        if !instance.properties.iter().any(|property| same_name(&property.name, &name)) {
            instance.properties.push(Property { name: Text::Owned(name), value });
        }
    }
    Ok(instance)
}

/// The value in the type that its class declares. Text that does not fit stays text: whoever takes the instance
/// sees that it is of another type and says so.
#[must_use]
pub fn typed(raw: RawValue, cim_type: CimType) -> TypedValue {
    let single = |raw| match raw {
        RawValue::Null | RawValue::Array(_) => None,
        RawValue::Text(text) => Some(
            Value::parse(cim_type, text.trim())
                .filter(|_| cim_type != CimType::String)
                .unwrap_or(Value::String(text)),
        ),
        RawValue::Reference(path) => Some(Value::Reference(Box::new(path))),
        RawValue::Instance(instance) => Some(Value::Instance(instance)),
        RawValue::Typed(typed) => typed.value,
    };
    match raw {
        RawValue::Array(values) => {
            let values = values.into_iter().map(single).collect();
            TypedValue { cim_type, array: true, value: Some(Value::Array(values)) }
        }
        raw => TypedValue { cim_type, array: false, value: single(raw) },
    }
}

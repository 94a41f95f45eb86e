//! From what came over the wire to values of the declared types: arguments of methods, properties to change.
//!
//! WS-Management says no types, CIM-XML says them; the declaration decides in both. Text of an embedded instance
//! becomes that instance, and a reference must be one into this namespace on this host. A provider turns a
//! [`BindError`] into the return code that its method has for it.

use crate::{
    CimType, Class, Context, Instance, MethodDecl, Named, ObjectPath, ParameterDecl, RawValue, Text,
    TypedValue, Value, embedded, same_name,
};
use thiserror::Error;

/// The arguments of a call, typed and in the order of the declaration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Arguments(Vec<(Text, TypedValue)>);

/// Arguments that do not fit a method.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BindError {
    #[error("{method} has no parameter {parameter} for the caller to give")]
    Unknown { method: String, parameter: String },
    #[error("{method} needs the parameter {parameter}")]
    Missing { method: String, parameter: String },
    #[error("the parameter {parameter} of {method} is given twice")]
    Twice { method: String, parameter: String },
    #[error("the parameter {parameter} of {method} cannot be used: {reason}")]
    Malformed { method: String, parameter: String, reason: String },
    #[error("the parameter {parameter} of {method} has the wrong type: {reason}")]
    WrongType { method: String, parameter: String, reason: String },
}

impl BindError {
    /// The code that the methods of the replication API return for it: 32776 for a wrong type, otherwise 32773.
    #[must_use]
    pub fn return_code(&self) -> u32 {
        match self {
            Self::WrongType { .. } => 32776,
            _ => 32773,
        }
    }

    /// The parameter it is about.
    #[must_use]
    pub fn parameter(&self) -> &str {
        match self {
            Self::Unknown { parameter, .. }
            | Self::Missing { parameter, .. }
            | Self::Twice { parameter, .. }
            | Self::Malformed { parameter, .. }
            | Self::WrongType { parameter, .. } => parameter,
        }
    }
}

/// Why one value does not become what its declaration says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConvertError {
    /// It has the shape of another type.
    #[error("{0}")]
    WrongType(String),
    /// It has the right type and cannot be used: a path into another namespace, an instance with a property
    /// that its class does not have.
    #[error("{0}")]
    Malformed(String),
}

/// What a declaration says of a value.
#[derive(Debug, Clone, Copy)]
pub struct Declared<'a> {
    /// Its type, or that of its elements.
    pub cim_type: CimType,
    /// It is an array.
    pub array: bool,
    /// Of a reference, the class it refers to.
    pub reference_class: Option<&'a str>,
    /// Of text that carries an instance, its class. An empty name stands for any class.
    pub embedded_class: Option<&'a str>,
}

impl<'a> From<&'a ParameterDecl> for Declared<'a> {
    fn from(parameter: &'a ParameterDecl) -> Self {
        Self {
            cim_type: parameter.cim_type,
            array: parameter.array,
            reference_class: parameter.reference_class.as_deref(),
            embedded_class: parameter.embedded_class.as_deref(),
        }
    }
}

impl<'a> From<&'a crate::PropertyDecl> for Declared<'a> {
    fn from(property: &'a crate::PropertyDecl) -> Self {
        Self {
            cim_type: property.default.cim_type,
            array: property.default.array,
            reference_class: property.reference_class.as_deref(),
            embedded_class: property.embedded_class.as_deref(),
        }
    }
}

impl Arguments {
    /// The value of a parameter; `None` when it is null or was not given.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(found, _)| same_name(found, name))?.1.value.as_ref()
    }

    /// The text of a parameter.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The path that a parameter refers to.
    #[must_use]
    pub fn reference(&self, name: &str) -> Option<&ObjectPath> {
        match self.get(name)? {
            Value::Reference(path) => Some(path),
            _ => None,
        }
    }

    /// The instance that a parameter carries.
    #[must_use]
    pub fn instance(&self, name: &str) -> Option<&Instance> {
        match self.get(name)? {
            Value::Instance(instance) => Some(instance),
            _ => None,
        }
    }

    /// The elements of an array parameter that are not null.
    pub fn elements(&self, name: &str) -> impl Iterator<Item = &Value> {
        let elements = match self.get(name) {
            Some(Value::Array(elements)) => elements.as_slice(),
            _ => &[],
        };
        elements.iter().flatten()
    }
}

/// Gives every in-parameter of a method its value. Parameters that were not given are null.
///
/// # Errors
/// The first argument that the method does not have, parameter that is required and missing, or value that does
/// not fit.
pub fn bind(
    context: &Context<'_>,
    method: &MethodDecl,
    arguments: Vec<Named>,
) -> Result<Arguments, BindError> {
    let mut bound: Vec<(Text, TypedValue)> = Vec::new();
    for Named { name, value } in arguments {
        let declared = method.parameters.iter().find(|parameter| same_name(&parameter.name, &name));
        let names = || (method.name.to_string(), name.clone());
        // Some clients send what only the method gives, as null.
        if declared.is_some_and(|parameter| !parameter.input) && is_null(&value) {
            continue;
        }
        let Some(parameter) = declared.filter(|parameter| parameter.input) else {
            let (method, parameter) = names();
            return Err(BindError::Unknown { method, parameter });
        };
        if bound.iter().any(|(found, _)| same_name(found, &name)) {
            let (method, parameter) = names();
            return Err(BindError::Twice { method, parameter });
        }
        let value = convert(context, parameter.into(), value).map_err(|error| {
            let (method, parameter) = names();
            match error {
                ConvertError::WrongType(reason) => BindError::WrongType { method, parameter, reason },
                ConvertError::Malformed(reason) => BindError::Malformed { method, parameter, reason },
            }
        })?;
        bound.push((parameter.name.clone(), value));
    }
    let mut ordered = Vec::new();
    for parameter in method.parameters.iter().filter(|parameter| parameter.input) {
        let given =
            bound.iter().position(|(name, _)| *name == parameter.name).map(|at| bound.swap_remove(at).1);
        let value =
            given.unwrap_or(TypedValue { cim_type: parameter.cim_type, array: parameter.array, value: None });
        if parameter.required && value.value.is_none() {
            let (method, parameter) = (method.name.to_string(), parameter.name.to_string());
            return Err(BindError::Missing { method, parameter });
        }
        ordered.push((parameter.name.clone(), value));
    }
    Ok(Arguments(ordered))
}

/// Makes a value of the declared type.
///
/// # Errors
/// When it has another type, or cannot be used here.
pub fn convert(
    context: &Context<'_>,
    declared: Declared<'_>,
    raw: RawValue,
) -> Result<TypedValue, ConvertError> {
    let value = match (raw, declared.array) {
        (RawValue::Null, _) => None,
        (RawValue::Array(elements), true) => Some(array(context, declared, elements)?),
        // One element alone looks like a scalar in WS-Management, in both directions.
        (RawValue::Array(mut elements), false) if elements.len() < 2 => match elements.pop() {
            Some(element) => scalar(context, declared, element)?,
            None => None,
        },
        (RawValue::Array(_), false) => return Err(wrong("it is no array, and several values are given")),
        (RawValue::Typed(typed), true) if typed.array => match typed.value {
            Some(Value::Array(elements)) => {
                Some(array(context, declared, raw_elements(typed.cim_type, elements))?)
            }
            Some(other) => Some(array(context, declared, raw_elements(typed.cim_type, vec![Some(other)]))?),
            None => None,
        },
        (RawValue::Typed(typed), false) if typed.array => {
            return Err(wrong("it is no array, and an array is given"));
        }
        (single, true) => Some(array(context, declared, vec![single])?),
        (single, false) => scalar(context, declared, single)?,
    };
    Ok(TypedValue { cim_type: declared.cim_type, array: declared.array, value })
}

/// The type of a value, for errors and comparisons; an empty array counts as text.
fn type_of(value: &Value) -> CimType {
    value.cim_type().unwrap_or(CimType::String)
}

fn is_null(raw: &RawValue) -> bool {
    matches!(raw, RawValue::Null | RawValue::Typed(TypedValue { value: None, .. }))
}

fn raw_elements(cim_type: CimType, elements: Vec<Option<Value>>) -> Vec<RawValue> {
    let raw = |value| RawValue::Typed(TypedValue { cim_type, array: false, value });
    elements.into_iter().map(raw).collect()
}

fn array(context: &Context<'_>, declared: Declared<'_>, raw: Vec<RawValue>) -> Result<Value, ConvertError> {
    let elements = raw.into_iter().map(|element| scalar(context, declared, element));
    Ok(Value::Array(elements.collect::<Result<_, _>>()?))
}

/// As much of a client's text as an error repeats.
fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

fn wrong(reason: impl Into<String>) -> ConvertError {
    ConvertError::WrongType(reason.into())
}

fn scalar(
    context: &Context<'_>,
    declared: Declared<'_>,
    raw: RawValue,
) -> Result<Option<Value>, ConvertError> {
    let value = match raw {
        RawValue::Null => return Ok(None),
        RawValue::Array(_) => return Err(wrong("an array cannot be an element")),
        RawValue::Text(text) => Value::String(text),
        RawValue::Reference(path) => Value::Reference(Box::new(path)),
        RawValue::Instance(instance) => Value::Instance(instance),
        RawValue::Typed(TypedValue { value: None, .. }) => return Ok(None),
        RawValue::Typed(TypedValue { value: Some(Value::Array(_)), .. }) => {
            return Err(wrong("an array is given, and a single value is wanted"));
        }
        RawValue::Typed(TypedValue { value: Some(value), .. }) => value,
    };
    match (declared.cim_type, value) {
        (CimType::Reference, Value::String(text)) if text.trim().is_empty() => Ok(None),
        (CimType::Reference, value) => reference(context, declared, value).map(Some),
        (CimType::String, value) if declared.embedded_class.is_some() => instance(context, declared, value),
        (CimType::String, Value::String(text)) => Ok(Some(Value::String(text))),
        (cim_type, value) if type_of(&value) == cim_type && !matches!(value, Value::Instance(_)) => {
            Ok(Some(value))
        }
        (cim_type, value) => by_text(cim_type, &value).map(Some),
    }
}

/// Numbers of another width, and everything that came as text.
fn by_text(cim_type: CimType, value: &Value) -> Result<Value, ConvertError> {
    let given = match value {
        Value::Reference(_) => return Err(wrong(format!("a reference is no {}", cim_type.as_str()))),
        Value::Instance(_) => return Err(wrong(format!("an instance is no {}", cim_type.as_str()))),
        Value::String(text) => text.clone(),
        // A number does not become text, nor a boolean a number, where the wire did say the type.
        other if kind(type_of(other)) != kind(cim_type) => {
            let given = type_of(other).as_str();
            return Err(wrong(format!("{given} is given, and {} is wanted", cim_type.as_str())));
        }
        other => other.to_text(),
    };
    Value::parse(cim_type, &given)
        .ok_or_else(|| wrong(format!("\"{}\" is no {}", shown(&given), cim_type.as_str())))
}

/// Types whose values are written alike.
fn kind(cim_type: CimType) -> u8 {
    match cim_type {
        CimType::Boolean => 0,
        CimType::String | CimType::Char16 => 1,
        CimType::Datetime => 2,
        CimType::Reference => 3,
        CimType::Real32 | CimType::Real64 => 4,
        _ => 5,
    }
}

fn reference(context: &Context<'_>, declared: Declared<'_>, value: Value) -> Result<Value, ConvertError> {
    let mut path = match value {
        Value::Reference(path) => *path,
        Value::String(text) => match ObjectPath::parse(text.trim()) {
            Some(path) => path,
            // Where the documentation says "a reference", samples send the text of the instance.
            None => match embedded::parse(&text) {
                Ok(instance) => path_of(context, instance)?,
                Err(_) => return Err(wrong(format!("\"{}\" is no reference", shown(&text)))),
            },
        },
        Value::Instance(instance) => path_of(context, *instance)?,
        other => return Err(wrong(format!("{} is no reference", type_of(&other).as_str()))),
    };
    if let Some(reason) = context.elsewhere(&path) {
        return Err(ConvertError::Malformed(format!("it refers to another place: {reason}")));
    }
    path.host = None;
    path.namespace = None;
    if context.schema.class(&path.class).is_none() {
        let class = shown(&path.class);
        return Err(ConvertError::Malformed(format!("it refers to the class {class}, which does not exist")));
    }
    match declared.reference_class {
        // A client may name an instance by a base of its class as well.
        Some(wanted)
            if !context.schema.is_a(&path.class, wanted) && !context.schema.is_a(wanted, &path.class) =>
        {
            Err(wrong(format!("it refers to {}, and {wanted} is wanted", path.class)))
        }
        _ => Ok(Value::Reference(Box::new(path))),
    }
}

/// The path of an instance that stands where a reference is wanted: by its keys.
fn path_of(context: &Context<'_>, instance: Instance) -> Result<ObjectPath, ConvertError> {
    if let Some(path) = instance.path {
        return Ok(path);
    }
    let Some(class) = context.schema.class(&instance.class) else {
        let class = shown(&instance.class);
        return Err(wrong(format!("it is of the class {class}, which does not exist")));
    };
    class.path_of(&fit(context, class, instance)?).map_err(|key| {
        ConvertError::Malformed(format!("an instance of {} without {key} refers to nothing", class.name))
    })
}

/// An embedded instance; blank text is null.
fn instance(
    context: &Context<'_>,
    declared: Declared<'_>,
    value: Value,
) -> Result<Option<Value>, ConvertError> {
    let instance = match value {
        Value::Instance(instance) => *instance,
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => embedded::parse(&text)
            .map_err(|error| ConvertError::Malformed(format!("its text is no instance: {error}")))?,
        other => return Err(wrong(format!("{} carries no instance", type_of(&other).as_str()))),
    };
    let Some(class) = context.schema.class(&instance.class) else {
        let class = shown(&instance.class);
        return Err(wrong(format!("it is of the class {class}, which does not exist")));
    };
    let wanted = declared.embedded_class.unwrap_or_default();
    if !wanted.is_empty() && !context.schema.is_a(&class.name, wanted) {
        return Err(wrong(format!("it is of the class {}, and {wanted} is wanted", class.name)));
    }
    fit(context, class, instance).map(|instance| Some(Value::Instance(Box::new(instance))))
}

/// The instance with its properties typed by its class and spelled as the class spells them.
fn fit(context: &Context<'_>, class: &Class, instance: Instance) -> Result<Instance, ConvertError> {
    let mut fitted = Instance { class: class.name.clone(), path: instance.path, properties: Vec::new() };
    for property in instance.properties.into_iter().filter(|property| !property.name.starts_with("__")) {
        let Some(declared) = class.property(&property.name) else {
            let name = shown(&property.name);
            return Err(ConvertError::Malformed(format!("{} has no property {name}", class.name)));
        };
        let typed = convert(context, declared.into(), RawValue::Typed(property.value)).map_err(|error| {
            let said = |reason: &str| format!("{}.{}: {reason}", class.name, declared.name);
            match error {
                ConvertError::WrongType(reason) => ConvertError::WrongType(said(&reason)),
                ConvertError::Malformed(reason) => ConvertError::Malformed(said(&reason)),
            }
        })?;
        fitted.set(declared.name.clone(), typed.cim_type, typed.array, typed.value);
    }
    Ok(fitted)
}

//! The arguments of an intrinsic operation, taken by name. What is left over at the end is a mistake.

use standin_cim::{
    CimError, CimType, Instance, Keys, Named, ObjectPath, RawValue, Result, StatusCode, TypedValue, Value,
    same_name,
};

/// Arguments that were not taken yet.
#[derive(Debug)]
pub(crate) struct Arguments {
    left: Vec<Named>,
}

fn invalid(message: String) -> CimError {
    CimError::new(StatusCode::InvalidParameter, message)
}

impl Arguments {
    /// Arguments as they came.
    ///
    /// # Errors
    /// `InvalidParameter`: one is there twice.
    pub fn new(arguments: Vec<Named>) -> Result<Self> {
        for (at, argument) in arguments.iter().enumerate() {
            if arguments[..at].iter().any(|other| same_name(&other.name, &argument.name)) {
                return Err(invalid(format!("the parameter {} is there twice", argument.name)));
            }
        }
        Ok(Self { left: arguments })
    }

    /// That nothing is left.
    ///
    /// # Errors
    /// `InvalidParameter`: the operation has no such parameter.
    pub fn finish(&self) -> Result<()> {
        match self.left.first() {
            Some(argument) => Err(invalid(format!("the operation has no parameter {}", argument.name))),
            None => Ok(()),
        }
    }

    fn take(&mut self, name: &str) -> Option<RawValue> {
        let at = self.left.iter().position(|argument| same_name(&argument.name, name))?;
        match self.left.swap_remove(at).value {
            RawValue::Null => None,
            RawValue::Typed(typed) => match typed {
                TypedValue { value: None, .. } => None,
                TypedValue { value: Some(Value::Reference(path)), .. } => Some(RawValue::Reference(*path)),
                TypedValue { value: Some(Value::Instance(instance)), .. } => {
                    Some(RawValue::Instance(instance))
                }
                TypedValue { value: Some(Value::Array(values)), .. } => {
                    let text = |value: &Value| RawValue::Text(value.to_text());
                    Some(RawValue::Array(
                        values.iter().map(|value| value.as_ref().map_or(RawValue::Null, text)).collect(),
                    ))
                }
                TypedValue { value: Some(value), .. } => Some(RawValue::Text(value.to_text())),
            },
            value => Some(value),
        }
    }

    /// A text.
    pub fn text(&mut self, name: &str) -> Result<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(RawValue::Text(text)) => Ok(Some(text)),
            Some(_) => Err(invalid(format!("{name} is to be a text"))),
        }
    }

    /// A text that must be there.
    pub fn needed_text(&mut self, name: &str) -> Result<String> {
        self.text(name)?.ok_or_else(|| missing(name))
    }

    /// A boolean.
    pub fn boolean(&mut self, name: &str, default: bool) -> Result<bool> {
        match self.text(name)? {
            None => Ok(default),
            Some(text) => match Value::parse(CimType::Boolean, &text) {
                Some(Value::Boolean(value)) => Ok(value),
                _ => Err(invalid(format!("{name} is to be TRUE or FALSE"))),
            },
        }
    }

    /// A number.
    pub fn number(&mut self, name: &str) -> Result<Option<u32>> {
        match self.text(name)? {
            None => Ok(None),
            Some(text) => match Value::parse(CimType::Uint32, &text) {
                Some(Value::Uint32(value)) => Ok(Some(value)),
                _ => Err(invalid(format!("{name} is to be a number of uint32"))),
            },
        }
    }

    /// The names of properties. Null means all.
    pub fn properties(&mut self, name: &str) -> Result<Option<Vec<String>>> {
        let wrong = || invalid(format!("{name} is to be an array of names"));
        match self.take(name) {
            None => Ok(None),
            Some(RawValue::Array(values)) => values
                .into_iter()
                .map(|value| match value {
                    RawValue::Text(text) => Ok(text.trim().to_owned()),
                    _ => Err(wrong()),
                })
                .collect::<Result<_>>()
                .map(Some),
            Some(_) => Err(wrong()),
        }
    }

    /// The name of a class.
    pub fn class(&mut self, name: &str) -> Result<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(RawValue::Reference(path)) if path.keys == Keys::None => Ok(Some(path.class.into_owned())),
            Some(RawValue::Text(text)) if !text.trim().is_empty() => Ok(Some(text.trim().to_owned())),
            Some(_) => Err(invalid(format!("{name} is to be the name of a class"))),
        }
    }

    /// The name of a class that must be there.
    pub fn needed_class(&mut self, name: &str) -> Result<String> {
        self.class(name)?.ok_or_else(|| missing(name))
    }

    /// The name of an instance.
    pub fn instance_name(&mut self, name: &str) -> Result<ObjectPath> {
        let path = self.object(name)?;
        if path.keys == Keys::None {
            return Err(invalid(format!("{name} is to be the name of an instance, not of a class")));
        }
        Ok(path)
    }

    /// The name of an instance or of a class.
    pub fn object(&mut self, name: &str) -> Result<ObjectPath> {
        match self.take(name) {
            None => Err(missing(name)),
            Some(RawValue::Reference(path)) => Ok(path),
            Some(_) => Err(invalid(format!("{name} is to be the name of an object"))),
        }
    }

    /// An instance.
    pub fn instance(&mut self, name: &str) -> Result<Instance> {
        match self.take(name) {
            None => Err(missing(name)),
            Some(RawValue::Instance(instance)) => Ok(*instance),
            Some(_) => Err(invalid(format!("{name} is to be an instance"))),
        }
    }
}

fn missing(name: &str) -> CimError {
    invalid(format!("the parameter {name} is missing"))
}

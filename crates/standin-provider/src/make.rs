//! Making instances: names and values, with the types taken from the values. What is left out is null; the broker
//! adds it by the class.

use jiff::Timestamp;
use standin_cim::{CimType, Datetime, Instance, Key, ObjectPath, Property, Text, TypedValue, Value};

/// An instance in the making.
pub struct Make(Instance);

impl Make {
    /// An instance of `class` that is found under `keys`, which become properties of it as well.
    pub fn new(class: &'static str, keys: Vec<Key>) -> Self {
        let mut instance = Instance::new(class);
        for key in &keys {
            let value = match &key.value {
                standin_cim::KeyValue::Text(text) => Value::String(text.clone().into_owned()),
                standin_cim::KeyValue::Unsigned(number) => Value::Uint64(*number),
                standin_cim::KeyValue::Signed(number) => Value::Sint64(*number),
                standin_cim::KeyValue::Boolean(flag) => Value::Boolean(*flag),
                standin_cim::KeyValue::Reference(path) => Value::Reference(path.clone()),
            };
            instance.properties.push(property(key.name.clone(), value));
        }
        instance.path = Some(ObjectPath::new(class, keys));
        Self(instance)
    }

    /// An instance that is embedded in another or given away by a method: it has no path.
    pub fn embedded(class: &'static str) -> Self {
        Self(Instance::new(class))
    }

    /// A property with a value. `set` instead of pushing: a key may have been set by `new`.
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.properties.push(property(name.into(), value.into()));
        self
    }

    /// A property whose value may be unknown.
    pub fn maybe(self, name: &'static str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// A point in time that may be unknown.
    pub fn time(self, name: &'static str, at: Option<Timestamp>) -> Self {
        self.maybe(name, at.map(Datetime::utc))
    }

    /// An array of 16-bit numbers.
    pub fn numbers(self, name: &'static str, numbers: &[u16]) -> Self {
        self.array(name, CimType::Uint16, numbers.iter().map(|number| Value::Uint16(*number)))
    }

    /// An array of texts.
    pub fn texts(self, name: &'static str, texts: impl IntoIterator<Item = String>) -> Self {
        self.array(name, CimType::String, texts.into_iter().map(Value::String))
    }

    /// An array of instances in a property of texts.
    pub fn instances(self, name: &'static str, instances: impl IntoIterator<Item = Instance>) -> Self {
        self.array(name, CimType::String, instances.into_iter().map(|one| Value::Instance(Box::new(one))))
    }

    fn array(mut self, name: &'static str, cim_type: CimType, values: impl Iterator<Item = Value>) -> Self {
        let value = Some(Value::Array(values.map(Some).collect()));
        let value = TypedValue { cim_type, array: true, value };
        self.0.properties.push(Property { name: name.into(), value });
        self
    }

    /// The instance.
    pub fn done(self) -> Instance {
        self.0
    }
}

fn property(name: Text, value: Value) -> Property {
    let cim_type = type_of(&value);
    Property { name, value: TypedValue { cim_type, array: false, value: Some(value) } }
}

/// The type that a scalar value has.
pub fn type_of(value: &Value) -> CimType {
    match value {
        Value::Boolean(_) => CimType::Boolean,
        Value::Uint8(_) => CimType::Uint8,
        Value::Uint16(_) => CimType::Uint16,
        Value::Uint32(_) => CimType::Uint32,
        Value::Uint64(_) => CimType::Uint64,
        Value::Sint8(_) => CimType::Sint8,
        Value::Sint16(_) => CimType::Sint16,
        Value::Sint32(_) => CimType::Sint32,
        Value::Sint64(_) => CimType::Sint64,
        Value::Real32(_) => CimType::Real32,
        Value::Real64(_) => CimType::Real64,
        Value::Char16(_) => CimType::Char16,
        Value::String(_) | Value::Instance(_) => CimType::String,
        Value::Datetime(_) => CimType::Datetime,
        Value::Reference(_) => CimType::Reference,
        Value::Array(values) => values.iter().flatten().next().map_or(CimType::String, type_of),
    }
}

/// What a method gives back besides its return value.
#[derive(Default)]
pub struct Out(pub Vec<(Text, TypedValue)>);

impl Out {
    /// A value.
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let (cim_type, array) = (type_of(&value), matches!(value, Value::Array(_)));
        self.0.push((name.into(), TypedValue { cim_type, array, value: Some(value) }));
        self
    }

    /// An array of instances, as texts.
    pub fn instances(mut self, name: &'static str, instances: Vec<Instance>) -> Self {
        let values = instances.into_iter().map(|one| Some(Value::Instance(Box::new(one)))).collect();
        let value = TypedValue { cim_type: CimType::String, array: true, value: Some(Value::Array(values)) };
        self.0.push((name.into(), value));
        self
    }
}

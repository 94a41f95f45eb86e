//! Instances: a class, a path, and properties with values.

use crate::{CimType, ObjectPath, Text, TypedValue, Value, same_name};

/// One property of an instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Property {
    /// Its name, spelled as the class spells it.
    pub name: Text,
    /// Its value, typed.
    pub value: TypedValue,
}

/// An instance. What comes from a broker has a path, and every property of its class in the order of the class,
/// unless a projection left some out.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// The class it was made of: never a base of it.
    pub class: Text,
    /// Where it is found; `None` inside another instance's text.
    pub path: Option<ObjectPath>,
    /// The properties.
    pub properties: Vec<Property>,
}

impl Instance {
    /// An instance without a path and properties.
    #[must_use]
    pub fn new(class: impl Into<Text>) -> Self {
        Self { class: class.into(), path: None, properties: Vec::new() }
    }

    /// The property of that name.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&Property> {
        self.properties.iter().find(|property| same_name(&property.name, name))
    }

    /// The value of that property; `None` when it is null or missing.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.property(name)?.value.value.as_ref()
    }

    /// Adds a property or replaces its value.
    pub fn set(&mut self, name: impl Into<Text>, cim_type: CimType, array: bool, value: Option<Value>) {
        let name = name.into();
        let value = TypedValue { cim_type, array, value };
        match self.properties.iter_mut().find(|property| same_name(&property.name, &name)) {
            Some(property) => property.value = value,
            None => self.properties.push(Property { name, value }),
        }
    }
}

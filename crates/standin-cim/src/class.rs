//! Classes, and the set of them that a namespace has.

use crate::{CimType, Text, TypedValue, same_name};

/// A qualifier with its value, as `Key`, `EmbeddedInstance("Msvm_Error")`, `ValueMap{"2", "3"}`.
#[derive(Debug, Clone, PartialEq)]
pub struct Qualifier {
    /// Its name.
    pub name: Text,
    /// Its value.
    pub value: TypedValue,
}

/// A property of a class.
#[derive(Debug, Clone, PartialEq)]
pub struct PropertyDecl {
    /// Its name.
    pub name: Text,
    /// Its type, whether it is an array, and its default (null where there is none).
    pub default: TypedValue,
    /// For a reference: the class it refers to.
    pub reference_class: Option<Text>,
    /// For text that carries an instance: the class of that instance.
    pub embedded_class: Option<Text>,
    /// It is part of the identity of an instance.
    pub key: bool,
    /// A client may change it by ModifyInstance or Put.
    pub writable: bool,
    /// The class that declares it: this one, or a base.
    pub origin: Text,
    /// All qualifiers, `Key` and the like included.
    pub qualifiers: Vec<Qualifier>,
}

/// A parameter of a method.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterDecl {
    /// Its name.
    pub name: Text,
    /// Its type.
    pub cim_type: CimType,
    /// It is an array.
    pub array: bool,
    /// For a reference: the class it refers to.
    pub reference_class: Option<Text>,
    /// For text that carries an instance: the class of that instance.
    pub embedded_class: Option<Text>,
    /// The caller gives it.
    pub input: bool,
    /// The method gives it.
    pub output: bool,
    /// A call without it is refused.
    pub required: bool,
    /// All qualifiers.
    pub qualifiers: Vec<Qualifier>,
}

/// A method of a class.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodDecl {
    /// Its name.
    pub name: Text,
    /// What it returns.
    pub returns: CimType,
    /// The parameters, in order.
    pub parameters: Vec<ParameterDecl>,
    /// The class that declares it.
    pub origin: Text,
    /// All qualifiers; `ValueMap` and `Values` are the return codes.
    pub qualifiers: Vec<Qualifier>,
}

/// A class with everything it inherits.
#[derive(Debug, Clone, PartialEq)]
pub struct Class {
    /// Its name.
    pub name: Text,
    /// The class it is derived from.
    pub superclass: Option<Text>,
    /// It relates instances of other classes.
    pub association: bool,
    /// It has no instances of its own.
    pub is_abstract: bool,
    /// Its properties, inherited ones first, overridden ones in their base's place.
    pub properties: Vec<PropertyDecl>,
    /// Its methods, inherited ones first.
    pub methods: Vec<MethodDecl>,
    /// Its qualifiers.
    pub qualifiers: Vec<Qualifier>,
}

impl Class {
    /// The property of that name.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&PropertyDecl> {
        self.properties.iter().find(|property| same_name(&property.name, name))
    }

    /// The method of that name.
    #[must_use]
    pub fn method(&self, name: &str) -> Option<&MethodDecl> {
        self.methods.iter().find(|method| same_name(&method.name, name))
    }

    /// The properties that identify an instance.
    pub fn keys(&self) -> impl Iterator<Item = &PropertyDecl> {
        self.properties.iter().filter(|property| property.key)
    }
}

/// The classes of a namespace. A base stands before the classes derived from it.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    classes: Vec<Class>,
    by_name: std::collections::HashMap<String, usize>,
    /// Of each class, itself and those derived from it, in their order.
    families: Vec<Vec<usize>>,
}

impl Schema {
    /// A schema of these classes.
    #[must_use]
    pub fn new(classes: Vec<Class>) -> Self {
        let by_name =
            classes.iter().enumerate().map(|(at, class)| (class.name.to_ascii_lowercase(), at)).collect();
        let mut schema = Self { families: vec![Vec::new(); classes.len()], classes, by_name };
        for at in 0..schema.classes.len() {
            let mut next = Some(at);
            while let Some(base) = next.take() {
                // A class that is its own base, in a schema of a client's making, ends the walk.
                if schema.families[base].last() != Some(&at) {
                    schema.families[base].push(at);
                    next = schema.classes[base].superclass.as_deref().and_then(|name| schema.position(name));
                }
            }
        }
        schema
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(&name.to_ascii_lowercase()).copied()
    }

    /// The class of that name.
    #[must_use]
    pub fn class(&self, name: &str) -> Option<&Class> {
        self.position(name).and_then(|at| self.classes.get(at))
    }

    /// Every class.
    #[must_use]
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// Whether `class` is `base` or derived from it.
    #[must_use]
    pub fn is_a(&self, class: &str, base: &str) -> bool {
        match (self.position(class), self.position(base)) {
            (Some(class), Some(base)) => class == base || self.families[base].binary_search(&class).is_ok(),
            _ => same_name(class, base),
        }
    }

    /// `base` and every class derived from it.
    pub fn family<'a>(&'a self, base: &'a str) -> impl Iterator<Item = &'a Class> {
        let family = self.position(base).map(|at| self.families[at].as_slice()).unwrap_or_default();
        family.iter().filter_map(|at| self.classes.get(*at))
    }
}

//! Object paths: which instance of which class in which namespace on which host.

use crate::{Text, same_name};
use std::fmt;

/// A namespace with `/` between its parts and without one at either end, as `root/virtualization/v2`.
/// Compares without case; what was written with `\` is the same one.
#[derive(Debug, Clone)]
pub struct Namespace(Text);

impl Namespace {
    /// Takes `\` for `/` and drops separators at the ends.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Text::Owned(text.replace('\\', "/").trim_matches('/').to_owned()))
    }

    /// The namespace of a text that is normal already.
    #[must_use]
    pub const fn from_static(text: &'static str) -> Self {
        Self(Text::Borrowed(text))
    }

    /// With `/` between its parts.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Namespace {
    fn eq(&self, other: &Self) -> bool {
        same_name(&self.0, &other.0)
    }
}

impl Eq for Namespace {}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which instance of a class.
#[derive(Debug, Clone, PartialEq)]
pub enum Keys {
    /// The class itself.
    None,
    /// The only instance of a class without keys (`Class=@`).
    Singleton,
    /// The instance with these keys. Order does not matter; a client may give a part of them.
    Named(Vec<Key>),
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// The property.
    pub name: Text,
    /// Its value.
    pub value: KeyValue,
}

/// The value of a key. Selectors of WS-Management carry every key as text, so that values compare by what they
/// say, not by their type (`KeyValue::agrees`).
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum KeyValue {
    Text(Text),
    Unsigned(u64),
    Signed(i64),
    Boolean(bool),
    Reference(Box<ObjectPath>),
}

/// A path.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectPath {
    /// The host, in a full path.
    pub host: Option<Text>,
    /// The namespace; `None` means that of the request.
    pub namespace: Option<Namespace>,
    /// The class.
    pub class: Text,
    /// Which instance.
    pub keys: Keys,
}

impl ObjectPath {
    /// The path of an instance, relative to its namespace.
    #[must_use]
    pub fn new(class: impl Into<Text>, keys: Vec<Key>) -> Self {
        Self { host: None, namespace: None, class: class.into(), keys: Keys::Named(keys) }
    }

    /// The same path within a namespace.
    #[must_use]
    pub fn within(mut self, namespace: Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }
}

impl Key {
    /// A key whose value is text.
    #[must_use]
    pub fn text(name: impl Into<Text>, value: impl Into<Text>) -> Self {
        Self { name: name.into(), value: KeyValue::Text(value.into()) }
    }

    /// A key that refers to another instance.
    #[must_use]
    pub fn reference(name: impl Into<Text>, path: ObjectPath) -> Self {
        Self { name: name.into(), value: KeyValue::Reference(Box::new(path)) }
    }
}

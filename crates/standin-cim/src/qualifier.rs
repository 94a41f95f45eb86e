//! Declarations of qualifiers: what `GetQualifier` answers and what MOF needs before its classes.

use crate::{Text, TypedValue};

/// What a qualifier may stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the standard's own and say it")]
pub enum QualifierScope {
    Class,
    Association,
    Indication,
    Property,
    Reference,
    Method,
    Parameter,
    Any,
}

impl QualifierScope {
    /// Its keyword in MOF; in CIM-XML's `<SCOPE>` the attribute of the same name in capitals.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Class => "class",
            Self::Association => "association",
            Self::Indication => "indication",
            Self::Property => "property",
            Self::Reference => "reference",
            Self::Method => "method",
            Self::Parameter => "parameter",
            Self::Any => "any",
        }
    }
}

/// The declaration of a qualifier (DSP0004, 5.6).
#[derive(Debug, Clone, PartialEq)]
pub struct QualifierDecl {
    /// Its name.
    pub name: Text,
    /// Its type, whether it is an array, and its default.
    pub default: TypedValue,
    /// What it may stand on.
    pub scopes: Vec<QualifierScope>,
    /// A derived class may change it.
    pub overridable: bool,
    /// A derived class inherits it.
    pub to_subclass: bool,
    /// Its text may be translated.
    pub translatable: bool,
}

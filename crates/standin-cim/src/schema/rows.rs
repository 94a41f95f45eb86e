//! The shape of the tables that the build makes of the schema files.

/// A constant. Numbers are text here: their type says how they are read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Literal {
    Null,
    Boolean(bool),
    Text(&'static str),
    Array(&'static [Literal]),
}

/// A qualifier and its value.
pub(super) type SaidRow = (&'static str, Literal);

#[derive(Debug)]
pub(super) struct QualifierRow {
    pub(super) name: &'static str,
    pub(super) cim_type: &'static str,
    pub(super) array: bool,
    pub(super) default: Literal,
    pub(super) scopes: &'static [&'static str],
    pub(super) flavors: &'static [&'static str],
}

/// A property or a parameter; of a reference, `cim_type` is the class.
#[derive(Debug)]
pub(super) struct ElementRow {
    pub(super) name: &'static str,
    pub(super) cim_type: &'static str,
    pub(super) reference: bool,
    pub(super) array: bool,
    pub(super) default: Literal,
    pub(super) qualifiers: &'static [SaidRow],
}

#[derive(Debug)]
pub(super) struct MethodRow {
    pub(super) name: &'static str,
    pub(super) returns: &'static str,
    pub(super) parameters: &'static [ElementRow],
    pub(super) qualifiers: &'static [SaidRow],
}

#[derive(Debug)]
pub(super) struct ClassRow {
    pub(super) name: &'static str,
    /// Empty when there is none.
    pub(super) superclass: &'static str,
    pub(super) qualifiers: &'static [SaidRow],
    pub(super) properties: &'static [ElementRow],
    pub(super) methods: &'static [MethodRow],
}

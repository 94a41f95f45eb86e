//! Values and their types (DSP0004).

use crate::{Datetime, Instance, ObjectPath};

/// The intrinsic types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the standard's own and say it")]
pub enum CimType {
    Boolean,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Sint8,
    Sint16,
    Sint32,
    Sint64,
    Real32,
    Real64,
    Char16,
    String,
    Datetime,
    Reference,
}

/// A value that is not null.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are the standard's own and say it")]
pub enum Value {
    Boolean(bool),
    Uint8(u8),
    Uint16(u16),
    Uint32(u32),
    Uint64(u64),
    Sint8(i8),
    Sint16(i16),
    Sint32(i32),
    Sint64(i64),
    Real32(f32),
    Real64(f64),
    /// A UTF-16 code unit.
    Char16(u16),
    String(String),
    Datetime(Datetime),
    Reference(Box<ObjectPath>),
    /// An instance in a property or parameter of type string with the qualifier `EmbeddedInstance` or
    /// `EmbeddedObject`. Its type is [`CimType::String`].
    Instance(Box<Instance>),
    /// Values of one type, or nulls.
    Array(Vec<Option<Value>>),
}

/// A value or null, with its type: what a property or a parameter holds.
#[derive(Debug, Clone, PartialEq)]
pub struct TypedValue {
    /// The type of the value, or of each element.
    pub cim_type: CimType,
    /// It is an array.
    pub array: bool,
    /// `None` is null.
    pub value: Option<Value>,
}

impl CimType {
    /// Its name in MOF, CIM-XML and `cim-classes`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Uint8 => "uint8",
            Self::Uint16 => "uint16",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::Sint8 => "sint8",
            Self::Sint16 => "sint16",
            Self::Sint32 => "sint32",
            Self::Sint64 => "sint64",
            Self::Real32 => "real32",
            Self::Real64 => "real64",
            Self::Char16 => "char16",
            Self::String => "string",
            Self::Datetime => "datetime",
            Self::Reference => "reference",
        }
    }
}

macro_rules! from_scalar {
    ($($rust:ty => $variant:ident),* $(,)?) => {$(
        impl From<$rust> for Value {
            fn from(value: $rust) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}

from_scalar! {
    bool => Boolean, u8 => Uint8, u16 => Uint16, u32 => Uint32, u64 => Uint64,
    i8 => Sint8, i16 => Sint16, i32 => Sint32, i64 => Sint64, f32 => Real32, f64 => Real64,
    String => String, &str => String, Datetime => Datetime, ObjectPath => Reference, Instance => Instance,
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(values: Vec<T>) -> Self {
        Self::Array(values.into_iter().map(|value| Some(value.into())).collect())
    }
}

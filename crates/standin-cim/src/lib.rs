//! The CIM model, without a network and without an engine: values and their types, object paths, instances,
//! classes, errors, and the two seams of the management API:
//!
//! ```text
//! standin-wsman  ─┐                                   ┌─ standin-provider (the engine)
//!                 ├─► Operations ◄─ Broker ─► InstanceSource
//! standin-cimxml ─┘                                   └─ memory::Repository (tests)
//! ```
//!
//! A protocol turns bytes into calls of [`Operations`]; a provider answers the few questions of
//! [`InstanceSource`]; the broker between them knows inheritance, keys, associations and queries, so that
//! neither side has to.

#![forbid(unsafe_code)]

pub mod arguments;
pub mod broker;
pub mod caller;
pub mod class;
pub mod context;
pub mod datetime;
mod datetime_text;
pub mod embedded;
pub mod error;
pub mod instance;
mod keys;
pub mod memory;
pub mod mof;
pub mod mof_instance;
pub mod operations;
pub mod path;
mod path_text;
pub mod qualifier;
pub mod schema;
pub mod source;
mod text;
pub mod value;
pub mod wql;
pub mod xml;

pub use caller::{Caller, Role};
pub use class::{Class, MethodDecl, ParameterDecl, PropertyDecl, Qualifier, Schema};
pub use context::Context;
pub use datetime::Datetime;
pub use error::{CimError, StatusCode};
pub use instance::{Instance, Property};
pub use operations::{AssociationFilter, MethodAnswer, MethodCall, Named, Operations, QueryAnswer, RawValue};
pub use path::{Key, KeyValue, Keys, Namespace, ObjectPath};
pub use qualifier::{QualifierDecl, QualifierScope};
pub use source::{InstanceSource, Narrow};
pub use value::{CimType, TypedValue, Value};

use std::borrow::Cow;

/// A name or a text: static where it comes from the schema, owned where it came over the wire.
pub type Text = Cow<'static, str>;

/// The answer of an operation.
pub type Result<T> = std::result::Result<T, CimError>;

/// Whether two names of classes, properties, methods, keys or namespaces are the same: CIM compares them without
/// case (DSP0004).
#[must_use]
pub fn same_name(left: &str, right: &str) -> bool {
    left.eq_ignore_ascii_case(right)
}

//! The classes of this host: the project's own schema files in `schema/`, read at build time.
//!
//! `build.rs` makes tables of the files and checks them; here the tables become classes with everything they
//! inherit, once, when they are first asked for. The standard's rules for inheritance are those of DSP0004: a
//! property that is overridden keeps its place, qualifiers with the flavor `ToSubclass` are inherited.

mod resolve;
mod rows;

use crate::{QualifierDecl, Schema};
use rows::{ClassRow, ElementRow, Literal, MethodRow, QualifierRow};
use std::sync::{Arc, LazyLock};

include!(concat!(env!("OUT_DIR"), "/schema.rs"));

/// The namespace of virtual machines and their replication.
pub const VIRTUALIZATION_NAMESPACE: &str = "root/virtualization/v2";
/// The namespace by which generic clients find the others.
pub const INTEROP_NAMESPACE: &str = "interop";
/// The namespace that says what host this is.
pub const CIMV2_NAMESPACE: &str = "root/cimv2";

/// The classes of `root/virtualization/v2`.
#[must_use]
pub fn virtualization() -> Arc<Schema> {
    static CLASSES: LazyLock<Arc<Schema>> = LazyLock::new(|| resolve::schema(VIRTUALIZATION));
    CLASSES.clone()
}

/// The classes of `interop`.
#[must_use]
pub fn interop() -> Arc<Schema> {
    static CLASSES: LazyLock<Arc<Schema>> = LazyLock::new(|| resolve::schema(INTEROP));
    CLASSES.clone()
}

/// The classes of `root/cimv2`.
#[must_use]
pub fn cimv2() -> Arc<Schema> {
    static CLASSES: LazyLock<Arc<Schema>> = LazyLock::new(|| resolve::schema(CIMV2));
    CLASSES.clone()
}

/// The classes of `root`: nothing but the namespaces below it.
#[must_use]
pub fn root() -> Arc<Schema> {
    static CLASSES: LazyLock<Arc<Schema>> = LazyLock::new(|| resolve::schema(ROOT));
    CLASSES.clone()
}

/// The declarations of all qualifiers that the classes use.
#[must_use]
pub fn qualifiers() -> &'static [QualifierDecl] {
    static DECLARATIONS: LazyLock<Vec<QualifierDecl>> =
        LazyLock::new(|| QUALIFIERS.iter().map(resolve::declaration).collect());
    &DECLARATIONS
}

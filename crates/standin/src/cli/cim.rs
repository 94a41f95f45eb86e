//! `standin cim mof`: the schema as text.

use crate::args::{CimVerb, Namespace};
use crate::exit::Failure;
use anyhow::Context;
use standin_cim::{mof, schema};
use std::io::Write;

/// Runs the verb.
pub fn run(verb: &CimVerb) -> Result<(), Failure> {
    let CimVerb::Mof { namespace } = verb;
    let schema = match namespace {
        Namespace::Virtualization => schema::virtualization(),
        Namespace::Cimv2 => schema::cimv2(),
        Namespace::Interop => schema::interop(),
    };
    let mut out = std::io::stdout().lock();
    out.write_all(mof::print(&schema).as_bytes()).and_then(|()| out.flush()).context("print the classes")?;
    Ok(())
}

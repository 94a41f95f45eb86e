//! Instances as text, inside a string property or parameter (`EmbeddedInstance`, `EmbeddedObject`).
//!
//! Clients send CIM-XML (`CimSerializer`, `GetText_`) or MOF; we send CIM-XML. The types in it are the client's
//! word (CIM-XML) or a guess (MOF): whoever has the class checks them.

use crate::{Instance, mof_instance, xml};
use thiserror::Error;

/// A text that is no instance.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct EmbeddedError(pub String);

/// Reads an instance: CIM-XML if the text begins with `<`, MOF otherwise.
///
/// # Errors
/// The text is neither, or is beyond the limits on length, depth and nodes.
pub fn parse(text: &str) -> Result<Instance, EmbeddedError> {
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.starts_with('<') {
        xml::read::instance_text(text).map_err(|error| EmbeddedError(error.to_string()))
    } else {
        mof_instance::parse(text)
    }
}

/// The CIM-XML of an instance, as the text of an element or parameter before it is escaped.
#[must_use]
pub fn to_text(instance: &Instance) -> String {
    let mut out = String::with_capacity(64 + instance.properties.len() * 80);
    xml::write::instance(&mut out, instance);
    out
}

#[cfg(test)]
mod tests;

//! What can be wrong with XML of a client.

use crate::CimType;
use thiserror::Error;

/// Why a text or an element was not read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum XmlError {
    /// It is no XML.
    #[error("the XML is not well-formed: {0}")]
    Malformed(String),
    /// It has a document type, which could define entities.
    #[error("the XML has a document type declaration, which is refused; leave the <!DOCTYPE out")]
    Doctype,
    /// It is larger or deeper than anybody needs.
    #[error("the XML has {what} beyond the limit of {limit}; send less at once")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The most that is taken.
        limit: usize,
    },
    /// An element that does not belong there.
    #[error("<{parent}> may not have <{element}> in it")]
    Unexpected {
        /// The element.
        element: String,
        /// The one around it.
        parent: String,
    },
    /// An element that is not what was asked for.
    #[error("<{found}> was found where {wanted} is needed")]
    Wanted {
        /// The element that is there.
        found: String,
        /// What should be.
        wanted: &'static str,
    },
    /// Something is missing inside an element.
    #[error("<{element}> lacks {what}")]
    Missing {
        /// The element.
        element: String,
        /// What it lacks.
        what: &'static str,
    },
    /// An attribute's value is none of those allowed.
    #[error("<{element}> has {attribute}={value:?}, which has no meaning")]
    Attribute {
        /// The element.
        element: String,
        /// The attribute.
        attribute: &'static str,
        /// Its value, shortened.
        value: String,
    },
    /// A text is no value of its type.
    #[error("{text:?} is no {}{}", .cim_type.as_str(), of(.name))]
    Value {
        /// The property, parameter or key.
        name: String,
        /// The type it should have.
        cim_type: CimType,
        /// The text, shortened.
        text: String,
    },
}

/// ` (of Name)`, or nothing.
fn of(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" (of {name})") }
}

/// A text of a client as an error repeats it: not longer than a line.
#[must_use]
pub fn shorten(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

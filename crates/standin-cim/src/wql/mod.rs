//! The query languages: WQL, and what of CQL (DSP0202) and FQL (DSP0212) has the same shape.
//!
//! ```text
//! SELECT * | property, ...  FROM class  [WHERE condition]
//! ASSOCIATORS OF {path}     [WHERE AssocClass = .. ResultClass = .. Role = .. ResultRole = .. ClassDefsOnly KeysOnly
//!                            RequiredQualifier = .. RequiredAssocQualifier = ..]
//! REFERENCES OF {path}      [WHERE ResultClass = .. Role = .. ClassDefsOnly KeysOnly RequiredQualifier = ..]
//! ```
//!
//! Conditions know three answers: a comparison with null is neither true nor false, and only what is true is
//! selected. Text compares without case, as WMI does it. Length, nesting and the number of tokens are bounded, so
//! that a query of a client costs no more than its length.
//!
//! Called by the broker, and by protocols that want to refuse a query before anything is asked.

mod compare;
mod condition;
mod lexer;
mod like;
mod parser;
mod query;
mod system;

pub use query::{Kind, Query, Walk};

use crate::StatusCode;
use thiserror::Error;

/// The longest query, in bytes.
pub const LONGEST: usize = 32 * 1024;

/// How deep parentheses and `NOT` may nest.
pub const DEEPEST: usize = 64;

/// A query that cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the query cannot be answered, at character {}: {problem}", position + 1)]
pub struct QueryError {
    /// Where in the text, in characters from 0.
    pub position: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with a query.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Problem {
    #[error("it has {length} bytes, and {LONGEST} are the most")]
    TooLong { length: usize },
    #[error("parentheses and NOT nest deeper than {DEEPEST} levels")]
    TooDeep,
    #[error("expected {expected}, found {found}")]
    Unexpected { expected: String, found: String },
    #[error("a {what} does not end")]
    Unended { what: &'static str },
    #[error("{text} is no number that fits")]
    Number { text: String },
    #[error("the path {text} cannot be read")]
    Path { text: String },
    #[error("the class {class} does not exist")]
    NoSuchClass { class: String },
    #[error("the class {class} has no property {property}")]
    NoSuchProperty { class: String, property: String },
    #[error("{property} of type {cim_type} does not compare with {with}")]
    Incomparable { property: String, cim_type: String, with: String },
}

impl QueryError {
    /// The status that says it to a client.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self.problem {
            Problem::NoSuchClass { .. } => StatusCode::InvalidClass,
            Problem::NoSuchProperty { .. } => StatusCode::NoSuchProperty,
            _ => StatusCode::InvalidQuery,
        }
    }
}

/// Reads a query.
///
/// # Errors
/// When it does not have the shape of one, with the position of what is wrong. Whether its names exist is seen by
/// [`Query::check`].
pub fn parse(text: &str) -> Result<Query, QueryError> {
    if text.len() > LONGEST {
        return Err(QueryError { position: 0, problem: Problem::TooLong { length: text.len() } });
    }
    parser::Parser::new(lexer::tokens(text)?).query()
}

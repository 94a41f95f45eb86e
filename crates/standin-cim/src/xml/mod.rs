//! The elements of CIM-XML (DSP0201): values, paths, instances, classes and qualifier declarations, both ways.
//!
//! Reading goes over a tree of `roxmltree`, made by [`document::parse`] within limits; writing appends to a
//! `String`. Who calls it: `standin-cimxml` for its messages, `standin-wsman` for class definitions, and
//! [`crate::embedded`] for instances inside text.

pub mod document;
pub mod error;
pub mod read;
pub mod read_class;
pub mod read_path;
pub mod write;
pub mod write_class;

pub use document::{Limits, parse};
pub use error::XmlError;

//! CIM-XML over HTTP for the CIM model.

#![forbid(unsafe_code)]

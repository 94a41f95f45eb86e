//! WS-Management for the CIM model.

#![forbid(unsafe_code)]

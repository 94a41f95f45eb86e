//! The broker over a repository in memory, and the schema files, as a protocol or a tool sees them.

#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test; the helpers here are tests too")]

// The parts of the build script, which has no tests of its own.
#[path = "../../build/check.rs"]
mod check;
#[path = "../../build/emit.rs"]
mod emit;
#[path = "../../build/lexer.rs"]
mod lexer;
#[path = "../../build/parser.rs"]
mod parser;

mod broker;
mod changes;
mod files;
mod mof;
mod queries;
mod scene;
mod schemas;
mod walks;

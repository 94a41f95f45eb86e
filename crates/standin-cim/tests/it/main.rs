//! The broker over a repository in memory, and the schema files, as a protocol or a tool sees them.

#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test; the helpers here are tests too")]

mod broker;
mod changes;
mod mof;
mod queries;
mod scene;
mod schemas;
mod walks;

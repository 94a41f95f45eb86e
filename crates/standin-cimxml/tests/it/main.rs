//! The endpoint over the broker and a repository in memory: the rules of HTTP, and a real client.

#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test; the helpers here are tests too")]

mod errors;
mod http;
mod model;
mod pywbem;
mod server;
mod wbemcli;

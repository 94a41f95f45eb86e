//! The transport over real sockets, and its codecs under properties.

#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test; the helpers here are tests too")]

mod blocks;
mod certificates;
mod connection;
mod enrolment;
mod frames;
mod memory;
mod pki;
mod refusals;
mod support;

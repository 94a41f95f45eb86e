//! WS-Management in front of a broker with instances in memory: literal messages as each client sends them, and the
//! real clients themselves over HTTP.

#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

mod addressing;
mod bad_input;
mod calls;
mod clients;
mod enumerations;
mod identity;
mod listener;
mod model;
mod real;
mod values;

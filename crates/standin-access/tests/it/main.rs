//! The listener and the authenticator over real sockets: with hand-made requests for what no client sends, and
//! with the clients that people use.

#![expect(clippy::unwrap_used, reason = "a panic here is a failed test")]

mod basic;
mod certificates;
mod clients;
mod kerberos;
mod limits;
mod negotiate;
mod raw;
mod server;

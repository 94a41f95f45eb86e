//! The command line and the local API as a user meets them: the built binary against a scripted service behind
//! a real unix socket. What the engine does is tested elsewhere.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

mod api;
mod cli;
mod fence;
mod files;
mod jobs;
mod reasons;
mod scripted;
mod store;
mod world;

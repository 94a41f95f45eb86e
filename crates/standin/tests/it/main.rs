//! The command line and the local API as a user meets them: the built binary against a scripted service behind
//! a real unix socket. What the engine does is tested elsewhere.

#![forbid(unsafe_code)]

mod api;
mod cli;
mod files;
mod jobs;
mod scripted;
mod world;

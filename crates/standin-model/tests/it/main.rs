//! Tests of the vocabulary through its public face, one module for each of its modules that has rules.

mod auth;
mod digest;
mod health;
mod job;
mod network;
mod request;
mod retention;
mod settings;
mod stats;
mod transition;
mod view;

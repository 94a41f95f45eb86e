//! The daemon and its command line. The binary only wires: it parses, asks, prints, and starts the parts that
//! the other crates are.
//!
//! ```text
//!  args ──> cli ──────────────> api::client ══ unix socket ══> api::server ──> api::Service ──> the engine
//!            │  └> output           HTTP/1.1, JSON                 ▲
//!            └───> serve ──────────────────────────────────────────┘  service_impl builds the service
//! ```

#![forbid(unsafe_code)]

pub mod api;
pub mod args;
mod check;
pub mod cli;
pub mod config;
pub mod exit;
mod host_id;
mod listener;
pub mod logging;
mod management;
pub mod output;
pub mod reasons;
pub mod serve;
pub mod service_impl;
pub mod units;

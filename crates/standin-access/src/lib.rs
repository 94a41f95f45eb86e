//! Who may come in: the HTTP listeners of the management API, authentication, users and roles, the audit log.
//!
//! ```text
//! client ══ TCP or TLS ══> listener ──> auth ──> users (directory)
//!                             │           └────> throttle
//!                             ├──> seal   (messages that a client encrypted itself)
//!                             └──> endpoint::Endpoint (a protocol) ──> audit::Audited ──> operations
//! ```
//!
//! A listener reads a request whole, within its limits, finds out who sent it, unseals it where the client
//! seals, and hands it to an [`endpoint::Endpoint`]: a protocol. The protocol never sees a request of nobody.

#![forbid(unsafe_code)]

pub mod audit;
pub mod auth;
pub mod endpoint;
pub mod listener;
pub mod quota;
mod seal;
pub mod settings;
pub mod throttle;
pub mod users;

pub use audit::{AuditLog, Audited};
pub use auth::Authenticator;
pub use listener::{Listener, ListenerConfig};
pub use settings::AccessSettings;

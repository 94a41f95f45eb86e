//! Who may come in: the HTTP listeners of the management API, authentication, users and roles, the audit log.
//!
//! A listener reads a request whole, within its limits, finds out who sent it, unseals it where the client
//! seals, and hands it to an [`endpoint::Endpoint`]: a protocol. The protocol never sees a request of nobody.

#![forbid(unsafe_code)]

pub mod endpoint;

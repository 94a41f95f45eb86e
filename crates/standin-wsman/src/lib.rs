//! WS-Management (DSP0226, with the CIM binding DSP0227 and the additions of MS-WSMV) over the CIM model: an
//! [`Endpoint`](standin_access::endpoint::Endpoint) on `/wsman` in front of
//! [`Operations`](standin_cim::Operations).
//!
//! | Module | What |
//! | --- | --- |
//! | [`service`] | a request's way through the others |
//! | [`text`], [`envelope`] | from bytes to a checked message |
//! | [`resource`], [`epr`], [`values`], [`tree`] | what is in a message |
//! | [`transfer`], [`enumeration`] with [`filter`] and [`contexts`], [`invoke`], [`definitions`], [`identify`] | actions |
//! | [`write`], [`fault`] | what is in a reply |
//!
//! It knows no class by name, and nothing of the engine.

#![forbid(unsafe_code)]

pub mod contexts;
pub mod definitions;
pub mod enumeration;
pub mod envelope;
pub mod epr;
pub mod fault;
pub mod filter;
pub mod identify;
pub mod invoke;
pub mod names;
pub mod resource;
pub mod service;
pub mod text;
pub mod transfer;
pub mod tree;
pub mod values;
pub mod write;

pub use contexts::Limits;
pub use fault::{Fault, Kind};
pub use service::{Service, Settings};

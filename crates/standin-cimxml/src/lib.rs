//! CIM-XML (DSP0200, CIM Operations over HTTP; DSP0201, its XML) for the CIM model.
//!
//! ```text
//! headers, text        request            operation                     answer
//! ─────────────► http ─────────► request ──────────► intrinsic, method ──────────► HTTP 200
//!                  └───────── Refusal: HTTP 400, 415, 501 with CIMError ◄──┘
//! ```
//!
//! A message that is no CIM operation is refused in HTTP, by [`http::Refusal`]; an operation that is not done is
//! answered in HTTP 200 with an `ERROR` element. [`CimXml`] is the way in: an endpoint behind a listener of
//! `standin-access`, over any implementation of `standin_cim::Operations`.

#![forbid(unsafe_code)]

mod answer;
mod arguments;
mod associations;
mod classes;
mod enumerations;
pub mod http;
mod instances;
mod intrinsic;
mod method;
mod pulled;
pub mod request;
mod server;
mod shape;

pub use server::CimXml;

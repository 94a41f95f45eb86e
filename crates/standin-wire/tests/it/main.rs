//! The transport over real sockets, and its codecs under properties.

mod blocks;
mod certificates;
mod connection;
mod enrolment;
mod frames;
mod pki;
mod refusals;
mod support;

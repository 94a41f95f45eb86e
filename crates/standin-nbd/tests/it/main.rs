//! The NBD client against real QEMU servers and against a scripted peer that breaks the protocol; the server
//! against libnbd's tools, QEMU's tools and our own client.

#![expect(clippy::unwrap_used, reason = "a panic in a test is a failed test")]

mod fake;
mod handshakes;
mod lifecycle;
mod programs;
mod random;
mod real;
mod rude;
mod serve;
mod violations;

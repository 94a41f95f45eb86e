//! The NBD client against real QEMU servers and against a scripted peer that breaks the protocol; the server
//! against libnbd's tools, QEMU's tools and our own client.

mod fake;
mod programs;
mod real;
mod serve;
mod violations;

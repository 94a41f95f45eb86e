//! The harness against real images, namespaces and a real guest.

#![expect(clippy::unwrap_used, reason = "a panic in a helper of a test is a failed test")]

mod adoption;
mod application;
mod campaign;
mod enrolment;
mod failover_network;
mod first_copy;
mod images;
mod judged;
mod log;
mod losses;
mod management;
mod mixed;
mod names;
mod network;
mod never_two;
mod peers;
mod real_guest;
mod refusals;
mod rescue;
mod restarts;
mod rig;
mod uefi;
mod upgrade;
mod wayback;

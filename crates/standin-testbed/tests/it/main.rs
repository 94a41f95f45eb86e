//! The harness against real images, namespaces and a real guest.

#![expect(clippy::unwrap_used, reason = "a panic in a helper of a test is a failed test")]

mod images;
mod judged;
mod network;
mod real_guest;

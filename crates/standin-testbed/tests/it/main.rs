//! The harness against real images, namespaces and a real guest.

mod images;
mod judged;
mod network;
mod real_guest;

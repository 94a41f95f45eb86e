//! Integration tests of the hypervisor drivers: one binary, so that it links once.

mod agent;
mod probe;

//! Integration tests of the hypervisor drivers: one binary, so that it links once.

mod agent;
mod agent_network;
mod probe;
mod qemu_adopt;
mod qemu_cut;
mod qemu_freeze;
mod qemu_harness;
mod qemu_lifecycle;
mod qemu_local;
mod qemu_qmp;
mod qemu_running;
mod qemu_scratch;

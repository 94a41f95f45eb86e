//! Two hosts with engines over a hypervisor in memory, and on each the API that management clients speak to.

mod classes;
mod client;
mod codes;
mod documented;
mod failover;
mod jobs;
mod machines;
mod relationships;
mod roles;
mod service;
mod walks;

// The hosts, their link and the VM are those of the engine's own tests.
#[path = "../../../standin-engine/tests/it/host.rs"]
#[expect(dead_code, reason = "the engine's tests use more of it")]
mod host;
#[path = "../../../standin-engine/tests/it/link.rs"]
#[expect(dead_code, reason = "the engine's tests use more of it")]
mod link;
#[path = "../../../standin-engine/tests/it/world.rs"]
#[expect(dead_code, reason = "the engine's tests use more of it")]
mod world;

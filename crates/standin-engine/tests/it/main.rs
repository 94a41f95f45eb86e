//! Two engines in one process: real wire, real store, a hypervisor in memory.

mod control;
mod copy;
mod cycles;
mod failover;
mod host;
mod link;
mod resync;
mod upkeep;
mod world;

//! Two engines in one process: real wire, real store, a hypervisor in memory.

mod control;
mod copy;
mod crashes;
mod cycles;
mod digests;
mod earlier;
mod failover;
mod fence;
mod host;
mod link;
mod manage;
mod modify;
mod names;
mod network;
mod peers;
mod resync;
mod storage;
mod upkeep;
mod wayback;
mod world;

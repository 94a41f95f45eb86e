//! The store as its callers see it: against a model in memory, against qemu-img, and against crashes.

#![expect(clippy::cast_possible_truncation, reason = "the disks of these tests fit in memory")]

mod campaign;
mod crash;
mod damage;
mod full;
mod keep;
mod limits;
mod manifests;
mod qemu;
mod resume;
mod rig;
mod shape;

//! The store as its callers see it: against a model in memory, against qemu-img, and against crashes.

mod campaign;
mod crash;
mod damage;
mod limits;
mod qemu;
mod resume;
mod rig;
mod shape;

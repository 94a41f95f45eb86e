//! Tests of durable files through their public face.

mod append;
mod crash;
mod document;
mod documents;
mod files;
mod lock;
mod power;
mod recorder;

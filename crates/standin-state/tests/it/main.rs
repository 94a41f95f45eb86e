//! Tests of the state store through its public face.

mod contract;
mod crash;
mod damage;
mod lock;
mod typed;

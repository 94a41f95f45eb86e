//! Tests of the state store through its public face.

mod contract;
mod crash;
mod damage;
mod faulty;
mod typed;
mod watching;

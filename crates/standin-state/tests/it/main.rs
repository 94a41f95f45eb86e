//! Tests of the state store through its public face.

mod contract;
mod crash;
mod damage;
mod faulty;
mod newer_line;
mod typed;
mod watching;

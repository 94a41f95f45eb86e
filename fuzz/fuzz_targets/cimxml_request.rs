//! The reader of CIM-XML requests on what a client could send.
//!
//! Input: the body. Nothing may panic, and nothing may be accepted without an operation's name of its own.

#![no_main]

use libfuzzer_sys::fuzz_target;
use standin_cimxml::request::{self, Call};

fuzz_target!(|input: &str| {
    if let Ok(message) = request::read(input) {
        let (Call::Intrinsic { name, .. } | Call::Extrinsic { name, .. }) = &message.call;
        assert!(input.contains("CALL"), "{name}");
    }
});

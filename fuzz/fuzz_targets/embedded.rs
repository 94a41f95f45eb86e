//! Instances as text, CIM-XML and MOF, as a client puts them into a string parameter.
//!
//! Input: the text. Nothing may panic, and what is read must survive being written as CIM-XML and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use standin_cim::{ObjectPath, embedded};

fuzz_target!(|input: &str| {
    if let Some(path) = ObjectPath::parse(input) {
        let text = path.to_string();
        let again = ObjectPath::parse(&text).expect("a path that was written");
        assert!(again.to_string() == text, "{text:?}");
    }
    if let Ok(instance) = embedded::parse(input) {
        let text = embedded::to_text(&instance);
        let again = embedded::parse(&text);
        let written = again.as_ref().map(embedded::to_text);
        assert!(written.as_ref() == Ok(&text), "{text}\n{written:?}");
    }
});

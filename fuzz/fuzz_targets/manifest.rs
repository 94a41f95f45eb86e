//! The manifest reader on what could lie on disk.
//!
//! Input: the first byte says whether the text gets a good checksum line, so that the fuzzer reaches what is
//! behind it. Nothing may panic, and what is read must survive being written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use standin_store::manifest::parse;

fuzz_target!(|input: &[u8]| {
    let [mend, text @ ..] = input else { return };
    let mut text = text.to_vec();
    if mend & 1 == 1 {
        text.push(b'\n');
        let line = format!("blake3:{}\n", blake3::hash(&text).to_hex());
        text.extend(line.as_bytes());
    }
    if let Ok(manifest) = parse(&text) {
        let again = manifest.render().expect("a manifest that was read can be written");
        assert!(parse(&again).is_ok(), "a manifest that was written cannot be read");
    }
});

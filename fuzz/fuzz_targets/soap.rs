//! WS-Management's reader: any bytes give a message or a fault, and what is in a message is read without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use standin_wsman::{envelope, epr, filter, text, values};

fuzz_target!(|body: &[u8]| {
    let Ok((text, _)) = text::decode(body, None) else { return };
    let Ok(document) = envelope::parse(&text) else { return };
    let _ = envelope::identify(&document);
    let _ = envelope::message_id(&document);
    let Ok(message) = envelope::read(&document) else { return };
    let _ = message.resource();
    let schema = standin_cim::Schema::default();
    for node in message.body.descendants().filter(|node| node.is_element()) {
        let _ = filter::read(node);
        let _ = epr::read(node);
        let _ = epr::selectors(node);
    }
    let _ = values::named(message.body, &schema);
});

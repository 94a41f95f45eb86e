//! Whatever comes, a fault goes back, at once and without much memory.

use crate::model::*;
use hyper::Method;
use hyper::header::HeaderMap;
use standin_access::endpoint::{Endpoint, Request};
use std::time::{Duration, Instant};

fn get_vm() -> String {
    message(GET, &format!("{WMI}/Msvm_ComputerSystem"), &VM_KEYS, "")
}

#[tokio::test]
async fn document_types_and_entities_are_refused() {
    let world = World::new(1);
    for doctype in [
        "<!DOCTYPE s [<!ENTITY a \"x\">]>",
        "<!DOCTYPE s SYSTEM \"file:///etc/passwd\">",
        "<?xml version=\"1.0\"?><!DOCTYPE lolz [<!ENTITY l \"lol\"><!ENTITY m \"&l;&l;&l;&l;&l;&l;\">]>",
    ] {
        let reply =
            world.fault(&format!("{doctype}{}", get_vm()), "s:Sender", "w:SchemaValidationError").await;
        assert!(!reply.contains("root:"), "{reply}");
    }
    let entity = get_vm().replace("uuid:1", "&unknown;");
    world.fault(&entity, "s:Sender", "w:SchemaValidationError").await;
}

#[tokio::test]
async fn a_million_elements_are_a_fault_and_fast() {
    let world = World::new(1);
    let start = Instant::now();
    let nested = message(GET, "x", &[], &format!("{}{}", "<a>".repeat(1_000_000), "</a>".repeat(1_000_000)));
    world.fault(&nested, "s:Sender", "w:EncodingLimit").await;
    let beside = message(GET, "x", &[], &"<a/>".repeat(1_000_000));
    world.fault(&beside, "s:Sender", "w:EncodingLimit").await;
    let attributes: String = (0..100_000).map(|n| format!(" a{n}=''")).collect();
    world.fault(&message(GET, "x", &[], &format!("<a{attributes}/>")), "s:Sender", "w:EncodingLimit").await;
    let namespaces: String = (0..90).map(|n| format!("<a xmlns:n{n}='urn:{n}'>")).collect();
    let namespaces = format!("{namespaces}{}", "</a>".repeat(90));
    world.fault(&message(GET, "x", &[], &namespaces), "s:Sender", "w:EncodingLimit").await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test]
async fn half_messages_and_other_things_are_faults() {
    let world = World::new(1);
    let whole = get_vm();
    for cut in (0..whole.len()).step_by(7) {
        world.fault(&whole[..cut], "s:Sender", "").await;
    }
    for text in ["", " ", "hello", "{\"json\": true}", "<a/>", "<Envelope/>", "<?xml version=\"1.0\"?>"] {
        world.fault(text, "s:Sender", "w:SchemaValidationError").await;
    }
    let old = get_vm()
        .replace("http://www.w3.org/2003/05/soap-envelope", "http://schemas.xmlsoap.org/soap/envelope/");
    let reply = world.fault(&old, "s:VersionMismatch", "").await;
    assert!(reply.contains("<s:SupportedEnvelope qname=\"q:Envelope\""), "{reply}");
}

#[tokio::test]
async fn utf16_is_answered_in_utf16_and_broken_encodings_are_faults() {
    let world = World::new(1);
    let units: Vec<u8> =
        [0xfeff].into_iter().chain(get_vm().encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let reply = world.post(units, Some("application/soap+xml;charset=UTF-16")).await;
    assert_eq!((reply.status, reply.content_type), (200, "application/soap+xml;charset=UTF-16"));
    let (text, _) = standin_wsman::text::decode(&reply.body, None).unwrap();
    assert!(text.contains("<p:Letter>ä</p:Letter>"), "{text}");

    for (body, content_type) in [
        (&b"<s:Envelope>\xff\xfe"[..], None),
        (b"\xff\xfe<\x00s", Some("text/xml")),
        (b"<a/>", Some("text/xml; charset=EBCDIC")),
        (b"\xff\xfe\x00", None),
    ] {
        let reply = world.post(body.to_vec(), content_type).await;
        assert_eq!(reply.status, 500);
        let text = String::from_utf8(reply.body.to_vec()).or_else(|error| {
            standin_wsman::text::decode(error.as_bytes(), None).map(|(text, _)| text.into_owned())
        });
        assert!(text.unwrap().contains("<s:Fault>"));
    }
    let declared = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n{}", get_vm());
    let reply = world.post(declared, None).await;
    assert_eq!((reply.status, reply.content_type), (200, "application/soap+xml;charset=UTF-8"));
}

#[tokio::test]
async fn what_a_client_says_never_breaks_the_reply() {
    let world = World::new(1);
    for nasty in ["]]>", "&lt;/s:Envelope>", "&#1;", "&#xFFFE;", "\u{202e}", "&quot;'&amp;"] {
        let name = [("Name", nasty)];
        let (status, _) = world.send(&message(GET, &format!("{WMI}/Msvm_ComputerSystem"), &name, "")).await;
        assert_eq!(status, 500, "{nasty}");
        let (status, _) = world.send(&message(nasty, &format!("{WMI}/{nasty}"), &name, "")).await;
        assert_eq!(status, 500, "{nasty}");
        let body = format!("<n:Pull><n:EnumerationContext>{nasty}</n:EnumerationContext></n:Pull>");
        let (status, _) = world.send(&message(PULL, "x", &[], &body)).await;
        assert_eq!(status, 500, "{nasty}");
    }
}

#[tokio::test]
async fn references_within_references_have_an_end() {
    let mut epr = String::from("x");
    for _ in 0..20 {
        epr = format!(
            "<a:EndpointReference><a:ReferenceParameters><w:ResourceURI>{WMI}/Msvm_ComputerSystem</w:ResourceURI>\
             <w:SelectorSet><w:Selector Name=\"Name\">{epr}</w:Selector></w:SelectorSet>\
             </a:ReferenceParameters></a:EndpointReference>"
        );
    }
    let text = message(GET, &format!("{WMI}/Msvm_ComputerSystem"), &[("Name", &epr)], "");
    World::new(1).fault(&text, "s:Sender", "").await;
}

#[tokio::test]
async fn refusals_of_the_listener_are_said_as_faults() {
    let world = World::new(0);
    for (status, sent, subcode) in
        [(413, 500, "w:EncodingLimit"), (400, 400, "w:SchemaValidationError"), (408, 408, "w:TimedOut")]
    {
        let reply = world.service.refusal(status, "the body is <too> large");
        let text = String::from_utf8(reply.body.to_vec()).unwrap();
        assert_eq!(reply.status, sent);
        assert!(text.contains(subcode) && text.contains("&lt;too&gt;"), "{text}");
    }
}

#[tokio::test]
async fn only_post_is_spoken() {
    let world = World::new(0);
    for method in [Method::GET, Method::PUT, Method::OPTIONS] {
        let (headers, body) = (HeaderMap::new(), bytes::Bytes::new());
        let path = "/wsman".to_owned();
        let reply =
            world.service.call(Request { method, path, headers, body, caller: world.caller.clone() }).await;
        assert_eq!(reply.status, 405);
        assert_eq!(reply.headers.get("allow").unwrap(), "POST");
    }
}

#[tokio::test]
async fn open_enumerations_do_not_pile_up() {
    let world = World::new(50);
    let uri = format!("{WMI}/Msvm_ComputerSystem");
    let all = "<n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>100</w:MaxElements></n:Enumerate>";
    for _ in 0..200 {
        world.done(&message(ENUMERATE, &uri, &[], all)).await;
    }
    assert_eq!(world.service.contexts().size(), (0, 0));
}

/// A small generator whose runs repeat.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or_default() % sides.max(1)
    }

    /// A place in a text where it may be cut.
    fn place(&mut self, text: &str) -> usize {
        let at = self.roll(text.len() + 1);
        (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default()
    }
}

#[tokio::test]
async fn spoiled_messages_are_answered_in_xml_whatever_was_spoiled() {
    const SPOILS: [&str; 14] = [
        "<",
        ">",
        "</",
        "/>",
        "\"",
        "&",
        "]]>",
        "<![CDATA[",
        "<!--",
        "xmlns=\"\"",
        "\u{0}",
        "\u{fffe}",
        "99999999999999999999",
        "*",
    ];
    let world = World::new(3);
    let uri = format!("{WMI}/Msvm_ComputerSystem");
    let service = format!("{WMI}/Msvm_ReplicationService");
    let seeds = [
        get_vm(),
        message(
            ENUMERATE,
            &uri,
            &[],
            "<n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>2</w:MaxElements></n:Enumerate>",
        ),
        message(
            ENUMERATE,
            &uri,
            &[],
            "<n:Enumerate><w:Filter Dialect=\"http://schemas.microsoft.com/wbem/wsman/1/WQL\">select * from Msvm_ComputerSystem where Name = 'x' and not (Small < 3)</w:Filter></n:Enumerate>",
        ),
        message(
            PULL,
            &uri,
            &[],
            "<n:Pull><n:EnumerationContext>uuid:0B9F2F5E-61B2-4B8A-9C0A-8C2B6F3F9F10</n:EnumerationContext><n:MaxElements>2</n:MaxElements></n:Pull>",
        ),
        message(
            PUT,
            &uri,
            &VM_KEYS,
            "<p:X xmlns:p=\"urn:x\"><p:OtherName>a</p:OtherName><p:Roles>a</p:Roles><p:Roles>b</p:Roles></p:X>",
        ),
        message(
            &format!("{service}/InitiateFailover"),
            &service,
            &[("Name", "replication")],
            &format!(
                "<p:InitiateFailover_INPUT xmlns:p=\"urn:x\"><p:ComputerSystem><a:ReferenceParameters><w:ResourceURI>{uri}</w:ResourceURI><w:SelectorSet><w:Selector Name=\"Name\">{VM}</w:Selector></w:SelectorSet></a:ReferenceParameters></p:ComputerSystem></p:InitiateFailover_INPUT>"
            ),
        ),
    ];
    let mut dice = Dice(0x5eed);
    for round in 0..4000 {
        let mut text = seeds[round % seeds.len()].clone();
        for _ in 0..=dice.roll(4) {
            let (one, two) = (dice.place(&text), dice.place(&text));
            let (from, to) = (one.min(two), one.max(two));
            match dice.roll(4) {
                0 => text.insert_str(from, SPOILS[dice.roll(SPOILS.len())]),
                1 => text.replace_range(from..to, ""),
                2 => text.truncate(to),
                _ => {
                    let piece = text[from..to].to_owned();
                    text.insert_str(from, &piece);
                }
            }
        }
        let (status, reply) = world.send(&text).await;
        assert!(status == 200 || reply.contains("<s:Fault>"), "round {round}: {text}");
    }
}

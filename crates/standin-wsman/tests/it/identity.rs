//! Identify, with and without a name.

use crate::model::*;
use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderValue};
use standin_access::endpoint::Endpoint;

fn identify(namespace: &str, header: &str) -> String {
    format!(
        "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" xmlns:i=\"{namespace}\">{header}\
         <s:Body><i:Identify/></s:Body></s:Envelope>"
    )
}

const RIGHT: &str = "http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd";
const WRONG: &str = "http://schemas.dmtf.org/wbem/wsman/identify/1/wsmanidentity.xsd";

#[tokio::test]
async fn the_header_may_be_empty_or_missing_and_the_namespace_comes_back() {
    let world = World::new(0);
    for namespace in [RIGHT, WRONG] {
        for header in ["", "<s:Header/>", "<s:Header></s:Header>"] {
            let reply = world.done(&identify(namespace, header)).await;
            assert!(
                reply.contains(&format!("<wsmid:IdentifyResponse xmlns:wsmid=\"{namespace}\">")),
                "{reply}"
            );
            for part in [
                "<wsmid:ProtocolVersion>http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd</wsmid:ProtocolVersion>",
                "<wsmid:ProductVendor>standin</wsmid:ProductVendor>",
                &format!("<wsmid:ProductVersion>{}</wsmid:ProductVersion>", env!("CARGO_PKG_VERSION")),
                "<wsmid:SecurityProfileName>http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/basic<",
            ] {
                assert!(reply.contains(part), "{part} in {reply}");
            }
        }
    }
}

#[tokio::test]
async fn without_a_name_only_identify_is_answered_and_only_when_asked_for_so() {
    let world = World::new(1);
    let mut asked = HeaderMap::new();
    asked.insert("wsmanidentify", HeaderValue::from_static("unauthenticated"));
    let body = Bytes::from(identify(RIGHT, ""));
    let answer = world.service.anonymous("/wsman", &asked, &body).unwrap();
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert_eq!(answer.status, 200);
    assert!(
        text.contains("<wsmid:ProductVersion></wsmid:ProductVersion>"),
        "no version for strangers: {text}"
    );

    assert!(world.service.anonymous("/wsman", &HeaderMap::new(), &body).is_none(), "not asked for");
    assert!(world.service.anonymous("/other", &asked, &body).is_none(), "another path");
    let get = Bytes::from(message(GET, &format!("{WMI}/Msvm_ComputerSystem"), &VM_KEYS, ""));
    assert!(world.service.anonymous("/wsman", &asked, &get).is_none(), "not an Identify");
    let both = identify(RIGHT, "").replace("<i:Identify/>", "<n:X xmlns:n=\"urn:n\"/><i:Identify/>");
    assert!(world.service.anonymous("/wsman", &asked, &both.into()).is_none(), "not an Identify first");
    let large = Bytes::from(identify(RIGHT, &format!("<!--{}-->", "x".repeat(20_000))));
    assert!(world.service.anonymous("/wsman", &asked, &large).is_none(), "too large for a stranger");
}

#[tokio::test]
async fn it_is_served_on_its_path_alone() {
    let world = World::new(0);
    for path in ["/wsman", "/wsman/", "/WSMAN"] {
        assert!(world.service.serves(path), "{path}");
    }
    for path in ["/", "/wsman/x", "/cimom", "", "/wsman-anon/identify"] {
        assert!(!world.service.serves(path), "{path}");
    }
    assert_eq!(world.service.protocol(), "ws-management");
}

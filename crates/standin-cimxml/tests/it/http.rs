//! The rules of DSP0200 about HTTP.

use crate::model::{SMALL, endpoint, intrinsic, message, request};
use standin_access::endpoint::{Endpoint, Response};

fn body(response: &Response) -> String {
    String::from_utf8(response.body.to_vec()).unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn an_operation_is_answered_with_its_message_id_and_the_response_header() {
    let text = intrinsic(
        "EnumerateInstanceNames",
        r#"<IPARAMVALUE NAME="ClassName"><CLASSNAME NAME="tst_base"/></IPARAMVALUE>"#,
    );
    let response = endpoint(SMALL).call(request("EnumerateInstanceNames", &text)).await;
    assert_eq!((response.status, header(&response, "cimoperation")), (200, Some("MethodResponse")));
    assert_eq!(response.content_type, "application/xml; charset=\"utf-8\"");
    let body = body(&response);
    assert!(body.contains(r#"<MESSAGE ID="id-&lt;7&gt;" PROTOCOLVERSION="1.0">"#), "{body}");
    assert!(body.contains(r#"<IMETHODRESPONSE NAME="EnumerateInstanceNames"><IRETURNVALUE><INSTANCENAME CLASSNAME="TST_Base"><KEYBINDING NAME="Id"><KEYVALUE VALUETYPE="string">one é</KEYVALUE>"#), "{body}");
}

#[tokio::test]
async fn an_error_of_cim_comes_in_http_200_with_its_details() {
    let server = endpoint(SMALL);
    let text = intrinsic(
        "EnumerateInstances",
        r#"<IPARAMVALUE NAME="ClassName"><CLASSNAME NAME="No"/></IPARAMVALUE>"#,
    );
    let response = server.call(request("EnumerateInstances", &text)).await;
    assert_eq!(response.status, 200);
    assert!(
        body(&response)
            .contains(r#"<IMETHODRESPONSE NAME="EnumerateInstances"><ERROR CODE="5" DESCRIPTION=""#)
    );

    let call = r#"<METHODCALL NAME="Fail"><LOCALINSTANCEPATH><LOCALNAMESPACEPATH><NAMESPACE NAME="root"/><NAMESPACE NAME="test"/></LOCALNAMESPACEPATH><INSTANCENAME CLASSNAME="TST_Base"><KEYBINDING NAME="Id"><KEYVALUE VALUETYPE="string">one é</KEYVALUE></KEYBINDING></INSTANCENAME></LOCALINSTANCEPATH></METHODCALL>"#;
    let mut asked = request("Fail", &message(call));
    asked.headers.insert("cimobject", "root%2Ftest%3ATST_Base.Id%3D%22one%20%C3%A9%22".parse().unwrap());
    let response = server.call(asked).await;
    let text = body(&response);
    assert!(text.contains(r#"<METHODRESPONSE NAME="Fail"><ERROR CODE="2" DESCRIPTION="not for &lt;you&gt; &amp; &quot;others&quot;"><INSTANCE CLASSNAME="CIM_Error">"#), "{text}");
}

#[tokio::test]
async fn a_message_that_is_none_is_refused_with_cimerror() {
    let server = endpoint(SMALL);
    let good = intrinsic("EnumerateClassNames", "");
    for (method, text, status, cim_error) in [
        ("EnumerateClassNames", good.clone(), 200, None),
        ("enumerateclassnames", good.clone(), 200, None),
        ("GetClass", good.clone(), 400, Some("header-mismatch")),
        ("EnumerateClassNames", good.replace("test", "other"), 400, Some("header-mismatch")),
        ("EnumerateClassNames", good.replace("</CIM>", ""), 400, Some("request-not-well-formed")),
        ("EnumerateClassNames", good.replace("IMETHODCALL", "IMETHOD"), 400, Some("request-not-valid")),
        (
            "EnumerateClassNames",
            good.replace("SIMPLEREQ", "MULTIREQ"),
            501,
            Some("multiple-requests-unsupported"),
        ),
        (
            "EnumerateClassNames",
            good.replace("PROTOCOLVERSION=\"1.0\"", "PROTOCOLVERSION=\"9\""),
            501,
            Some("unsupported-protocol-version"),
        ),
    ] {
        let response = server.call(request(method, &text)).await;
        assert_eq!((response.status, header(&response, "cimerror")), (status, cim_error), "{text}");
        assert_eq!(header(&response, "pgerrordetail").is_some(), cim_error.is_some());
    }
}

#[tokio::test]
async fn other_methods_of_http_are_refused_and_options_are_told() {
    let server = endpoint(SMALL);
    let mut asked = request("EnumerateClassNames", &intrinsic("EnumerateClassNames", ""));
    asked.method = "GET".parse().unwrap();
    let response = server.call(asked.clone()).await;
    assert_eq!((response.status, header(&response, "allow")), (405, Some("POST, M-POST, OPTIONS")));
    asked.method = "OPTIONS".parse().unwrap();
    let response = server.call(asked.clone()).await;
    assert_eq!(response.status, 200);
    assert_eq!(header(&response, "77-cimprotocolversion"), Some("1.0"));
    assert!(header(&response, "opt").unwrap().ends_with("ns=77"));
    assert!(header(&response, "77-cimsupportedfunctionalgroups").unwrap().contains("association-traversal"));
}

#[tokio::test]
async fn an_m_post_is_served_and_answered_as_one() {
    let server = endpoint(SMALL);
    let mut asked = request("EnumerateClassNames", &intrinsic("EnumerateClassNames", ""));
    asked.method = "M-POST".parse().unwrap();
    assert_eq!(server.call(asked.clone()).await.status, 510);
    asked.headers.insert("man", "http://www.dmtf.org/cim/mapping/http/v1.0 ; ns=42".parse().unwrap());
    for name in ["cimoperation", "cimmethod", "cimobject"] {
        let value = asked.headers.remove(name).unwrap();
        asked.headers.insert(format!("42-{name}").parse::<hyper::header::HeaderName>().unwrap(), value);
    }
    let response = server.call(asked).await;
    assert_eq!((response.status, header(&response, "42-cimoperation")), (200, Some("MethodResponse")));
    assert!(header(&response, "ext").is_some());
}

#[tokio::test]
async fn a_body_in_another_encoding_is_refused_or_read() {
    let server = endpoint(SMALL);
    let text = intrinsic("EnumerateClassNames", "");
    let mut asked = request("EnumerateClassNames", &text);
    asked.body =
        format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>().into();
    assert_eq!(server.call(asked.clone()).await.status, 200);
    asked.body = vec![b'<', 0xff, 0xfe].into();
    assert_eq!(server.call(asked.clone()).await.status, 400);
    asked.headers.insert("content-type", "application/xml; charset=koi8-r".parse().unwrap());
    assert_eq!(server.call(asked).await.status, 415);
}

#[tokio::test]
async fn hostile_xml_is_refused_at_once() {
    let server = endpoint(SMALL);
    let begin = std::time::Instant::now();
    for text in [
        "<a>".repeat(1_000_000),
        format!("<a>{}</a>", "<b/>".repeat(1_000_000)),
        format!("<a {}/>", (0..200_000).map(|at| format!("a{at}='' ")).collect::<String>()),
        format!("<!DOCTYPE CIM [<!ENTITY a \"{}\">]><CIM>&a;</CIM>", "a".repeat(1000)),
    ] {
        let response = server.call(request("EnumerateClassNames", &text)).await;
        assert_eq!((response.status, header(&response, "cimerror")), (400, Some("request-not-well-formed")));
    }
    assert!(begin.elapsed() < std::time::Duration::from_secs(3), "{:?}", begin.elapsed());
}

#[test]
fn a_refusal_of_the_listener_is_plain_text() {
    let response = endpoint(SMALL).refusal(413, "the body is too long");
    assert_eq!((response.status, body(&response).as_str()), (413, "the body is too long\n"));
    assert!(endpoint(SMALL).serves("/anything"));
    assert_eq!(endpoint(SMALL).protocol(), "cim-xml");
}

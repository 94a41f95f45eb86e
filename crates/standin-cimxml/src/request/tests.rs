//! Messages as clients send them, and as nobody should.

use super::*;
use standin_cim::{CimType, RawValue, TypedValue, Value};

fn message(call: &str) -> String {
    format!(
        r#"<?xml version="1.0" encoding="utf-8" ?><CIM CIMVERSION="2.0" DTDVERSION="2.0"><MESSAGE ID="1001" PROTOCOLVERSION="1.0"><SIMPLEREQ>{call}</SIMPLEREQ></MESSAGE></CIM>"#
    )
}

const SPACE: &str =
    r#"<LOCALNAMESPACEPATH><NAMESPACE NAME="root"/><NAMESPACE NAME="x"/></LOCALNAMESPACEPATH>"#;

#[test]
fn an_intrinsic_call_reads() {
    let text = message(&format!(
        r#"<CORRELATOR NAME="c" TYPE="string"><VALUE>1</VALUE></CORRELATOR><IMETHODCALL NAME="EnumerateInstances">{SPACE}
        <IPARAMVALUE NAME="ClassName"><CLASSNAME NAME="CIM_Foo"/></IPARAMVALUE>
        <IPARAMVALUE NAME="PropertyList"><VALUE.ARRAY><VALUE>A</VALUE><VALUE>B</VALUE></VALUE.ARRAY></IPARAMVALUE>
        <IPARAMVALUE NAME="DeepInheritance"><VALUE>FALSE</VALUE></IPARAMVALUE><IPARAMVALUE NAME="Role"/></IMETHODCALL>"#
    ));
    let read = read(&text).unwrap();
    assert_eq!(read.id, "1001");
    let Call::Intrinsic { name, namespace, arguments } = read.call else { panic!("extrinsic") };
    assert_eq!((name.as_str(), namespace), ("EnumerateInstances", Namespace::new("root/x")));
    let arguments = arguments.unwrap();
    assert!(matches!(&arguments[0].value, RawValue::Reference(path) if path.class == "CIM_Foo"));
    let list = vec![RawValue::Text("A".into()), RawValue::Text("B".into())];
    assert_eq!(arguments[1].value, RawValue::Array(list));
    assert_eq!(arguments[2].value, RawValue::Text("FALSE".into()));
    assert_eq!(arguments[3].value, RawValue::Null);
}

#[test]
fn an_extrinsic_call_reads() {
    let path = format!(
        r#"<LOCALINSTANCEPATH>{SPACE}<INSTANCENAME CLASSNAME="C"><KEYBINDING NAME="K"><KEYVALUE VALUETYPE="string">v</KEYVALUE></KEYBINDING></INSTANCENAME></LOCALINSTANCEPATH>"#
    );
    let text = message(&format!(
        r#"<METHODCALL NAME="Do">{path}<PARAMVALUE NAME="N" PARAMTYPE="uint16"><VALUE>7</VALUE></PARAMVALUE>
        <PARAMVALUE NAME="R" PARAMTYPE="reference"><VALUE.REFERENCE>{path}</VALUE.REFERENCE></PARAMVALUE>
        <PARAMVALUE NAME="I" PARAMTYPE="string" EmbeddedObject="instance"><VALUE>&lt;INSTANCE CLASSNAME="X"/&gt;</VALUE></PARAMVALUE>
        <PARAMVALUE NAME="Z" PARAMTYPE="string"/></METHODCALL>"#
    ));
    let read = read(&text).unwrap();
    assert!(read.agree("do", "root/X:c.K=\"v\"").is_ok());
    assert!(read.agree("do", "root/y:C.K=\"v\"").is_err());
    assert!(read.agree("other", "root/x:C.K=\"v\"").is_err());
    let Call::Extrinsic { call: Ok(call), .. } = read.call else { panic!("not read") };
    assert_eq!(call.target.to_string(), "root/x:C.K=\"v\"");
    let seven = TypedValue { cim_type: CimType::Uint16, array: false, value: Some(Value::Uint16(7)) };
    assert_eq!(call.arguments[0].value, RawValue::Typed(seven));
    assert!(matches!(&call.arguments[1].value, RawValue::Reference(path) if path.class == "C"));
    assert!(matches!(
        &call.arguments[2].value,
        RawValue::Typed(TypedValue { value: Some(Value::Instance(_)), .. })
    ));
    assert_eq!(call.arguments[3].value, RawValue::Null);
}

#[test]
fn a_value_of_the_wrong_type_is_an_error_of_the_operation() {
    let text = message(&format!(
        r#"<METHODCALL NAME="Do"><LOCALCLASSPATH>{SPACE}<CLASSNAME NAME="C"/></LOCALCLASSPATH><PARAMVALUE NAME="N" PARAMTYPE="uint16"><VALUE>x</VALUE></PARAMVALUE></METHODCALL>"#
    ));
    let Call::Extrinsic { call: Err(error), .. } = read(&text).unwrap().call else { panic!("read") };
    assert_eq!(error.status, StatusCode::InvalidParameter);
    assert!(error.message.contains('N'), "{error}");
}

#[test]
fn what_is_no_request_is_refused_with_the_header_of_the_standard() {
    let good = message(&format!(r#"<IMETHODCALL NAME="X">{SPACE}</IMETHODCALL>"#));
    assert!(read(&good).is_ok());
    let long = "<a>".repeat(1_000_000);
    for (text, status, cim_error) in [
        (String::new(), 400, "request-not-well-formed"),
        (good.replace("</CIM>", ""), 400, "request-not-well-formed"),
        (good.replace("?><CIM", "?><!DOCTYPE CIM><CIM"), 400, "request-not-well-formed"),
        (long, 400, "request-not-well-formed"),
        (good.replace("CIMVERSION=\"2.0\"", "CIMVERSION=\"3.0\""), 501, "unsupported-cim-version"),
        (good.replace("DTDVERSION=\"2.0\"", "DTDVERSION=\"1.0\""), 501, "unsupported-dtd-version"),
        (
            good.replace("PROTOCOLVERSION=\"1.0\"", "PROTOCOLVERSION=\"2.0\""),
            501,
            "unsupported-protocol-version",
        ),
        (good.replace("SIMPLEREQ", "MULTIREQ"), 501, "multiple-requests-unsupported"),
        (good.replace("SIMPLEREQ", "SIMPLERSP"), 400, "request-not-valid"),
        (good.replace(" ID=\"1001\"", ""), 400, "request-not-valid"),
        (good.replace("IMETHODCALL", "EXPMETHODCALL"), 400, "request-not-valid"),
        (good.replace("<SIMPLEREQ>", "<SIMPLEREQ><IMETHODCALL/>"), 400, "request-not-valid"),
        (good.replace("CIM>", "CIM2>").replace("<CIM ", "<CIM2 "), 400, "request-not-valid"),
        (message(r#"<IMETHODCALL NAME="X"></IMETHODCALL>"#), 400, "request-not-valid"),
        (message(r#"<METHODCALL NAME="X"><CLASSNAME NAME="C"/></METHODCALL>"#), 400, "request-not-valid"),
        (message(r#"<METHODCALL NAME="X"/>"#), 400, "request-not-valid"),
        (
            message(&format!(r#"<IMETHODCALL NAME="X">{SPACE}<PARAMVALUE NAME="a"/></IMETHODCALL>"#)),
            400,
            "request-not-valid",
        ),
        (
            message(&format!(r#"<IMETHODCALL NAME="X">{SPACE}<IPARAMVALUE/></IMETHODCALL>"#)),
            400,
            "request-not-valid",
        ),
        (message("<IMETHODCALL NAME=\"X\"><LOCALNAMESPACEPATH/></IMETHODCALL>"), 400, "request-not-valid"),
    ] {
        let refusal = read(&text).unwrap_err();
        assert_eq!((refusal.status.as_u16(), refusal.cim_error), (status, Some(cim_error)), "{:.300}", text);
    }
}

#[test]
fn a_change_of_the_schema_is_read_without_its_class() {
    let text = message(&format!(
        r#"<IMETHODCALL NAME="CreateClass">{SPACE}<IPARAMVALUE NAME="NewClass"><CLASS NAME="X"/></IPARAMVALUE></IMETHODCALL>"#
    ));
    assert!(
        matches!(read(&text).unwrap().call, Call::Intrinsic { arguments: Ok(arguments), .. } if arguments.is_empty())
    );
}

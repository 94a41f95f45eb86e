//! The repository that the tests ask: read from CIM-XML, so that another server can have the same.

use standin_access::endpoint::Request;
use standin_cim::broker::Broker;
use standin_cim::memory::Repository;
use standin_cim::xml::read_path::{children, name};
use standin_cim::xml::{Limits, parse, read, read_class};
use standin_cim::{
    Caller, CimError, CimType, Instance, MethodAnswer, MethodCall, QualifierDecl, RawValue, Role, Schema,
    StatusCode, TypedValue, Value,
};
use standin_cimxml::CimXml;
use std::sync::Arc;

pub const NAMESPACE: &str = "root/test";

/// An endpoint over what a text of `CLASS`, `QUALIFIER.DECLARATION` and `VALUE.NAMEDINSTANCE` elements says.
pub fn endpoint(text: &str) -> CimXml {
    let limits = Limits { bytes: usize::MAX, ..Limits::REQUEST };
    let document = parse(text, &limits).unwrap();
    let (mut classes, mut qualifiers, mut instances) = (Vec::new(), Vec::<QualifierDecl>::new(), Vec::new());
    for element in children(document.root_element()) {
        match name(element) {
            "CLASS" => classes.push(read_class::class(element).unwrap()),
            "QUALIFIER.DECLARATION" => qualifiers.push(read_class::qualifier_declaration(element).unwrap()),
            _ => instances.push(read::named_instance(element).unwrap()),
        }
    }
    let repository = Repository::new()
        .with_namespace(NAMESPACE, Arc::new(Schema::new(classes)))
        .with_method("TST_Thing.Do", all_arguments)
        .with_method("TST_Base.Count", |_, call| {
            let out = vec![("Class".into(), text_value(call.target.class.to_string()))];
            Ok(MethodAnswer { return_value: 4096, out })
        })
        .with_method("TST_Base.Fail", |_, _| {
            let mut error = CimError::new(StatusCode::AccessDenied, "not for <you> & \"others\"");
            let mut detail = Instance::new("CIM_Error");
            detail.set("Message", CimType::String, false, Some("a detail".into()));
            error.details.push(detail);
            Err(error)
        });
    for instance in instances {
        repository.put(NAMESPACE, Instance { path: None, ..instance }).unwrap();
    }
    let broker = Broker::new(repository).with_host("testhost");
    CimXml::new(Arc::new(broker), "testhost").with_qualifiers(qualifiers)
}

fn text_value(text: String) -> TypedValue {
    TypedValue { cim_type: CimType::String, array: false, value: Some(Value::String(text)) }
}

/// Gives every argument back: what it understood as text, and values of each kind.
fn all_arguments(_: &Caller, call: &MethodCall) -> standin_cim::Result<MethodAnswer> {
    let said = |argument: &standin_cim::Named| {
        let value = match &argument.value {
            RawValue::Null => "null".to_owned(),
            RawValue::Text(text) => format!("text {text}"),
            RawValue::Reference(path) => format!("path {path}"),
            RawValue::Instance(instance) => format!("instance {}", instance.class),
            RawValue::Array(values) => format!("{} values", values.len()),
            RawValue::Typed(typed) => match &typed.value {
                Some(Value::Instance(instance)) => {
                    format!("instance {} {}", instance.class, instance.properties.len())
                }
                Some(value) => format!("{} {}", typed.cim_type.as_str(), value.to_text()),
                None => "typed null".to_owned(),
            },
        };
        format!("{}: {value}", argument.name)
    };
    let mut said: Vec<_> = call.arguments.iter().map(said).collect();
    said.sort();
    let mut inner = Instance::new("TST_Inner");
    inner.set("Text", CimType::String, false, Some("a < b".into()));
    inner.set("Number", CimType::Uint16, false, Some(Value::Uint16(7)));
    let typed = |cim_type, array, value| TypedValue { cim_type, array, value };
    let numbers = Value::Array(vec![Some(Value::Uint16(1)), None, Some(Value::Uint16(3))]);
    let out = vec![
        ("Said".into(), text_value(said.join("; "))),
        ("Nothing".into(), typed(CimType::Uint32, false, None)),
        ("Many".into(), typed(CimType::Uint16, true, Some(numbers))),
        ("Where".into(), typed(CimType::Reference, false, Some(call.target.clone().into()))),
        ("Given".into(), typed(CimType::String, false, Some(inner.into()))),
    ];
    Ok(MethodAnswer { return_value: 0, out })
}

pub fn caller(name: &str) -> Caller {
    Caller {
        name: name.into(),
        role: Role::Administrator,
        from: "127.0.0.1:1".parse().unwrap(),
        proof: "basic",
        protocol: "cim-xml",
    }
}

/// A model small enough to be written here.
pub const SMALL: &str = r#"<MODEL>
<CLASS NAME="TST_Base"><PROPERTY NAME="Id" TYPE="string" CLASSORIGIN="TST_Base"><QUALIFIER NAME="Key" TYPE="boolean"><VALUE>true</VALUE></QUALIFIER></PROPERTY>
<PROPERTY NAME="Size" TYPE="uint32" CLASSORIGIN="TST_Base"/>
<METHOD NAME="Fail" TYPE="uint32" CLASSORIGIN="TST_Base"/></CLASS>
<VALUE.NAMEDINSTANCE><INSTANCENAME CLASSNAME="TST_Base"/><INSTANCE CLASSNAME="TST_Base"><PROPERTY NAME="Id" TYPE="string"><VALUE>one é</VALUE></PROPERTY></INSTANCE></VALUE.NAMEDINSTANCE>
</MODEL>"#;

/// A message with one call.
pub fn message(call: &str) -> String {
    format!(
        r#"<?xml version="1.0" encoding="utf-8" ?><CIM CIMVERSION="2.0" DTDVERSION="2.0"><MESSAGE ID="id-&lt;7&gt;" PROTOCOLVERSION="1.0"><SIMPLEREQ>{call}</SIMPLEREQ></MESSAGE></CIM>"#
    )
}

/// An intrinsic call in the namespace of the tests.
pub fn intrinsic(name: &str, arguments: &str) -> String {
    message(&format!(
        r#"<IMETHODCALL NAME="{name}"><LOCALNAMESPACEPATH><NAMESPACE NAME="root"/><NAMESPACE NAME="test"/></LOCALNAMESPACEPATH>{arguments}</IMETHODCALL>"#
    ))
}

/// A request with the headers of an operation.
pub fn request(method: &str, body: &str) -> Request {
    let headers = [
        ("content-type", "application/xml; charset=\"utf-8\""),
        ("cimoperation", "MethodCall"),
        ("cimmethod", method),
        ("cimobject", "root%2Ftest"),
    ];
    Request {
        method: "POST".parse().unwrap(),
        path: "/cimom".to_owned(),
        headers: headers
            .into_iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect(),
        body: body.to_owned().into(),
        caller: caller("admin"),
    }
}

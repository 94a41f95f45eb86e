//! Instances as text: what clients send, and round trips of what we send.

use super::*;
use crate::{CimType, Datetime, Key, KeyValue, ObjectPath, TypedValue, Value, same_name};
use jiff::Timestamp;
use proptest::prelude::*;

#[test]
fn the_text_of_a_wmi_serializer_reads() {
    let text = r#"<INSTANCE CLASSNAME="Msvm_ReplicationSettingData">
      <PROPERTY NAME="__PATH" CLASSORIGIN="___SYSTEM" TYPE="string"><VALUE>x</VALUE></PROPERTY>
      <PROPERTY NAME="Sys" CLASSORIGIN="___SYSTEM" TYPE="odd"><VALUE>x</VALUE></PROPERTY>
      <QUALIFIER NAME="dynamic" TYPE="boolean"><VALUE>TRUE</VALUE></QUALIFIER>
      <PROPERTY NAME="RecoveryHistory" CLASSORIGIN="Msvm_ReplicationSettingData" TYPE="uint32"><VALUE>4</VALUE></PROPERTY>
      <PROPERTY NAME="CompressionEnabled" TYPE="boolean" MODIFIED="TRUE"><VALUE>TRUE</VALUE></PROPERTY>
      <PROPERTY NAME="ApplicationConsistentSnapshotInterval" TYPE="uint16"/>
      <PROPERTY NAME="When" TYPE="datetime"><VALUE>20130415162843.488171+000</VALUE></PROPERTY>
      <PROPERTY.ARRAY NAME="IncludedDisks" TYPE="string"><VALUE.ARRAY>
        <VALUE>\\H\root\virtualization\v2:X.I="a&amp;b"</VALUE><VALUE.NULL/><VALUE/></VALUE.ARRAY></PROPERTY.ARRAY>
      <PROPERTY.ARRAY NAME="Flags" TYPE="uint8"><VALUE.ARRAY></VALUE.ARRAY></PROPERTY.ARRAY>
    </INSTANCE>"#;
    for text in [
        text.to_owned(),
        format!("\u{feff}<?xml version=\"1.0\" encoding=\"utf-16\"?>\r\n{text}"),
        format!("<DECLARATIONS><DECLGROUP><VALUE.OBJECT>{text}</VALUE.OBJECT></DECLGROUP></DECLARATIONS>"),
        format!(
            "<CIM CIMVERSION=\"2.0\" DTDVERSION=\"2.0\"><DECLARATION><DECLGROUP><VALUE.OBJECT>{text}</VALUE.OBJECT></DECLGROUP></DECLARATION></CIM>"
        ),
    ] {
        let instance = parse(&text).unwrap();
        assert_eq!(instance.class, "Msvm_ReplicationSettingData");
        assert_eq!(instance.value("recoveryhistory"), Some(&Value::Uint32(4)));
        assert_eq!(instance.value("CompressionEnabled"), Some(&Value::Boolean(true)));
        let interval = instance.property("ApplicationConsistentSnapshotInterval").unwrap();
        assert_eq!((interval.value.cim_type, &interval.value.value), (CimType::Uint16, &None));
        assert!(matches!(instance.value("When"), Some(Value::Datetime(Datetime::Instant { .. }))));
        let disk = r#"\\H\root\virtualization\v2:X.I="a&b""#;
        let disks = vec![Some(disk.into()), None, Some("".into())];
        assert_eq!(instance.value("IncludedDisks"), Some(&Value::Array(disks)));
        assert_eq!(instance.value("Flags"), Some(&Value::Array(Vec::new())));
        assert_eq!(instance.properties.len(), 6, "system properties are left out");
    }
}

#[test]
fn mof_is_told_by_its_beginning() {
    let instance = parse("  instance of X { A = \"<b>\"; };").unwrap();
    assert_eq!(instance.value("A"), Some(&Value::String("<b>".into())));
}

#[test]
fn an_inner_instance_is_escaped_once_more() {
    let mut inner = Instance::new("Inner");
    inner.set("Text", CimType::String, false, Some("a < \"b\" & c".into()));
    let mut middle = Instance::new("Middle");
    middle.set("One", CimType::String, false, Some(inner.clone().into()));
    let mut outer = Instance::new("Outer");
    outer.set("Many", CimType::String, true, Some(Value::Array(vec![Some(middle.into()), None])));
    let text = to_text(&outer);
    assert!(text.contains("&amp;lt;INSTANCE"), "{text}");
    assert_eq!(parse(&text).unwrap(), outer);
}

#[test]
fn wmi_objects_in_objects_read_without_escapes() {
    let text = r#"<INSTANCE CLASSNAME="A"><PROPERTY.OBJECT NAME="P"><VALUE.OBJECT><INSTANCE CLASSNAME="B"/></VALUE.OBJECT>
        </PROPERTY.OBJECT><PROPERTY.OBJECTARRAY NAME="Q"><VALUE.OBJECTARRAY><VALUE.OBJECT><INSTANCE CLASSNAME="C"/>
        </VALUE.OBJECT></VALUE.OBJECTARRAY></PROPERTY.OBJECTARRAY></INSTANCE>"#;
    let instance = parse(text).unwrap();
    assert_eq!(instance.value("P"), Some(&Instance::new("B").into()));
    assert_eq!(instance.value("Q"), Some(&vec![Instance::new("C")].into()));
}

#[test]
fn what_is_no_instance_is_refused_with_a_reason() {
    let property = |inner: &str| format!("<INSTANCE CLASSNAME=\"X\">{inner}</INSTANCE>");
    for (text, reason) in [
        ("<INSTANCE/>".to_owned(), "CLASSNAME"),
        ("<CLASS NAME=\"X\"/>".to_owned(), "INSTANCE"),
        ("<VALUE.OBJECT/>".to_owned(), "lacks INSTANCE"),
        ("<INSTANCE CLASSNAME=\"X\">".to_owned(), "well-formed"),
        ("<!DOCTYPE a><INSTANCE CLASSNAME=\"X\"/>".to_owned(), "document type"),
        ("<INSTANCE CLASSNAME=\"X Y\"/>".to_owned(), "CLASSNAME=\"X Y\""),
        (property("<VALUE/>"), "may not have <VALUE>"),
        (property("<PROPERTY NAME=\"A\"><VALUE>1</VALUE></PROPERTY>"), "lacks TYPE"),
        (property("<PROPERTY NAME=\"A\" TYPE=\"uint9\"/>"), "uint9"),
        (
            property("<PROPERTY NAME=\"A\" TYPE=\"uint8\"><VALUE>256</VALUE></PROPERTY>"),
            "\"256\" is no uint8 (of A)",
        ),
        (property("<PROPERTY NAME=\"A\" TYPE=\"uint8\"><VALUE><B/></VALUE></PROPERTY>"), "<B>"),
        (
            property("<PROPERTY NAME=\"A\" TYPE=\"uint8\"/><PROPERTY NAME=\"a\" TYPE=\"uint8\"/>"),
            "second time",
        ),
        (
            property("<PROPERTY NAME=\"A\" TYPE=\"uint8\"><VALUE>1</VALUE><VALUE>1</VALUE></PROPERTY>"),
            "<VALUE>",
        ),
        (property("<PROPERTY.ARRAY NAME=\"A\" TYPE=\"uint8\"><VALUE>1</VALUE></PROPERTY.ARRAY>"), "<VALUE>"),
        (property("<PROPERTY NAME=\"A\" TYPE=\"uint8\"><VALUE.ARRAY/></PROPERTY>"), "<VALUE.ARRAY>"),
    ] {
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[test]
fn instances_within_instances_end_somewhere() {
    let mut text = "<INSTANCE CLASSNAME=\"X\"/>".to_owned();
    for _ in 0..9 {
        let mut escaped = String::new();
        crate::xml::write::escape(&mut escaped, &text);
        text = format!(
            "<INSTANCE CLASSNAME=\"X\"><PROPERTY NAME=\"P\" TYPE=\"string\" EmbeddedObject=\"instance\"><VALUE>{escaped}</VALUE></PROPERTY></INSTANCE>"
        );
    }
    assert!(parse(&text).unwrap_err().to_string().contains("embedded instances"));
}

/// Text as XML can carry it.
fn text() -> impl Strategy<Value = String> {
    "[ -~\t\n\ré€😀]{0,16}"
}

fn scalar(cim_type: CimType) -> BoxedStrategy<Value> {
    match cim_type {
        CimType::Boolean => any::<bool>().prop_map(Value::Boolean).boxed(),
        CimType::Uint8 => any::<u8>().prop_map(Value::Uint8).boxed(),
        CimType::Uint16 => any::<u16>().prop_map(Value::Uint16).boxed(),
        CimType::Uint32 => any::<u32>().prop_map(Value::Uint32).boxed(),
        CimType::Uint64 => any::<u64>().prop_map(Value::Uint64).boxed(),
        CimType::Sint8 => any::<i8>().prop_map(Value::Sint8).boxed(),
        CimType::Sint16 => any::<i16>().prop_map(Value::Sint16).boxed(),
        CimType::Sint32 => any::<i32>().prop_map(Value::Sint32).boxed(),
        CimType::Sint64 => any::<i64>().prop_map(Value::Sint64).boxed(),
        CimType::Real32 => any::<f32>().prop_map(Value::Real32).boxed(),
        CimType::Real64 => any::<f64>().prop_map(Value::Real64).boxed(),
        CimType::Char16 => (32_u16..127).prop_map(Value::Char16).boxed(),
        CimType::String => text().prop_map(Value::String).boxed(),
        CimType::Datetime => (0_i64..4_000_000_000_000_000)
            .prop_map(|micros| Value::Datetime(Datetime::utc(Timestamp::from_microsecond(micros).unwrap())))
            .boxed(),
        CimType::Reference => text()
            .prop_map(|text| {
                let inner = ObjectPath::new("Inner", vec![Key::text("K", text)]);
                let keys = vec![
                    Key::reference("R", inner.within(crate::Namespace::new("root/x"))),
                    Key { name: "B".into(), value: KeyValue::Boolean(true) },
                    Key { name: "N".into(), value: KeyValue::Signed(-3) },
                ];
                Value::Reference(Box::new(ObjectPath::new("Outer", keys)))
            })
            .boxed(),
    }
}

fn typed() -> impl Strategy<Value = TypedValue> {
    let types = proptest::sample::select(vec![
        CimType::Boolean,
        CimType::Uint8,
        CimType::Uint16,
        CimType::Uint32,
        CimType::Uint64,
        CimType::Sint8,
        CimType::Sint16,
        CimType::Sint32,
        CimType::Sint64,
        CimType::Real32,
        CimType::Real64,
        CimType::Char16,
        CimType::String,
        CimType::Datetime,
        CimType::Reference,
    ]);
    types.prop_flat_map(|cim_type| {
        let one = proptest::option::of(scalar(cim_type)).prop_map(move |value| TypedValue {
            cim_type,
            array: false,
            value,
        });
        if cim_type == CimType::Reference {
            return one.boxed();
        }
        let many =
            proptest::option::of(proptest::collection::vec(proptest::option::of(scalar(cim_type)), 0..4));
        let many = many.prop_map(move |values| TypedValue {
            cim_type,
            array: true,
            value: values.map(Value::Array),
        });
        prop_oneof![one, many].boxed()
    })
}

fn instance(depth: u32) -> BoxedStrategy<Instance> {
    let values = if depth == 0 {
        typed().boxed()
    } else {
        let inner = instance(depth - 1).prop_map(|inner| TypedValue {
            cim_type: CimType::String,
            array: false,
            value: Some(Value::Instance(Box::new(inner))),
        });
        prop_oneof![4 => typed(), 1 => inner].boxed()
    };
    ("[A-Z][a-z_0-9]{0,6}", proptest::collection::vec(("[A-Za-z][a-z_0-9]{0,6}", values), 0..6))
        .prop_map(|(class, properties)| {
            let mut instance = Instance::new(class);
            for (name, TypedValue { cim_type, array, value }) in properties {
                if !instance.properties.iter().any(|property| same_name(&property.name, &name)) {
                    instance.set(name, cim_type, array, value);
                }
            }
            instance
        })
        .boxed()
}

proptest! {
    #[test]
    fn instances_survive_their_text(instance in instance(2)) {
        let text = to_text(&instance);
        prop_assert_eq!(parse(&text).unwrap(), instance, "{}", text);
    }

    #[test]
    fn any_text_is_read_without_a_panic(text in "\\PC{0,60}") {
        let _read = (parse(&text), parse(&format!("<INSTANCE CLASSNAME=\"X\">{text}</INSTANCE>")));
    }
}

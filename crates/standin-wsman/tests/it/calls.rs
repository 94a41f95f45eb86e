//! Methods, Put, Create and Delete, definitions of classes.

use crate::model::*;
use standin_cim::{CimType, Datetime, KeyValue, Keys, RawValue, TypedValue, Value};

fn failover(body: &str) -> String {
    let uri = format!("{WMI}/Msvm_ReplicationService");
    message(&format!("{uri}/InitiateFailover"), &uri, &[("Name", "replication")], body)
}

fn input(inner: &str) -> String {
    failover(&format!(
        "<p:InitiateFailover_INPUT xmlns:p=\"{WMI}/Msvm_ReplicationService\">{inner}</p:InitiateFailover_INPUT>"
    ))
}

fn epr(class: &str, name: &str) -> String {
    format!(
        "<a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address>\
         <a:ReferenceParameters><w:ResourceURI>{WMI}/{class}</w:ResourceURI><w:SelectorSet>\
         <w:Selector Name=\"Name\">\n {name}\n</w:Selector></w:SelectorSet></a:ReferenceParameters>"
    )
}

#[tokio::test]
async fn a_method_answers_with_its_output_and_the_reference_to_its_job() {
    let world = World::new(1);
    let reply = world.done(&input("")).await;
    let uri = format!("{WMI}/Msvm_ReplicationService");
    assert!(reply.contains(&format!("<a:Action>{uri}/InitiateFailoverResponse</a:Action>")), "{reply}");
    let output =
        between(&reply, "<s:Body><p:InitiateFailover_OUTPUT", "</p:InitiateFailover_OUTPUT></s:Body>");
    assert!(output.contains(&format!("xmlns:p=\"{uri}\"")), "{output}");
    assert!(output.ends_with("<p:ReturnValue>4096</p:ReturnValue>"), "{output}");
    let job = between(output, "<p:Job>", "</p:Job>");
    assert!(job.contains(&format!("<w:ResourceURI>{WMI}/Msvm_ConcreteJob</w:ResourceURI>")), "{job}");
    assert!(
        job.contains("<a:ReferenceParameters>")
            && job.contains("<w:Selector Name=\"InstanceID\">job-1</w:Selector>"),
        "{job}"
    );
}

#[tokio::test]
async fn the_input_may_be_of_any_namespace_or_missing() {
    let world = World::new(1);
    for body in [
        "",
        "<InitiateFailover_INPUT/>",
        "<x:InitiateFailover_INPUT xmlns:x=\"urn:anything\"/>",
        &format!("<ns0:initiatefailover_INPUT xmlns:ns0=\"{DMTF}/Msvm_ReplicationService\"/>"),
    ] {
        world.done(&failover(body)).await;
        assert_eq!(world.calls.lock().unwrap().pop().unwrap().arguments, Vec::new());
    }
    let text = failover("<x:CommitFailover_INPUT xmlns:x=\"urn:x\"/>");
    world.fault(&text, "s:Sender", "w:SchemaValidationError").await;
}

#[tokio::test]
async fn absent_and_nil_both_are_null() {
    let world = World::new(1);
    for (xsi, value) in [
        ("http://www.w3.org/2001/XMLSchema-instance", "true"),
        ("http://www.w3.org/2001/XMLSchema-instance", "1"),
        ("http://www.w3.org/2001/XMLSchema", "true"),
    ] {
        world
            .done(&input(&format!("<p:SnapshotSettingData xmlns:xsi=\"{xsi}\" xsi:nil=\"{value}\"/>")))
            .await;
        let call = world.calls.lock().unwrap().pop().unwrap();
        assert_eq!(argument(&call, "SnapshotSettingData"), Some(&RawValue::Null), "{xsi}");
        assert_eq!(argument(&call, "ComputerSystem"), None);
    }
}

#[tokio::test]
async fn references_are_read_bare_or_whole_and_in_both_families() {
    let world = World::new(1);
    let bare = epr("Msvm_ComputerSystem", VM);
    let whole = format!("<a:EndpointReference>{bare}</a:EndpointReference>");
    let dmtf = bare.replace(WMI, DMTF).replace(
        "<w:SelectorSet>",
        &format!("<w:SelectorSet><w:Selector Name=\"__cimnamespace\">{V2}</w:Selector>"),
    );
    let properties = bare.replace("ReferenceParameters", "ReferenceProperties");
    for inner in [bare, whole, dmtf, properties] {
        world.done(&input(&format!("<p:ComputerSystem>{inner}</p:ComputerSystem>"))).await;
        let call = world.calls.lock().unwrap().pop().unwrap();
        let Some(RawValue::Reference(path)) = argument(&call, "ComputerSystem") else { panic!("{call:?}") };
        assert_eq!((&*path.class, &path.namespace), ("Msvm_ComputerSystem", &Some(namespace())));
        assert_eq!(path.keys, Keys::Named(vec![key("Name", VM)]));
    }
    let broken = input("<p:ComputerSystem><a:ReferenceParameters/></p:ComputerSystem>");
    world.fault(&broken, "s:Sender", "w:InvalidParameter").await;
}

#[tokio::test]
async fn text_comes_escaped_or_as_cdata_and_stays_as_it_is() {
    let world = World::new(1);
    let instance = "<INSTANCE CLASSNAME=\"X\"><PROPERTY NAME=\"A\" TYPE=\"string\"><VALUE> a &amp; b </VALUE></PROPERTY></INSTANCE>";
    let escaped = instance.replace('&', "&amp;").replace('<', "&lt;");
    for text in [
        escaped,
        format!("<![CDATA[{instance}]]>"),
        format!("<![CDATA[{}]]><![CDATA[{}]]>", &instance[..20], &instance[20..]),
    ] {
        world.done(&input(&format!("<p:SnapshotSettingData>{text}</p:SnapshotSettingData>"))).await;
        let call = world.calls.lock().unwrap().pop().unwrap();
        assert_eq!(argument(&call, "SnapshotSettingData"), Some(&RawValue::Text(instance.to_owned())));
    }
}

#[tokio::test]
async fn objects_come_as_xml_with_their_type() {
    let world = World::new(1);
    let nested = format!(
        "<p:SnapshotSettingData xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
         xmlns:e=\"{WMI}/Msvm_ReplicationStatistics\" xmlns:cim=\"http://schemas.dmtf.org/wbem/wscim/1/common\" \
         xsi:type=\"e:Msvm_ReplicationStatistics_Type\"><e:ReplicationSuccessCount>5</e:ReplicationSuccessCount>\
         <e:MaxReplicationLatency xsi:nil=\"true\"/>\
         <e:StartStatisticTime><cim:Interval>P0DT0H1M40S</cim:Interval></e:StartStatisticTime>\
         </p:SnapshotSettingData>"
    );
    world.done(&input(&nested)).await;
    let call = world.calls.lock().unwrap().pop().unwrap();
    let Some(RawValue::Instance(instance)) = argument(&call, "SnapshotSettingData") else {
        panic!("{call:?}")
    };
    assert_eq!(instance.class, "Msvm_ReplicationStatistics");
    assert_eq!(instance.value("ReplicationSuccessCount"), Some(&Value::Uint32(5)));
    assert_eq!(instance.property("MaxReplicationLatency").unwrap().value.cim_type, CimType::Uint64);
    assert_eq!(instance.value("MaxReplicationLatency"), None);
    assert_eq!(instance.value("StartStatisticTime"), Some(&Datetime::seconds(100).into()));

    let xml = "<p:SnapshotSettingData><INSTANCE CLASSNAME=\"Msvm_X\"><PROPERTY NAME=\"A\" TYPE=\"string\"><VALUE>b</VALUE></PROPERTY></INSTANCE></p:SnapshotSettingData>";
    world.done(&input(xml)).await;
    let call = world.calls.lock().unwrap().pop().unwrap();
    let Some(RawValue::Instance(instance)) = argument(&call, "SnapshotSettingData") else {
        panic!("{call:?}")
    };
    assert_eq!((&*instance.class, instance.value("A")), ("Msvm_X", Some(&"b".into())));
}

#[tokio::test]
async fn repeated_elements_are_an_array() {
    let world = World::new(1);
    world
        .done(&input("<p:Tags>a</p:Tags><p:Tags>b</p:Tags><p:SnapshotSettingData/><p:Tags>c</p:Tags>"))
        .await;
    let call = world.calls.lock().unwrap().pop().unwrap();
    let texts = ["a", "b", "c"].map(|text| RawValue::Text(text.to_owned()));
    assert_eq!(argument(&call, "Tags"), Some(&RawValue::Array(texts.into())));
    assert_eq!(argument(&call, "SnapshotSettingData"), Some(&RawValue::Text(String::new())));
}

#[tokio::test]
async fn date_and_time_come_in_either_form() {
    let world = World::new(1);
    let expected = RawValue::Typed(TypedValue {
        cim_type: CimType::Datetime,
        array: false,
        value: Some(Datetime::seconds(100).into()),
    });
    for text in ["P0DT0H1M40S", "00000000000140.000000:000"] {
        let inner = format!(
            "<p:SnapshotSettingData xmlns:cim=\"http://schemas.dmtf.org/wbem/wscim/1/common\">\
             <cim:Interval>{text}</cim:Interval></p:SnapshotSettingData>"
        );
        world.done(&input(&inner)).await;
        let call = world.calls.lock().unwrap().pop().unwrap();
        assert_eq!(argument(&call, "SnapshotSettingData"), Some(&expected), "{text}");
    }
}

#[tokio::test]
async fn unknown_methods_parameters_and_actions_are_faults() {
    let world = World::new(1);
    let uri = format!("{WMI}/Msvm_ReplicationService");
    let of = |action: &str, body: &str| message(action, &uri, &[("Name", "replication")], body);
    world.fault(&of(&format!("{uri}/DoWhatIMean"), ""), "s:Sender", "a:ActionNotSupported").await;
    let subscribe = "http://schemas.xmlsoap.org/ws/2004/08/eventing/Subscribe";
    world.fault(&of(subscribe, ""), "s:Sender", "a:ActionNotSupported").await;
    world
        .fault(
            &of("http://schemas.xmlsoap.org/ws/2004/09/enumeration/Renew", ""),
            "s:Sender",
            "a:ActionNotSupported",
        )
        .await;
    world.fault(&of("nonsense", ""), "s:Sender", "a:ActionNotSupported").await;
    let parameter = input("<p:Nonsense>1</p:Nonsense>");
    world.fault(&parameter, "s:Sender", "w:InvalidParameter").await;
    let class = message(&format!("{WMI}/Msvm_Nothing/X"), &format!("{WMI}/Msvm_Nothing"), &[], "");
    world.fault(&class, "s:Sender", "a:DestinationUnreachable").await;
}

#[tokio::test]
async fn a_put_changes_what_differs_and_answers_with_the_instance_as_it_is_then() {
    let world = World::new(2);
    let uri = format!("{WMI}/Msvm_ComputerSystem");
    let got = world.done(&message(GET, &uri, &VM_KEYS, "")).await;
    let start = got.find("<p:Msvm_ComputerSystem").unwrap();
    let instance = &got[start..got.find("</s:Body>").unwrap()];

    // What came is sent back, nulls, references, embedded instances, datetimes and read-only properties with it.
    let same = world.done(&message(PUT, &uri, &VM_KEYS, instance)).await;
    assert!(same.contains("transfer/PutResponse</a:Action>") && same.contains(instance), "{same}");

    let changed = instance.replace("<p:OtherName xsi:nil=\"true\"/>", "<p:OtherName>new</p:OtherName>");
    let reply = world.done(&message(PUT, &uri, &VM_KEYS, &changed)).await;
    assert!(reply.contains("<p:OtherName>new</p:OtherName>"), "{reply}");
    let part = "<p:Msvm_ComputerSystem xmlns:p=\"urn:x\"><p:Roles>mail</p:Roles></p:Msvm_ComputerSystem>";
    let reply = world.done(&message(PUT, &uri, &VM_KEYS, part)).await;
    assert!(reply.contains("<p:Roles>mail</p:Roles><p:OtherName>new</p:OtherName>"), "{reply}");

    let forbidden = instance.replace("<p:Big>18446744073709551615</p:Big>", "<p:Big>1</p:Big>");
    world.fault(&message(PUT, &uri, &VM_KEYS, &forbidden), "s:Sender", "w:UnsupportedFeature").await;
    let unknown = "<p:X xmlns:p=\"urn:x\"><p:Nonsense>mail</p:Nonsense></p:X>";
    world.fault(&message(PUT, &uri, &VM_KEYS, unknown), "s:Sender", "w:SchemaValidationError").await;
    world.fault(&message(PUT, &uri, &VM_KEYS, ""), "s:Sender", "x:InvalidRepresentation").await;
}

#[tokio::test]
async fn instances_are_made_and_removed_where_the_model_allows_it() {
    let world = World::new(1);
    let create = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Create";
    let delete = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Delete";
    let uri = format!("{WMI}/Msvm_ConcreteJob");
    let body =
        "<p:Msvm_ConcreteJob xmlns:p=\"urn:x\"><p:InstanceID>j &lt;1></p:InstanceID></p:Msvm_ConcreteJob>";
    let made = world.done(&message(create, &uri, &[], body)).await;
    assert!(made.contains("<x:ResourceCreated><a:Address>"), "{made}");
    assert!(made.contains("<w:Selector Name=\"InstanceID\">j &lt;1&gt;</w:Selector>"), "{made}");
    world.fault(&message(create, &uri, &[], body), "s:Sender", "w:AlreadyExists").await;
    let keys = [("InstanceID", "j &lt;1>")];
    let gone = world.done(&message(delete, &uri, &keys, "")).await;
    assert!(
        gone.contains("transfer/DeleteResponse</a:Action>") && gone.contains("<s:Body></s:Body>"),
        "{gone}"
    );
    world.fault(&message(delete, &uri, &keys, ""), "s:Sender", "a:DestinationUnreachable").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_that_outlasts_its_timeout_is_a_fault() {
    let world = World::new(1);
    let uri = format!("{WMI}/Msvm_ReplicationService");
    let timeout = "<w:OperationTimeout>PT0.02S</w:OperationTimeout>";
    let slow = with_headers(&format!("{uri}/Slow"), &uri, &[("Name", "replication")], timeout, "");
    world.fault(&slow, "s:Receiver", "w:TimedOut").await;
}

#[tokio::test]
async fn a_definition_is_a_bare_class() {
    let world = World::new(0);
    let uri = "http://schemas.dmtf.org/wbem/cim-xml/2/cim-schema/2/*";
    let get = |class: &str| message(GET, uri, &[("__cimnamespace", V2), ("ClassName", class)], "");
    let reply = world.done(&get("msvm_replicationservice")).await;
    let document = roxmltree::Document::parse(&reply).unwrap();
    let body = document.descendants().find(|node| node.tag_name().name() == "Body").unwrap();
    let class = body.first_element_child().unwrap();
    assert_eq!((class.tag_name().name(), class.tag_name().namespace()), ("CLASS", None));
    assert_eq!(class.attribute("NAME"), Some("Msvm_ReplicationService"));
    assert_eq!(class.attribute("SUPERCLASS"), Some("CIM_ManagedElement"));
    let methods: Vec<_> = class
        .children()
        .filter(|node| node.has_tag_name("METHOD"))
        .filter_map(|node| node.attribute("NAME"))
        .collect();
    assert_eq!(methods, ["InitiateFailover", "GetReplicationStatistics", "Slow"]);
    assert!(
        class.children().any(|node| node.attribute("NAME") == Some("Caption")),
        "what it inherits is there"
    );

    world.fault(&get("Msvm_Nothing"), "s:Sender", "a:DestinationUnreachable").await;
    world.fault(&message(GET, uri, &[("__cimnamespace", V2)], ""), "s:Sender", "w:InvalidSelectors").await;
    let elsewhere = message(GET, uri, &[("__cimnamespace", "root/x"), ("ClassName", "X")], "");
    assert!(world.fault(&elsewhere, "s:Sender", "a:DestinationUnreachable").await.contains("2150858778"));

    let all = "<n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>1000</w:MaxElements></n:Enumerate>";
    let reply = world.done(&message(ENUMERATE, uri, &[("__cimnamespace", V2)], all)).await;
    assert_eq!(reply.matches("<CLASS ").count(), schema().classes().len());
}

#[tokio::test]
async fn key_values_of_references_are_text() {
    let world = World::new(1);
    world
        .done(&input(&format!("<p:ComputerSystem>{}</p:ComputerSystem>", epr("Msvm_ComputerSystem", "1"))))
        .await;
    let call = world.calls.lock().unwrap().pop().unwrap();
    let Some(RawValue::Reference(path)) = argument(&call, "ComputerSystem") else { panic!("{call:?}") };
    let Keys::Named(keys) = &path.keys else { panic!("{path:?}") };
    assert_eq!(keys[0].value, KeyValue::Text("1".into()));
}

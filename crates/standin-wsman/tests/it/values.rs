//! How values look in replies.

use crate::model::*;

async fn vm() -> String {
    World::new(2).done(&message(GET, &format!("{WMI}/Msvm_ComputerSystem"), &VM_KEYS, "")).await
}

#[tokio::test]
async fn an_instance_says_its_class_and_declares_what_it_needs() {
    let reply = vm().await;
    let start = between(&reply, "<p:Msvm_ComputerSystem", ">");
    for part in [
        "xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"",
        "xmlns:cim=\"http://schemas.dmtf.org/wbem/wscim/1/common\"",
        &format!("xmlns:p=\"{WMI}/Msvm_ComputerSystem\""),
        "xsi:type=\"p:Msvm_ComputerSystem_Type\"",
    ] {
        assert!(start.contains(part), "{part} in {start}");
    }
}

#[tokio::test]
async fn every_property_of_the_class_is_there_in_its_order_and_nulls_say_so() {
    let reply = vm().await;
    let document = roxmltree::Document::parse(&reply).unwrap();
    let instance =
        document.descendants().find(|node| node.tag_name().name() == "Msvm_ComputerSystem").unwrap();
    let mut names: Vec<_> = instance.children().map(|child| child.tag_name().name()).collect();
    names.dedup();
    let schema = schema();
    let declared: Vec<_> = schema
        .class("Msvm_ComputerSystem")
        .unwrap()
        .properties
        .iter()
        .map(|property| &*property.name)
        .collect();
    assert_eq!(names, declared);
    for null in ["Caption", "Dedicated", "OtherName"] {
        assert!(reply.contains(&format!("<p:{null} xsi:nil=\"true\"/>")), "{null} in {reply}");
    }
}

#[tokio::test]
async fn scalars_have_the_forms_of_xml_schema() {
    let reply = vm().await;
    for part in [
        "<p:ElementName>vm &lt;0&gt; &amp; &quot;friends&quot;</p:ElementName>",
        "<p:Ready>true</p:Ready>",
        "<p:Big>18446744073709551615</p:Big>",
        "<p:Small>-32768</p:Small>",
        "<p:Part>0.25</p:Part>",
        "<p:Letter>ä</p:Letter>",
        "<p:InstallDate><cim:Datetime>2013-04-15T16:28:43.488171Z</cim:Datetime></p:InstallDate>",
        "<p:OnTimeInMilliseconds><cim:Interval>P0DT0H1M40S</cim:Interval></p:OnTimeInMilliseconds>",
    ] {
        assert!(reply.contains(part), "{part} in {reply}");
    }
}

#[tokio::test]
async fn arrays_repeat_their_element() {
    assert!(vm().await.contains("<p:Roles>web</p:Roles><p:Roles>db</p:Roles>"));
}

#[tokio::test]
async fn a_reference_is_what_is_within_an_endpoint_reference() {
    let reply = vm().await;
    let parent = between(&reply, "<p:Parent>", "</p:Parent>");
    assert_eq!(
        parent,
        format!(
            "<a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address>\
             <a:ReferenceParameters><w:ResourceURI>{WMI}/Msvm_ComputerSystem</w:ResourceURI><w:SelectorSet>\
             <w:Selector Name=\"CreationClassName\">Msvm_ComputerSystem</w:Selector>\
             <w:Selector Name=\"Name\">6F6D1CB2-0000-4000-8000-000000000001</w:Selector>\
             </w:SelectorSet></a:ReferenceParameters>"
        )
    );
}

#[tokio::test]
async fn a_string_that_carries_an_instance_is_escaped_cim_xml() {
    let reply = vm().await;
    let document = roxmltree::Document::parse(&reply).unwrap();
    let settings = document.descendants().find(|node| node.tag_name().name() == "Settings").unwrap();
    assert_eq!(settings.children().count(), 1, "text and nothing else");
    let inner = standin_cim::embedded::parse(settings.text().unwrap()).unwrap();
    assert_eq!(inner.class, "Msvm_ReplicationStatistics");
    assert_eq!(inner.value("ReplicationSuccessCount"), Some(&7_u32.into()));
}

#[tokio::test]
async fn a_parameter_that_is_an_object_is_xml_of_its_own() {
    let uri = format!("{WMI}/Msvm_ReplicationService");
    let action = format!("{uri}/GetReplicationStatistics");
    let reply = World::new(1).done(&message(&action, &uri, &[("Name", "replication")], "")).await;
    let once = format!(
        "<p:ReplicationStatistics xmlns:p1=\"{WMI}/Msvm_ReplicationStatistics\" \
         xsi:type=\"p1:Msvm_ReplicationStatistics_Type\">\
         <p1:ReplicationSuccessCount>3</p1:ReplicationSuccessCount>\
         <p1:MaxReplicationLatency xsi:nil=\"true\"/>\
         <p1:StartStatisticTime><cim:Interval>P0DT0H0M0S</cim:Interval></p1:StartStatisticTime>\
         </p:ReplicationStatistics>"
    );
    assert!(reply.contains(&once.repeat(2)), "{once} twice in {reply}");
    assert!(reply.contains("<p:ReplicationHealthIssues>&lt;INSTANCE"), "{reply}");
}

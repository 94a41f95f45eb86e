//! Messages as the clients that no registry has send them: `winrm.cmd`, libvirt's driver, virt-who, the CIM cmdlets.

use crate::model::*;
use standin_cim::{Keys, RawValue};

#[tokio::test]
async fn winrm_cmd_gets_with_its_own_prefixes_and_headers() {
    let text = format!(
        r#"<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd"><s:Header><a:To>http://here:5985/wsman</a:To><w:ResourceURI s:mustUnderstand="true">{WMI}/Msvm_ComputerSystem</w:ResourceURI><a:ReplyTo><a:Address s:mustUnderstand="true">http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo><a:Action s:mustUnderstand="true">http://schemas.xmlsoap.org/ws/2004/09/transfer/Get</a:Action><w:MaxEnvelopeSize s:mustUnderstand="true">512000</w:MaxEnvelopeSize><a:MessageID>uuid:0B9F2F5E-61B2-4B8A-9C0A-8C2B6F3F9F10</a:MessageID><w:Locale xml:lang="en-US" s:mustUnderstand="false" /><p:DataLocale xml:lang="en-US" s:mustUnderstand="false" /><p:SessionId s:mustUnderstand="false">uuid:9F3F2B1E-0000-4000-8000-000000000001</p:SessionId><p:OperationID s:mustUnderstand="false">uuid:9F3F2B1E-0000-4000-8000-000000000002</p:OperationID><p:SequenceId s:mustUnderstand="false">1</p:SequenceId><w:SelectorSet><w:Selector Name="CreationClassName">Msvm_ComputerSystem</w:Selector><w:Selector Name="Name">{VM}</w:Selector></w:SelectorSet><w:OperationTimeout>PT60.000S</w:OperationTimeout></s:Header><s:Body></s:Body></s:Envelope>"#
    );
    // It sends UTF-16 with a mark.
    let bytes: Vec<u8> = [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    let world = World::new(1);
    let reply = world.post(bytes, Some("application/soap+xml;charset=UTF-16")).await;
    assert_eq!(reply.status, 200);
    let (reply, _) = standin_wsman::text::decode(&reply.body, None).unwrap();
    assert!(
        reply.contains("<a:RelatesTo>uuid:0B9F2F5E-61B2-4B8A-9C0A-8C2B6F3F9F10</a:RelatesTo>"),
        "{reply}"
    );
}

#[tokio::test]
async fn libvirt_enumerates_by_wql_and_takes_one_item_from_each_pull() {
    let world = World::new(2);
    let header = |action: &str| {
        format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:wsa="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:wsman="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:wsen="http://schemas.xmlsoap.org/ws/2004/09/enumeration">
<s:Header>
<wsa:Action s:mustUnderstand="true">http://schemas.xmlsoap.org/ws/2004/09/enumeration/{action}</wsa:Action>
<wsa:To s:mustUnderstand="true">http://here:5985/wsman</wsa:To>
<wsman:ResourceURI s:mustUnderstand="true">{WMI}/*</wsman:ResourceURI>
<wsa:MessageID s:mustUnderstand="true">uuid:d3b07384-d113-1ec4-8002-e40d9a300200</wsa:MessageID>
<wsa:ReplyTo><wsa:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</wsa:Address></wsa:ReplyTo>
</s:Header>
"#
        )
    };
    let text = format!(
        r#"{}<s:Body><wsen:Enumerate><wsman:Filter Dialect="http://schemas.microsoft.com/wbem/wsman/1/WQL">select * from Msvm_ComputerSystem where ElementName LIKE "vm%" and Ready = TRUE </wsman:Filter></wsen:Enumerate></s:Body></s:Envelope>"#,
        header("Enumerate")
    );
    let reply = world.done(&text).await;
    let context = between(&reply, "<n:EnumerationContext>", "</n:EnumerationContext>").to_owned();
    let pull = format!(
        "{}<s:Body><wsen:Pull><wsen:EnumerationContext>{context}</wsen:EnumerationContext></wsen:Pull></s:Body></s:Envelope>",
        header("Pull")
    );
    let reply = world.done(&pull).await;
    assert_eq!(reply.matches("<p:Msvm_ComputerSystem ").count(), 1);
    assert!(reply.contains("<n:EndOfSequence/>"), "{reply}");
}

#[tokio::test]
async fn virt_who_looks_for_namespaces_by_faults() {
    let query = "<n:Enumerate><w:Filter Dialect=\"http://schemas.microsoft.com/wbem/wsman/1/WQL\">select * from Msvm_ComputerSystem</w:Filter></n:Enumerate>";
    let world = World::new(1);
    let old = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/*";
    let reply =
        world.fault(&message(ENUMERATE, old, &[], query), "s:Sender", "a:DestinationUnreachable").await;
    let document = roxmltree::Document::parse(&reply).unwrap();
    let code = document.descendants().find(|node| {
        node.has_tag_name(("http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/MSFT_WmiError", "error_Code"))
    });
    assert_eq!(code.and_then(|code| code.text()), Some("2150858778"));
    world.done(&message(ENUMERATE, &format!("{WMI}/*"), &[], query)).await;
}

#[tokio::test]
async fn cim_cmdlets_ask_for_the_class_and_invoke_with_references_in_their_family() {
    let world = World::new(1);
    let envelope = |action: &str, uri: &str, selectors: &str, body: &str| {
        format!(
            r#"<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd" xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd"><s:Header><a:To>http://here:5985/wsman</a:To><w:ResourceURI s:mustUnderstand="true">{uri}</w:ResourceURI><a:ReplyTo><a:Address s:mustUnderstand="true">http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo><a:Action s:mustUnderstand="true">{action}</a:Action><w:MaxEnvelopeSize s:mustUnderstand="true">512000</w:MaxEnvelopeSize><a:MessageID>uuid:1</a:MessageID><w:Locale xml:lang="en-US" s:mustUnderstand="false"/><p:DataLocale xml:lang="en-US" s:mustUnderstand="false"/><p:ActivityId s:mustUnderstand="false">1</p:ActivityId><w:SelectorSet>{selectors}<w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector></w:SelectorSet><w:OptionSet xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" s:mustUnderstand="true"></w:OptionSet><w:OperationTimeout>PT60.000S</w:OperationTimeout></s:Header><s:Body>{body}</s:Body></s:Envelope>"#
        )
    };
    let class = envelope(
        GET,
        "http://schemas.dmtf.org/wbem/cim-xml/2/cim-schema/2/*",
        "<w:Selector Name=\"ClassName\">Msvm_ReplicationService</w:Selector>",
        "",
    );
    assert!(world.done(&class).await.contains("<s:Body><CLASS NAME=\"Msvm_ReplicationService\""));

    let uri = format!("{DMTF}/Msvm_ReplicationService");
    let body = format!(
        r#"<p:InitiateFailover_INPUT xmlns:p="{uri}" xmlns:cim="http://schemas.dmtf.org/wbem/wscim/1/common"><p:ComputerSystem xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address><a:ReferenceParameters><w:ResourceURI>{DMTF}/Msvm_ComputerSystem</w:ResourceURI><w:SelectorSet><w:Selector Name="CreationClassName">Msvm_ComputerSystem</w:Selector><w:Selector Name="Name">{VM}</w:Selector><w:Selector Name="__cimnamespace">root/virtualization/v2</w:Selector></w:SelectorSet></a:ReferenceParameters></p:ComputerSystem><p:SnapshotSettingData xsi:nil="true" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"/></p:InitiateFailover_INPUT>"#
    );
    let call = envelope(
        &format!("{uri}/InitiateFailover"),
        &uri,
        "<w:Selector Name=\"Name\">replication</w:Selector>",
        &body,
    );
    let reply = world.done(&call).await;
    assert!(reply.contains(&format!("<p:InitiateFailover_OUTPUT xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xmlns:cim=\"http://schemas.dmtf.org/wbem/wscim/1/common\" xmlns:p=\"{uri}\">")), "{reply}");
    let job = between(&reply, "<p:Job>", "</p:Job>");
    assert!(job.contains(&format!("<w:ResourceURI>{DMTF}/Msvm_ConcreteJob</w:ResourceURI>")), "{job}");
    let call = world.calls.lock().unwrap().pop().unwrap();
    let Some(RawValue::Reference(path)) = argument(&call, "ComputerSystem") else { panic!("{call:?}") };
    assert_eq!(path.namespace, Some(namespace()));
    let Keys::Named(keys) = &path.keys else { panic!("{path:?}") };
    assert_eq!(keys.len(), 2, "the namespace is no key");
    assert_eq!(argument(&call, "SnapshotSettingData"), Some(&RawValue::Null));
}

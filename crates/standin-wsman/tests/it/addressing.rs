//! Headers, resource URIs, selectors.

use crate::model::*;
use standin_cim::Role;

fn get_vm(headers: &str) -> String {
    with_headers(GET, &format!("{WMI}/Msvm_ComputerSystem"), &VM_KEYS, headers, "")
}

#[tokio::test]
async fn the_message_id_comes_back_verbatim_in_every_form() {
    let world = World::new(1);
    for id in [
        "uuid:8B1C7F60-8E5A-4D3C-9F4E-000000000001",
        "8b1c7f60-8e5a-4d3c-9f4e-000000000001",
        "1",
        "urn:x &amp; y",
    ] {
        let text = get_vm("").replace("uuid:1", &format!("\n   {id} "));
        let reply = world.done(&text).await;
        assert!(reply.contains(&format!("<a:RelatesTo>{id}</a:RelatesTo>")), "{reply}");
    }
    let without = get_vm("").replace("<a:MessageID>uuid:1</a:MessageID>", "");
    assert!(!world.done(&without).await.contains("RelatesTo"));
}

#[tokio::test]
async fn replies_have_the_fixed_prefixes_and_the_response_action() {
    let reply = World::new(1).done(&get_vm("")).await;
    for part in [
        "<s:Envelope xml:lang=\"en-US\" xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\"",
        " xmlns:a=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\"",
        " xmlns:n=\"http://schemas.xmlsoap.org/ws/2004/09/enumeration\"",
        " xmlns:w=\"http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd\"",
        " xmlns:x=\"http://schemas.xmlsoap.org/ws/2004/09/transfer\">",
        "<a:Action>http://schemas.xmlsoap.org/ws/2004/09/transfer/GetResponse</a:Action>",
        "<a:MessageID>uuid:",
        "<s:Body><p:Msvm_ComputerSystem ",
    ] {
        assert!(reply.contains(part), "{part} in {reply}");
    }
}

#[tokio::test]
async fn replies_use_the_family_of_addresses_of_the_request() {
    let world = World::new(1);
    let wmi = world.done(&get_vm("")).await;
    assert!(wmi.contains(&format!("xmlns:p=\"{WMI}/Msvm_ComputerSystem\"")), "{wmi}");
    assert!(!wmi.contains("__cimnamespace"), "{wmi}");

    let uri = format!("{DMTF}/Msvm_ComputerSystem");
    let keys = [VM_KEYS[0], VM_KEYS[1], ("__cimnamespace", V2)];
    let dmtf = world.done(&message(GET, &uri, &keys, "")).await;
    assert!(dmtf.contains(&format!("xmlns:p=\"{uri}\"")), "{dmtf}");
    assert!(dmtf.contains(&format!("<w:Selector Name=\"__cimnamespace\">{V2}</w:Selector>")), "{dmtf}");
    assert!(!dmtf.contains(WMI), "{dmtf}");
}

#[tokio::test]
async fn names_compare_without_case_and_separators_may_be_either() {
    let world = World::new(1);
    let uri = "http://schemas.microsoft.com/wbem/wsman/1/wmi/ROOT\\Virtualization\\V2/msvm_computersystem";
    let reply = world
        .done(&message(GET, uri, &[("NAME", VM), ("creationclassname", "Msvm_ComputerSystem")], ""))
        .await;
    assert!(
        reply.contains("<p:Msvm_ComputerSystem "),
        "the class is spelled as the schema spells it: {reply}"
    );
    let dmtf = message(
        GET,
        &format!("{DMTF}/MSVM_COMPUTERSYSTEM"),
        &[("__CIMNAMESPACE", "Root\\virtualization\\v2"), ("name", VM)],
        "",
    );
    assert!(world.done(&dmtf).await.contains("<p:Msvm_ComputerSystem "));
}

#[tokio::test]
async fn a_part_of_the_keys_is_enough_where_it_says_which_instance() {
    let world = World::new(2);
    let uri = format!("{WMI}/Msvm_ComputerSystem");
    let reply = world.done(&message(GET, &uri, &[("Name", VM)], "")).await;
    assert!(reply.contains(VM), "{reply}");
    let ambiguous = message(GET, &uri, &[("CreationClassName", "Msvm_ComputerSystem")], "");
    world.fault(&ambiguous, "s:Sender", "w:InvalidSelectors").await;
    // Of a base class too.
    let base = message(GET, &format!("{WMI}/CIM_ComputerSystem"), &[("Name", VM)], "");
    assert!(world.done(&base).await.contains("<p:Msvm_ComputerSystem "));
    // Where there is one instance, no key is needed.
    let only = message(GET, &format!("{WMI}/Msvm_ReplicationService"), &[], "");
    assert!(world.done(&only).await.contains("<p:Name>replication</p:Name>"));
}

#[tokio::test]
async fn selectors_may_be_references() {
    let world = World::new(3);
    let epr = |uri: &str, keys: &str| {
        format!(
            "<a:EndpointReference><a:Address>http://x</a:Address><a:ReferenceParameters>\
             <w:ResourceURI>{uri}</w:ResourceURI><w:SelectorSet>{keys}</w:SelectorSet>\
             </a:ReferenceParameters></a:EndpointReference>"
        )
    };
    let vm = epr(
        &format!("{WMI}/Msvm_ComputerSystem"),
        &format!(
            "<w:Selector Name=\"CreationClassName\">Msvm_ComputerSystem</w:Selector><w:Selector Name=\"Name\">{VM}</w:Selector>"
        ),
    );
    let service =
        epr(&format!("{WMI}/Msvm_ReplicationService"), "<w:Selector Name=\"Name\">replication</w:Selector>");
    let text = message(
        GET,
        &format!("{WMI}/Msvm_SystemReplicationService"),
        &[("Antecedent", &vm), ("Dependent", &service)],
        "",
    );
    let reply = world.done(&text).await;
    let antecedent = between(&reply, "<p:Antecedent>", "</p:Antecedent>");
    assert!(antecedent.starts_with("<a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address><a:ReferenceParameters><w:ResourceURI>"), "{antecedent}");
    assert!(antecedent.contains(&format!("<w:Selector Name=\"Name\">{VM}</w:Selector>")), "{antecedent}");
}

#[tokio::test]
async fn any_prefix_and_a_default_namespace_are_understood() {
    let world = World::new(1);
    let strange = get_vm("")
        .replace("<s:", "<SOAP-ENV:")
        .replace("</s:", "</SOAP-ENV:")
        .replace(" s:must", " SOAP-ENV:must")
        .replace("xmlns:s=", "xmlns:SOAP-ENV=")
        .replace("<w:", "<wsman_1.x-:")
        .replace("</w:", "</wsman_1.x-:")
        .replace("xmlns:w=", "xmlns:wsman_1.x-=");
    world.done(&strange).await;
    let unprefixed = get_vm("").replace("<s:", "<").replace("</s:", "</").replacen(
        "<Envelope ",
        "<Envelope xmlns=\"http://www.w3.org/2003/05/soap-envelope\" ",
        1,
    );
    world.done(&unprefixed).await;
}

#[tokio::test]
async fn every_known_header_is_accepted_and_an_unknown_one_only_when_it_may_be_ignored() {
    let world = World::new(1);
    let m = "xmlns:m=\"http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd\" s:mustUnderstand=\"true\"";
    let known = format!(
        "<w:MaxEnvelopeSize s:mustUnderstand=\"true\"> 153600 </w:MaxEnvelopeSize>\
         <w:Locale xml:lang=\"de-DE\" s:mustUnderstand=\"1\"/><m:DataLocale xml:lang=\"de-DE\" {m}/>\
         <m:SessionId {m}>uuid:1</m:SessionId><m:OperationID {m}>uuid:2</m:OperationID>\
         <m:SequenceId {m}>1</m:SequenceId><m:ActivityId {m}>x</m:ActivityId>\
         <w:OptionSet s:mustUnderstand=\"true\"/><a:From><a:Address>x</a:Address></a:From>\
         <a:ReplyTo><a:Address s:mustUnderstand=\"true\">\
         http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous </a:Address></a:ReplyTo>"
    );
    world.done(&get_vm(&known)).await;
    world
        .done(&get_vm("<z:New xmlns:z=\"urn:z\"/><z:New xmlns:z=\"urn:z\" s:mustUnderstand=\"false\"/>"))
        .await;
    let text = get_vm("<z:New xmlns:z=\"urn:z\" s:mustUnderstand=\"true\"/>");
    let reply = world.fault(&text, "s:MustUnderstand", "").await;
    assert!(reply.contains("<s:NotUnderstood qname=\"h:New\" xmlns:h=\"urn:z\"/></s:Header>"), "{reply}");
    assert!(reply.contains("<a:RelatesTo>uuid:1</a:RelatesTo>"), "{reply}");
    let part = get_vm("<w:FragmentTransfer s:mustUnderstand=\"true\">Name</w:FragmentTransfer>");
    assert!(
        world
            .fault(&part, "s:Sender", "w:UnsupportedFeature")
            .await
            .contains("faultDetail/FragmentLevelAccess")
    );
}

#[tokio::test]
async fn every_form_of_a_timeout_is_read_and_a_timeout_is_kept() {
    let world = World::new(1);
    for timeout in ["PT60.000S", "PT1M30S", "PT20S", "P0DT0H1M0S", "PT0.5S"] {
        world.done(&get_vm(&format!("<w:OperationTimeout>{timeout}</w:OperationTimeout>"))).await;
    }
    let wrong = get_vm("<w:OperationTimeout>soon</w:OperationTimeout>");
    world.fault(&wrong, "s:Sender", "w:InvalidParameter").await;
}

#[tokio::test]
async fn the_size_that_the_client_takes_is_kept() {
    let world = World::new(1);
    let small = get_vm("<w:MaxEnvelopeSize>100</w:MaxEnvelopeSize>");
    assert!(world.fault(&small, "s:Sender", "w:EncodingLimit").await.contains("MinimumEnvelopeLimit"));
    let classes = "http://schemas.dmtf.org/wbem/cim-xml/2/cim-schema/2/*";
    let selectors = [("__cimnamespace", V2), ("ClassName", "Msvm_ComputerSystem")];
    let text = with_headers(GET, classes, &selectors, "<w:MaxEnvelopeSize>8192</w:MaxEnvelopeSize>", "");
    let (status, reply) = world.send(&text).await;
    if status == 500 {
        assert!(reply.contains("MaxEnvelopeSizeExceeded"), "{reply}");
    } else {
        assert!(reply.len() <= 8192, "{}", reply.len());
    }
}

#[tokio::test]
async fn headers_that_are_missing_doubled_or_impossible_are_faults() {
    let world = World::new(1);
    let no_action = get_vm("").replace("a:Action", "a:From");
    world.fault(&no_action, "s:Sender", "a:MessageInformationHeaderRequired").await;
    let no_uri = get_vm("").replace("w:ResourceURI", "w:Locale");
    world.fault(&no_uri, "s:Sender", "a:DestinationUnreachable").await;
    world.fault(&get_vm("<a:Action>x</a:Action>"), "s:Sender", "a:InvalidMessageInformationHeader").await;
    let elsewhere = get_vm("<a:ReplyTo><a:Address>http://evil.example</a:Address></a:ReplyTo>");
    assert!(world.fault(&elsewhere, "s:Sender", "w:UnsupportedFeature").await.contains("AddressingMode"));
    let twice = message(GET, &format!("{WMI}/Msvm_ComputerSystem"), &[("Name", "a"), ("name", "b")], "");
    assert!(world.fault(&twice, "s:Sender", "w:InvalidSelectors").await.contains("DuplicateSelectors"));
    let uri = message(GET, "http://example.com/what", &[], "");
    assert!(world.fault(&uri, "s:Sender", "a:DestinationUnreachable").await.contains("InvalidResourceURI"));
}

#[tokio::test]
async fn what_is_not_there_is_unreachable_and_a_wrong_namespace_has_its_number() {
    let world = World::new(1);
    let gone = message(GET, &format!("{WMI}/Msvm_ComputerSystem"), &[("Name", "none")], "");
    let reply = world.fault(&gone, "s:Sender", "a:DestinationUnreachable").await;
    assert!(reply.contains("<p:CIMStatusCode>6</p:CIMStatusCode>"), "{reply}");
    let class = message(GET, &format!("{WMI}/Msvm_Nothing"), &[("Name", "none")], "");
    let reply = world.fault(&class, "s:Sender", "a:DestinationUnreachable").await;
    assert!(reply.contains("<p:CIMStatusCode>5</p:CIMStatusCode>"), "{reply}");
    let old = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/*";
    let query = "<n:Enumerate><w:Filter Dialect=\"http://schemas.microsoft.com/wbem/wsman/1/WQL\">select * from Msvm_ComputerSystem</w:Filter></n:Enumerate>";
    let reply =
        world.fault(&message(ENUMERATE, old, &[], query), "s:Sender", "a:DestinationUnreachable").await;
    assert!(reply.contains("<p:error_Code>2150858778</p:error_Code>"), "{reply}");
    assert!(reply.contains("<p:CIMStatusCode>3</p:CIMStatusCode>"), "{reply}");
    let key = message(GET, &format!("{WMI}/Msvm_ComputerSystem"), &[("Nmae", "x")], "");
    world.fault(&key, "s:Sender", "w:InvalidSelectors").await;
}

#[tokio::test]
async fn who_may_not_is_denied() {
    let world = World::new(1).as_user("viktor", Role::Viewer);
    let uri = format!("{WMI}/Msvm_ComputerSystem");
    let text = message(&format!("{uri}/RequestStateChange"), &uri, &VM_KEYS, "");
    world.fault(&text, "s:Sender", "w:AccessDenied").await;
}

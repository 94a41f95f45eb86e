//! Enumerate, Pull and Release in all forms, and their filters.

use crate::model::*;
use standin_access::quota::Quota;
use standin_cim::Role;
use standin_wsman::Limits;

const WQL: &str = "http://schemas.microsoft.com/wbem/wsman/1/WQL";
const OPTIMISED: &str = "<w:OptimizeEnumeration/>";

fn vms() -> String {
    format!("{WMI}/Msvm_ComputerSystem")
}

fn enumerate(uri: &str, inner: &str) -> String {
    message(ENUMERATE, uri, &[], &format!("<n:Enumerate>{inner}</n:Enumerate>"))
}

fn pull(uri: &str, context: &str, inner: &str) -> String {
    let body = format!("<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext>{inner}</n:Pull>");
    message(PULL, uri, &[], &body)
}

fn context(reply: &str) -> String {
    between(reply, "<n:EnumerationContext>", "</n:EnumerationContext>").to_owned()
}

fn count(reply: &str) -> usize {
    reply.matches("xsi:type=\"p:Msvm_ComputerSystem_Type\"").count()
}

fn query(dialect: &str, text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    format!("{OPTIMISED}<w:MaxElements>100</w:MaxElements><w:Filter Dialect=\"{dialect}\">{text}</w:Filter>")
}

async fn select(text: &str) -> String {
    World::new(3).done(&enumerate(&format!("{WMI}/*"), &query(WQL, text))).await
}

#[tokio::test]
async fn plainly_it_gives_a_context_and_then_pages() {
    let world = World::new(5);
    let reply = world.done(&enumerate(&vms(), "")).await;
    assert!(reply.contains("enumeration/EnumerateResponse</a:Action>"), "{reply}");
    assert!(!reply.contains("Items") && !reply.contains("EndOfSequence"), "{reply}");
    let id = context(&reply);

    let first = world.done(&pull(&vms(), &id, "<n:MaxElements>2</n:MaxElements>")).await;
    assert!(first.contains("enumeration/PullResponse</a:Action>"), "{first}");
    assert_eq!((count(&first), context(&first)), (2, id.clone()));
    assert!(
        first.contains("<n:Items><p:Msvm_ComputerSystem ") && !first.contains("EndOfSequence"),
        "{first}"
    );
    // MaxElements in the other namespace; the resource URI of a Pull does not matter.
    let other = world.done(&pull(&format!("{WMI}/*"), &id, "<w:MaxElements>2</w:MaxElements>")).await;
    assert_eq!(count(&other), 2);
    let last =
        world.done(&pull(&vms(), &id, "<n:MaxElements>2</n:MaxElements><n:MaxTime>PT30S</n:MaxTime>")).await;
    assert_eq!(count(&last), 1);
    assert!(last.ends_with("</n:Items><n:EndOfSequence/></n:PullResponse></s:Body></s:Envelope>"), "{last}");
    assert!(!last.contains("EnumerationContext"), "{last}");
    world.fault(&pull(&vms(), &id, ""), "s:Receiver", "n:InvalidEnumerationContext").await;
    assert_eq!(world.service.contexts().size(), (0, 0));
}

#[tokio::test]
async fn without_max_elements_a_pull_gives_one() {
    let world = World::new(3);
    let id = context(&world.done(&enumerate(&vms(), "")).await);
    assert_eq!(count(&world.done(&pull(&vms(), &id, "")).await), 1);
}

#[tokio::test]
async fn optimised_it_gives_the_first_page_at_once() {
    let world = World::new(5);
    let reply = world.done(&enumerate(&vms(), &format!("{OPTIMISED}<w:MaxElements>3</w:MaxElements>"))).await;
    assert_eq!(count(&reply), 3);
    assert!(
        reply.contains("</n:EnumerationContext><w:Items><p:") && !reply.contains("EndOfSequence"),
        "{reply}"
    );
    let id = context(&reply);
    let rest = world.done(&pull(&vms(), &id, "<n:MaxElements>30</n:MaxElements>")).await;
    assert_eq!(count(&rest), 2);
    assert!(rest.contains("<n:EndOfSequence/>"), "{rest}");

    let all = world.done(&enumerate(&vms(), &format!("{OPTIMISED}<w:MaxElements>5</w:MaxElements>"))).await;
    assert_eq!(count(&all), 5);
    assert!(
        all.contains("<n:EnumerationContext/><w:Items>") && all.contains("</w:Items><w:EndOfSequence/>"),
        "{all}"
    );
    let none = World::new(0).done(&enumerate(&vms(), OPTIMISED)).await;
    assert!(none.contains("<n:EnumerationContext/><w:Items></w:Items><w:EndOfSequence/>"), "{none}");
    // Plainly, the emptiness is found by the first Pull.
    let world = World::new(0);
    let id = context(&world.done(&enumerate(&vms(), "")).await);
    assert!(world.done(&pull(&vms(), &id, "")).await.contains("<n:Items></n:Items><n:EndOfSequence/>"));
}

#[tokio::test]
async fn modes_give_objects_references_or_both() {
    let world = World::new(2);
    let of = |mode: &str| {
        enumerate(
            &vms(),
            &format!(
                "{OPTIMISED}<w:MaxElements>9</w:MaxElements><w:EnumerationMode>{mode}</w:EnumerationMode>"
            ),
        )
    };
    assert_eq!(count(&world.done(&of("EnumerateObject")).await), 2);
    let references = world.done(&of(" EnumerateEPR ")).await;
    assert_eq!(count(&references), 0);
    assert_eq!(references.matches("<a:EndpointReference><a:Address ").count(), 2);
    let cut =
        references.split("<w:SelectorSet ").nth(1).and_then(|rest| rest.split("</w:SelectorSet>").next());
    let cut = format!("<w:SelectorSet {}</w:SelectorSet>", cut.unwrap());
    roxmltree::Document::parse(&cut).expect("a client that copies it as text has something whole");
    assert!(references.contains(&format!("<w:Selector Name=\"Name\">{VM}</w:Selector>")), "{references}");
    let both = world.done(&of("EnumerateObjectAndEPR")).await;
    assert_eq!(both.matches("<w:Item><p:Msvm_ComputerSystem ").count(), 2);
    assert_eq!(both.matches("</p:Msvm_ComputerSystem><a:EndpointReference>").count(), 2);
    assert_eq!(both.matches("</a:EndpointReference></w:Item>").count(), 2);
    let other = world.fault(&of("EnumerateDreams"), "s:Sender", "w:UnsupportedFeature").await;
    assert!(other.contains("faultDetail/EnumerationMode"), "{other}");
}

#[tokio::test]
async fn base_classes_give_derived_instances_and_polymorphism_mode_is_ignored() {
    let world = World::new(2);
    for mode in [
        "",
        "<b:PolymorphismMode xmlns:b=\"http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd\">None</b:PolymorphismMode>",
    ] {
        let inner = format!("{OPTIMISED}<w:MaxElements>9</w:MaxElements>{mode}");
        let reply = world.done(&enumerate(&format!("{WMI}/CIM_ComputerSystem"), &inner)).await;
        assert_eq!(count(&reply), 2);
        assert!(reply.contains(&format!("xmlns:p=\"{}\"", vms())), "the class of the instance: {reply}");
    }
}

#[tokio::test]
async fn characters_and_envelope_sizes_end_a_page() {
    let world = World::new(20);
    let inner = format!("{OPTIMISED}<w:MaxElements>3</w:MaxElements>");
    let three = world.done(&enumerate(&vms(), &inner)).await;
    let three = between(&three, "<w:Items>", "</w:Items>").chars().count();
    let most = |characters: usize| {
        let inner = format!(
            "{OPTIMISED}<w:MaxElements>9</w:MaxElements><w:MaxCharacters>{characters}</w:MaxCharacters>"
        );
        enumerate(&vms(), &inner)
    };
    assert_eq!(count(&world.done(&most(three)).await), 3);
    assert_eq!(count(&world.done(&most(three - 1)).await), 2);
    world.fault(&most(200), "s:Sender", "w:EncodingLimit").await;

    let body = format!("<n:Enumerate>{OPTIMISED}<w:MaxElements>99</w:MaxElements></n:Enumerate>");
    let text = with_headers(ENUMERATE, &vms(), &[], "<w:MaxEnvelopeSize>16384</w:MaxEnvelopeSize>", &body);
    let mut reply = world.done(&text).await;
    let mut seen = count(&reply);
    while !reply.contains("EndOfSequence") {
        assert!(reply.len() <= 16384, "{}", reply.len());
        let inner = format!(
            "<n:Pull><n:EnumerationContext>{}</n:EnumerationContext><n:MaxElements>99</n:MaxElements></n:Pull>",
            context(&reply)
        );
        reply = world
            .done(&with_headers(PULL, &vms(), &[], "<w:MaxEnvelopeSize>16384</w:MaxEnvelopeSize>", &inner))
            .await;
        seen += count(&reply);
    }
    assert_eq!(seen, 20, "every instance came, once");
}

#[tokio::test]
async fn release_gives_an_empty_body_and_forgets_the_context() {
    let world = World::new(3);
    let id = context(&world.done(&enumerate(&vms(), "")).await);
    let release = |id: &str| {
        message(
            RELEASE,
            &vms(),
            &[],
            &format!("<n:Release><n:EnumerationContext>{id}</n:EnumerationContext></n:Release>"),
        )
    };
    let reply = world.done(&release(&id)).await;
    assert!(
        reply.contains("enumeration/ReleaseResponse</a:Action>") && reply.contains("<s:Body></s:Body>"),
        "{reply}"
    );
    assert_eq!(world.service.contexts().size(), (0, 0));
    world.fault(&release(&id), "s:Receiver", "n:InvalidEnumerationContext").await;
    world.fault(&pull(&vms(), &id, ""), "s:Receiver", "n:InvalidEnumerationContext").await;
    world.fault(&pull(&vms(), "nonsense", ""), "s:Receiver", "n:InvalidEnumerationContext").await;
    world.fault(&pull(&vms(), "", ""), "s:Receiver", "n:InvalidEnumerationContext").await;
}

#[tokio::test]
async fn a_context_belongs_to_its_user() {
    let world = World::new(3);
    let id = context(&world.done(&enumerate(&vms(), "")).await);
    let other = world.as_user("bert", Role::Administrator);
    other.fault(&pull(&vms(), &id, ""), "s:Receiver", "n:InvalidEnumerationContext").await;
    assert_eq!(count(&world.done(&pull(&vms(), &id, "")).await), 1, "and is not lost by somebody's guess");
}

/// A shell that takes the first object of an enumeration and forgets it says nothing to the server.
#[tokio::test]
async fn whoever_leaves_thousands_of_enumerations_open_is_not_locked_out() {
    let world = World::new(3);
    let first = context(&world.done(&enumerate(&vms(), "")).await);
    let mut last = String::new();
    for _ in 0..3000 {
        last = context(&world.done(&enumerate(&vms(), "")).await);
    }
    let (open, bytes) = world.service.contexts().size();
    let quota = Quota::default();
    assert!(open == quota.of_one && bytes <= quota.bytes_of_one, "{open} are kept, {bytes} bytes");
    world.fault(&pull(&vms(), &first, ""), "s:Receiver", "n:InvalidEnumerationContext").await;
    assert_eq!(count(&world.done(&pull(&vms(), &last, "")).await), 1);
}

#[tokio::test]
async fn contexts_are_limited() {
    let few = Quota { of_one: 2, ..Quota::default() };
    let world = World::with_limits(3, Limits { quota: few, ..Limits::default() });
    let other = world.as_user("bert", Role::Viewer);
    let kept = context(&other.done(&enumerate(&vms(), "")).await);
    for _ in 0..5 {
        world.done(&enumerate(&vms(), "")).await;
    }
    assert_eq!(world.service.contexts().size().0, 3);
    assert_eq!(count(&other.done(&pull(&vms(), &kept, "")).await), 1, "nobody else's is touched");
    let small = Quota { bytes_of_one: 1000, ..Quota::default() };
    let small = World::with_limits(3, Limits { quota: small, ..Limits::default() });
    small.fault(&enumerate(&vms(), ""), "s:Sender", "w:QuotaLimit").await;
}

#[tokio::test]
async fn lifetimes_are_read_and_kept() {
    let world = World::new(3);
    let id = context(&world.done(&enumerate(&vms(), "<n:Expires>PT0.05S</n:Expires>")).await);
    tokio::time::sleep(std::time::Duration::from_millis(80)).await;
    world.fault(&pull(&vms(), &id, ""), "s:Receiver", "n:InvalidEnumerationContext").await;
    world
        .fault(&enumerate(&vms(), "<n:Expires>soon</n:Expires>"), "s:Sender", "n:InvalidExpirationTime")
        .await;
    world
        .fault(&enumerate(&vms(), "<n:Expires>PT0S</n:Expires>"), "s:Sender", "n:InvalidExpirationTime")
        .await;
    let id = context(&world.done(&enumerate(&vms(), "")).await);
    world.fault(&pull(&vms(), &id, "<n:MaxTime>x</n:MaxTime>"), "s:Sender", "w:InvalidParameter").await;
    for number in ["0", "-1", "x", "99999999999999999999999"] {
        let inner = format!("<n:MaxElements>{number}</n:MaxElements>");
        world.fault(&pull(&vms(), &id, &inner), "s:Sender", "w:InvalidParameter").await;
    }
}

#[tokio::test]
async fn queries_select() {
    assert_eq!(count(&select("select * from Msvm_ComputerSystem").await), 3);
    assert_eq!(
        count(
            &select(&format!("SELECT * FROM Msvm_ComputerSystem WHERE Name != __SERVER AND Name = '{VM}'"))
                .await
        ),
        1
    );
    assert_eq!(count(&select("select * from CIM_ComputerSystem where Name like '%0001'").await), 1);
    assert_eq!(
        count(
            &select("select * from Msvm_ComputerSystem where Small < 0 and not (Name like \"%0002\")").await
        ),
        2
    );
}

#[tokio::test]
async fn a_projection_gives_keys_and_what_was_selected() {
    let reply = select("select ElementName, OtherName from Msvm_ComputerSystem").await;
    let document = roxmltree::Document::parse(&reply).unwrap();
    let item = document.descendants().find(|node| node.tag_name().name() == "Msvm_ComputerSystem").unwrap();
    let mut names: Vec<_> = item.children().map(|child| child.tag_name().name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["CreationClassName", "ElementName", "Name", "OtherName"]);
}

#[tokio::test]
async fn association_queries_answer_in_the_form_of_the_result() {
    let object = format!("Msvm_ComputerSystem.CreationClassName='Msvm_ComputerSystem',Name='{VM}'");
    let reply = select(&format!("ASSOCIATORS OF {{{object}}} WHERE AssocClass = Msvm_SystemReplicationService ResultClass = Msvm_ReplicationService")).await;
    assert!(reply.contains(&format!("<p:Msvm_ReplicationService xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xmlns:cim=\"http://schemas.dmtf.org/wbem/wscim/1/common\" xmlns:p=\"{WMI}/Msvm_ReplicationService\"")), "{reply}");
    let reply = select(&format!("REFERENCES OF {{{object}}}")).await;
    assert_eq!(reply.matches("<p:Msvm_SystemReplicationService ").count(), 1, "{reply}");
}

#[tokio::test]
async fn dialects_are_known_without_case_and_others_are_refused() {
    let world = World::new(2);
    let any = format!("{WMI}/*");
    for dialect in [
        WQL,
        "http://schemas.microsoft.com/wbem/wsman/1/wql",
        "http://schemas.dmtf.org/wbem/cql/1/dsp0202.pdf",
    ] {
        let reply = world.done(&enumerate(&any, &query(dialect, "select * from Msvm_ComputerSystem"))).await;
        assert_eq!(count(&reply), 2, "{dialect}");
    }
    let own = query(WQL, "select * from Msvm_ComputerSystem").replace("w:Filter", "n:Filter");
    assert_eq!(count(&world.done(&enumerate(&any, &own)).await), 2, "the filter of WS-Enumeration itself");
    for dialect in ["http://www.w3.org/TR/1999/REC-xpath-19991116", "", "WQL"] {
        world
            .fault(
                &enumerate(&any, &query(dialect, "select * from X")),
                "s:Sender",
                "n:FilterDialectRequestedUnavailable",
            )
            .await;
    }
}

#[tokio::test]
async fn queries_that_cannot_be_done_are_faults() {
    let world = World::new(2);
    let any = format!("{WMI}/*");
    for text in ["select", "", "select * from Msvm_ComputerSystem where", "delete from Msvm_ComputerSystem"] {
        world.fault(&enumerate(&any, &query(WQL, text)), "s:Sender", "n:CannotProcessFilter").await;
    }
    let class = world
        .fault(&enumerate(&any, &query(WQL, "select * from Nothing")), "s:Sender", "a:DestinationUnreachable")
        .await;
    assert!(class.contains("2150858778") && class.contains("WBEM_E_INVALID_CLASS"), "{class}");
    world
        .fault(
            &enumerate(&any, &query(WQL, "select Nothing from Msvm_ComputerSystem")),
            "s:Sender",
            "n:CannotProcessFilter",
        )
        .await;
    let reply = world.fault(&enumerate(&any, ""), "s:Sender", "w:UnsupportedFeature").await;
    assert!(reply.contains("faultDetail/FilteringRequired"), "{reply}");
    world.fault(&enumerate(&format!("{WMI}/Msvm_Nothing"), ""), "s:Sender", "a:DestinationUnreachable").await;
    world.fault(&message(ENUMERATE, &vms(), &[], ""), "s:Sender", "w:SchemaValidationError").await;
    world.fault(&message(PULL, &vms(), &[], "<n:Enumerate/>"), "s:Sender", "w:SchemaValidationError").await;
}

#[tokio::test]
async fn a_query_to_the_other_family_takes_its_namespace_from_the_selector() {
    let world = World::new(2);
    let body = format!("<n:Enumerate>{}</n:Enumerate>", query(WQL, "select * from Msvm_ComputerSystem"));
    let text = message(ENUMERATE, &format!("{DMTF}/*"), &[("__cimnamespace", V2)], &body);
    let reply = world.done(&text).await;
    assert_eq!(count(&reply), 2);
    assert!(reply.contains(&format!("xmlns:p=\"{DMTF}/Msvm_ComputerSystem\"")), "{reply}");
}

#[tokio::test]
async fn a_selector_filter_selects_by_properties() {
    let world = World::new(3);
    let filter = |selectors: &str| {
        format!(
            "{OPTIMISED}<w:MaxElements>9</w:MaxElements>\
             <w:Filter Dialect=\"http://schemas.dmtf.org/wbem/wsman/1/wsman/SelectorFilter\">\
             <w:SelectorSet>{selectors}</w:SelectorSet></w:Filter>"
        )
    };
    let ready = "<w:Selector Name=\"ready\">TRUE</w:Selector>";
    assert_eq!(count(&world.done(&enumerate(&vms(), &filter(ready))).await), 2);
    let both = format!("{ready}<w:Selector Name=\"Name\">{VM}</w:Selector>");
    assert_eq!(count(&world.done(&enumerate(&vms(), &filter(&both))).await), 1);
    let unknown = "<w:Selector Name=\"Colour\">blue</w:Selector>";
    world.fault(&enumerate(&vms(), &filter(unknown)), "s:Sender", "n:CannotProcessFilter").await;
}

#[tokio::test]
async fn an_association_filter_walks() {
    let world = World::new(3);
    let filter = |what: &str, more: &str, whole: bool| {
        let object = format!(
            "<a:Address>http://x</a:Address><a:ReferenceParameters><w:ResourceURI>{DMTF}/Msvm_ComputerSystem</w:ResourceURI>\
             <w:SelectorSet><w:Selector Name=\"__cimnamespace\">{V2}</w:Selector>\
             <w:Selector Name=\"CreationClassName\">Msvm_ComputerSystem</w:Selector>\
             <w:Selector Name=\"Name\">{VM}</w:Selector></w:SelectorSet></a:ReferenceParameters>"
        );
        let object =
            if whole { format!("<a:EndpointReference>{object}</a:EndpointReference>") } else { object };
        format!(
            "{OPTIMISED}<w:MaxElements>9</w:MaxElements>\
             <w:Filter Dialect=\"http://schemas.dmtf.org/wbem/wsman/1/cimbinding/associationFilter\">\
             <b:{what} xmlns:b=\"http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd\">\
             <b:Object>{object}</b:Object>{more}</b:{what}></w:Filter>"
        )
    };
    let result = "<b:ResultClassName>Msvm_ReplicationService</b:ResultClassName>\
                  <b:AssociationClassName>Msvm_SystemReplicationService</b:AssociationClassName>\
                  <b:Role>Antecedent</b:Role><b:ResultRole>Dependent</b:ResultRole>";
    for uri in ["http://schemas.dmtf.org/wbem/wscim/1/*".to_owned(), format!("{DMTF}/*"), format!("{WMI}/*")]
    {
        for whole in [false, true] {
            let reply = world.done(&enumerate(&uri, &filter("AssociatedInstances", result, whole))).await;
            assert_eq!(
                reply.matches("xsi:type=\"p:Msvm_ReplicationService_Type\"").count(),
                1,
                "{uri} {reply}"
            );
            let reply = world.done(&enumerate(&uri, &filter("AssociationInstances", "", whole))).await;
            assert_eq!(
                reply.matches("xsi:type=\"p:Msvm_SystemReplicationService_Type\"").count(),
                1,
                "{uri} {reply}"
            );
        }
    }
    let role = "<b:Role>Dependent</b:Role>";
    let none =
        world.done(&enumerate(&format!("{DMTF}/*"), &filter("AssociatedInstances", role, false))).await;
    assert!(none.contains("<w:Items></w:Items>"), "{none}");
    let wrong = filter("AssociatedInstances", "", false).replace("b:Object>", "b:Subject>");
    world.fault(&enumerate(&format!("{DMTF}/*"), &wrong), "s:Sender", "n:CannotProcessFilter").await;
}

//! Queries.

use crate::scene::*;
use proptest::prelude::*;
use standin_cim::broker::Broker;
use standin_cim::wql::{self, Kind};
use standin_cim::{Operations, QueryAnswer, Result, Role, StatusCode};

async fn ask(text: &str) -> Result<QueryAnswer> {
    broker().query(&caller(Role::Viewer), &namespace(), "WQL", text).await
}

async fn machines(condition: &str) -> Vec<String> {
    let answer = ask(&format!("SELECT * FROM Msvm_ComputerSystem WHERE {condition}")).await;
    names(&answer.unwrap_or_else(|error| panic!("{condition}: {error}")).instances, "Name")
}

#[tokio::test]
async fn conditions_select_what_they_say() {
    let all: &[&str] = &["kvm1", "vm-a", "vm-b"];
    for (condition, wanted) in [
        ("Name = 'vm-a'", &["vm-a"] as &[&str]),
        ("Name = \"VM-A\"", &["vm-a"]),
        ("name != __SERVER", &["vm-a", "vm-b"]),
        ("__SERVER = Name", &["kvm1"]),
        ("Name <> 'vm-a' AND EnabledState = 2", &["kvm1"]),
        ("Name = 'vm-a' OR Name = 'vm-b' AND EnabledState = 2", &["vm-a"]),
        ("(Name = 'vm-a' OR Name = 'vm-b') AND EnabledState = 3", &["vm-b"]),
        ("NOT (Name LIKE 'vm%')", &["kvm1"]),
        ("Name NOT LIKE 'vm%'", &["kvm1"]),
        ("Name LIKE 'vm-[b-z]'", &["vm-b"]),
        ("Name LIKE '%[^ab]'", &["kvm1"]),
        ("ElementName LIKE 'mail[_]1'", &["vm-b"]),
        ("EnabledState >= 2 AND EnabledState < 3", &["kvm1", "vm-a"]),
        ("3 > EnabledState", &["kvm1", "vm-a"]),
        ("EnabledState = '3'", &["vm-b"]),
        ("EnabledState = 0x3", &["vm-b"]),
        ("EnabledState < 2.5", &["kvm1", "vm-a"]),
        ("OnTimeInMilliseconds = 5000000000", all),
        ("OperationalStatus = 11", all),
        ("OperationalStatus != 11", &[]),
        ("OperationalStatus[0] = 2", all),
        ("OperationalStatus[9] = 2", &[]),
        ("EVERY OperationalStatus > 2", &[]),
        ("ANY OperationalStatus > 2", all),
        ("InstallDate = '20260301120000.000000+000'", all),
        ("InstallDate < '20260301130100.000000+060'", all),
        ("InstallDate >= '20260301130100.000000+060'", &[]),
        ("InstallDate > '2026-02-28T00:00:00Z'", all),
        ("Caption IS NULL", all),
        ("Caption IS NOT NULL", &[]),
        ("Caption = NULL", all),
        ("Name <> NULL", all),
        ("Caption = 'x'", &[]),
        ("NOT Caption = 'x'", &[]),
        ("Caption = 'x' OR Name = 'vm-a'", &["vm-a"]),
        ("__CLASS ISA 'CIM_System'", all),
        ("__CLASS ISA Msvm_VirtualSystemSettingData", &[]),
        ("__THIS ISA \"CIM_ManagedElement\"", all),
        ("__CLASS = 'msvm_computersystem'", all),
        ("__SUPERCLASS = 'CIM_ComputerSystem'", all),
        ("__DYNASTY = 'CIM_ManagedElement'", all),
        ("__DERIVATION = 'CIM_System'", all),
        (r"__NAMESPACE = 'root\\virtualization\\v2'", all),
        ("__NAMESPACE = 'root/virtualization/v2'", all),
        ("__NAMESPACE <> 'root/cimv2'", all),
        (
            r#"__PATH = '\\\\kvm1\\root\\virtualization\\v2:Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="vm-a"'"#,
            &["vm-a"],
        ),
        (
            r#"__RELPATH = 'Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="vm-b"'"#,
            &["vm-b"],
        ),
        ("Msvm_ComputerSystem.Name = 'vm-b'", &["vm-b"]),
        ("Msvm_ComputerSystem ISA CIM_System", all),
        ("Name = 7", &[]),
        ("Name <> 7", all),
        ("Name < 7", &[]),
        ("Name = ElementName", &["kvm1"]),
    ] {
        assert_eq!(machines(condition).await, wanted, "{condition}");
    }
}

#[tokio::test]
async fn a_backslash_is_itself_once_or_twice() {
    for text in [r"Microsoft:vm-a\HVR", r"Microsoft:vm-a\\HVR"] {
        let answer =
            ask(&format!("SELECT * FROM Msvm_ReplicationSettingData WHERE InstanceID = '{text}'")).await;
        assert_eq!(answer.unwrap().instances.len(), 1, "{text}");
    }
}

#[tokio::test]
async fn a_projection_leaves_the_keys_and_what_was_selected() {
    let answer = ask("select elementname, ENABLEDSTATE, __PATH from Msvm_ComputerSystem where Name='vm-a'")
        .await
        .unwrap();
    assert_eq!(
        answer.projection.as_deref(),
        Some(&["ElementName".to_owned(), "EnabledState".to_owned()][..])
    );
    let mut found: Vec<_> = answer.instances[0].properties.iter().map(|property| &*property.name).collect();
    found.sort_unstable();
    assert_eq!(found, ["CreationClassName", "ElementName", "EnabledState", "Name"]);
    let whole = ask("SELECT * FROM Msvm_ComputerSystem").await.unwrap();
    assert_eq!(whole.projection, None);
    assert_eq!(whole.instances.len(), 3);
}

#[tokio::test]
async fn a_query_with_keys_asks_the_source_for_no_more() {
    let broker = Broker::new(repository()).with_host(HOST);
    let text = "SELECT * FROM Msvm_ComputerSystem WHERE Name = 'vm-a' AND EnabledState = 2";
    let answer = broker.query(&administrator(), &namespace(), "wql", text).await.unwrap();
    assert_eq!((answer.instances.len(), broker.source().handed_out()), (1, 1));
}

#[tokio::test]
async fn text_compares_without_case_in_every_script() {
    let repository = repository();
    repository.put(V2, machine("vm-c", "Großer Ärger", 2)).unwrap();
    let broker = Broker::new(repository).with_host(HOST);
    for condition in
        ["ElementName = 'großer ÄRGER'", "ElementName LIKE '%ärg%'", "ElementName = 'Großer Ärger'"]
    {
        let text = format!("SELECT * FROM Msvm_ComputerSystem WHERE {condition}");
        let answer = broker.query(&administrator(), &namespace(), "WQL", &text).await.unwrap();
        assert_eq!(names(&answer.instances, "Name"), ["vm-c"], "{condition}");
    }
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_and_never_empty() {
    for (text, status) in [
        ("SELECT * FROM Msvm_Nothing", StatusCode::InvalidClass),
        ("SELECT Colour FROM Msvm_ComputerSystem", StatusCode::NoSuchProperty),
        ("SELECT * FROM Msvm_ComputerSystem WHERE Colour = 'red'", StatusCode::NoSuchProperty),
        ("SELECT * FROM Msvm_ConcreteJob WHERE JobState = 'running'", StatusCode::InvalidQuery),
        ("SELECT * FROM Msvm_ConcreteJob WHERE StartTime > 'yesterday'", StatusCode::InvalidQuery),
        ("SELECT * FROM Msvm_ConcreteJob WHERE DeleteOnCompletion = 7", StatusCode::InvalidQuery),
        ("SELECT * FROM Msvm_ComputerSystem WHERE __CLASS ISA Msvm_Nothing", StatusCode::InvalidClass),
        ("SELECT * FROM Msvm_ComputerSystem WHERE Msvm_ComputerSystem = 1", StatusCode::NoSuchProperty),
        ("SELECT * FROM Msvm_SettingsDefineState WHERE SettingData < 'X.a=1'", StatusCode::InvalidQuery),
        ("SELECT * FROM", StatusCode::InvalidQuery),
        ("DELETE FROM Msvm_ComputerSystem", StatusCode::InvalidQuery),
        ("SELECT * FROM Msvm_ComputerSystem WHERE", StatusCode::InvalidQuery),
        ("SELECT * FROM Msvm_ComputerSystem; DROP", StatusCode::InvalidQuery),
        ("ASSOCIATORS OF {Msvm_ComputerSystem.Name='vm-a'} WHERE Colour = x", StatusCode::InvalidQuery),
        ("ASSOCIATORS OF {Msvm_ComputerSystem.Name='vm-z'}", StatusCode::NotFound),
        (
            "ASSOCIATORS OF {Msvm_ComputerSystem.Name='vm-a'} WHERE AssocClass = Msvm_Nothing",
            StatusCode::InvalidClass,
        ),
        (r"ASSOCIATORS OF {root\cimv2:Win32_OperatingSystem.Name='x'}", StatusCode::InvalidNamespace),
        ("ASSOCIATORS OF {interop:CIM_ObjectManager.Name='x'}", StatusCode::InvalidQuery),
    ] {
        let error = ask(text).await.unwrap_err();
        assert_eq!(error.status, status, "{text}: {error}");
    }
    let error = broker().query(&administrator(), &namespace(), "XPath", "//x").await.unwrap_err();
    assert_eq!(error.status, StatusCode::QueryLanguageNotSupported);
}

#[test]
fn an_error_says_where_in_the_text() {
    for (text, position) in [
        ("SELECT * FROM C WHERE A = ", 26),
        ("SELECT * FROM C WHERE A ~ 1", 24),
        ("SELECT * FROM C WHERE (A = 1", 28),
        ("SELECT * FROM C WHERE A LIKE 7", 29),
        ("SELECT A B FROM C", 9),
        ("SELECT * FROM C WHERE A = 12x", 26),
        ("SELECT ä FROM C WHERE A = 'x", 26),
    ] {
        let error = wql::parse(text).unwrap_err();
        assert_eq!(error.position, position, "{text}: {error}");
    }
}

#[test]
fn nesting_and_length_have_their_ends() {
    let nested = |depth: usize| {
        let (open, close) = ("(".repeat(depth), ")".repeat(depth));
        wql::parse(&format!("SELECT * FROM C WHERE {open}A = 1{close}"))
    };
    assert!(nested(wql::DEEPEST - 1).is_ok());
    for depth in [wql::DEEPEST, 10_000] {
        assert!(matches!(nested(depth).unwrap_err().problem, wql::Problem::TooDeep), "{depth}");
    }
    let nots = format!("SELECT * FROM C WHERE {} A = 1", "NOT ".repeat(5_000));
    assert!(matches!(wql::parse(&nots).unwrap_err().problem, wql::Problem::TooDeep));
    let long = format!("SELECT * FROM C WHERE A = '{}'", "x".repeat(wql::LONGEST));
    assert!(matches!(wql::parse(&long).unwrap_err().problem, wql::Problem::TooLong { .. }));
    // A flat condition is as long as it is, and no deeper.
    let flat = format!("SELECT * FROM C WHERE A = 1{}", " OR A = 1".repeat(3_000));
    assert!(wql::parse(&flat).is_ok());
}

#[test]
fn walks_have_their_clauses() {
    let text = r#"associators of {\\H\root\x:C.K="a}b",L=3} where AssocClass=A ResultClass = "R" role=Antecedent
        ResultRole=Dependent KeysOnly RequiredAssocQualifier = Association requiredqualifier=Dynamic"#;
    let query = wql::parse(text).unwrap();
    let Kind::Associators(walk) = query.kind() else { panic!("{query:?}") };
    assert_eq!(walk.source.to_string(), r#"\\H\root\x:C.K="a}b",L=3"#);
    assert_eq!(walk.filter.association_class.as_deref(), Some("A"));
    assert_eq!(walk.filter.result_class.as_deref(), Some("R"));
    assert_eq!(walk.filter.role.as_deref(), Some("Antecedent"));
    assert_eq!(walk.filter.result_role.as_deref(), Some("Dependent"));
    assert!(walk.keys_only && !walk.class_definitions_only);
    assert_eq!(walk.association_qualifier.as_deref(), Some("Association"));
    assert_eq!(walk.result_qualifier.as_deref(), Some("Dynamic"));
    assert!(wql::parse("REFERENCES OF {C.K='a'} WHERE AssocClass = A").is_err());
    assert!(wql::parse("REFERENCES OF {C.K='a'} WHERE ResultClass = A Role = B").is_ok());
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,200}") {
        let _ = wql::parse(&text);
        let _ = wql::parse(&format!("SELECT * FROM C WHERE {text}"));
        let _ = wql::parse(&format!("ASSOCIATORS OF {{{text}}} WHERE {text}"));
    }

    #[test]
    fn no_words_panic(words in prop::collection::vec(prop::sample::select(vec![
        "SELECT", "*", "FROM", "C", "WHERE", "A", "=", "<>", "LIKE", "'x%'", "NOT", "(", ")", "AND", "OR", "IS",
        "NULL", "ISA", "[", "]", "7", ".", ",", "ANY", "EVERY", "{C.K='a'}", "ASSOCIATORS", "OF", "TRUE",
    ]), 0..25)) {
        let _ = wql::parse(&words.join(" "));
    }

    #[test]
    fn any_text_equals_itself_in_quotes(text in "[^\\x00]{0,40}", other in "[a-z]{1,5}") {
        let named = |value: &str| instance("Msvm_ComputerSystem", &[("ElementName", value.into())]);
        let schema = standin_cim::schema::virtualization();
        let namespace = namespace();
        let context = standin_cim::Context { schema: &schema, namespace: &namespace, host: HOST };
        let query = wql::parse(&format!("SELECT * FROM Msvm_ComputerSystem WHERE ElementName = {}", quoted(&text))).unwrap();
        prop_assert!(query.matches(&named(&text), &context).unwrap());
        let longer = format!("{text}{other}");
        prop_assert!(!query.matches(&named(&longer), &context).unwrap());
    }

    #[test]
    fn a_condition_and_its_contrary_share_the_instances(state in 0_u16..12, bound in -3_i32..15) {
        let machine = machine("m", "m", state);
        let schema = standin_cim::schema::virtualization();
        let namespace = namespace();
        let context = standin_cim::Context { schema: &schema, namespace: &namespace, host: HOST };
        let holds = |condition: &str| {
            let query = wql::parse(&format!("SELECT * FROM Msvm_ComputerSystem WHERE {condition}")).unwrap();
            query.check(&context).unwrap();
            query.matches(&machine, &context).unwrap()
        };
        let state = i32::from(state);
        for (sign, contrary, answer) in [
            ("=", "<>", state == bound), ("<", ">=", state < bound), (">", "<=", state > bound),
        ] {
            prop_assert_eq!(holds(&format!("EnabledState {sign} {bound}")), answer);
            prop_assert_eq!(holds(&format!("NOT EnabledState {sign} {bound}")), !answer);
            prop_assert_eq!(holds(&format!("EnabledState {contrary} {bound}")), !answer);
        }
    }
}

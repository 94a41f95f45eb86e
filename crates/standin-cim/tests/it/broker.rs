//! Reading instances.

use crate::scene::*;
use standin_cim::broker::Broker;
use standin_cim::memory::Repository;
use standin_cim::{Keys, Namespace, ObjectPath, Operations, Role, StatusCode, Value, schema};

#[tokio::test]
async fn an_instance_is_found_by_all_by_some_and_by_a_base_s_keys() {
    let broker = broker();
    for path in [
        machine_path("vm-a"),
        machine_path("VM-A"),
        reference("msvm_computersystem", &[("name", "vm-a")]),
        reference("CIM_ComputerSystem", &[("Name", "vm-a")]),
        reference("CIM_ManagedElement", &[("CreationClassName", "Msvm_ComputerSystem"), ("Name", "vm-a")]),
    ] {
        let found = broker.get_instance(&caller(Role::Viewer), &path.clone().within(namespace())).await;
        let found = found.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(found.class, "Msvm_ComputerSystem", "{path}");
        assert_eq!(found.value("ElementName"), Some(&"web server".into()));
    }
}

#[tokio::test]
async fn an_instance_has_every_property_of_its_class_in_order_and_nulls_stay_null() {
    let broker = broker();
    let path = machine_path("vm-a").within(Namespace::new(r"ROOT\virtualization\V2"));
    let found = broker.get_instance(&administrator(), &path).await.unwrap();
    let schema = schema::virtualization();
    let class = schema.class("Msvm_ComputerSystem").unwrap();
    let names: Vec<_> = found.properties.iter().map(|property| &property.name).collect();
    assert_eq!(names, class.properties.iter().map(|property| &property.name).collect::<Vec<_>>());
    for (property, declared) in found.properties.iter().zip(&class.properties) {
        assert_eq!(property.value.cim_type, declared.default.cim_type, "{}", property.name);
        assert_eq!(property.value.array, declared.default.array, "{}", property.name);
    }
    // The class has a default for it, and nobody said it of this machine.
    assert!(class.property("EnabledDefault").unwrap().default.value.is_some());
    assert_eq!(found.value("EnabledDefault"), None);
    let path = found.path.unwrap();
    assert_eq!((path.namespace, path.host), (Some(namespace()), None));
}

#[tokio::test]
async fn what_cannot_be_one_instance_is_refused_with_its_reason() {
    let broker = broker();
    let within = |path: ObjectPath| path.within(namespace());
    let mut class = within(machine_path("vm-a"));
    class.keys = Keys::None;
    let mut elsewhere = within(machine_path("vm-a"));
    elsewhere.host = Some("kvm2".into());
    for (path, status) in [
        (within(machine_path("vm-z")), StatusCode::NotFound),
        (within(reference("Msvm_Nothing", &[("Name", "x")])), StatusCode::InvalidClass),
        (within(reference("Msvm_ComputerSystem", &[("Colour", "x")])), StatusCode::InvalidParameter),
        (
            within(reference("Msvm_ComputerSystem", &[("ElementName", "web server")])),
            StatusCode::InvalidParameter,
        ),
        (
            within(reference("Msvm_ComputerSystem", &[("CreationClassName", "Msvm_ComputerSystem")])),
            StatusCode::InvalidParameter,
        ),
        (class, StatusCode::InvalidParameter),
        (machine_path("vm-a").within(Namespace::new("root/virtualization")), StatusCode::InvalidNamespace),
        (machine_path("vm-a"), StatusCode::InvalidNamespace),
        (elsewhere, StatusCode::InvalidNamespace),
    ] {
        let error = broker.get_instance(&administrator(), &path).await.unwrap_err();
        assert_eq!(error.status, status, "{path}: {error}");
    }
}

#[tokio::test]
async fn a_read_with_keys_asks_the_source_for_one_instance() {
    let repository = repository();
    for number in 0..200 {
        repository.put(V2, machine(&format!("vm-{number}"), "one of many", 3)).unwrap();
    }
    let broker = Broker::new(repository).with_host(HOST);
    broker.get_instance(&administrator(), &machine_path("vm-77").within(namespace())).await.unwrap();
    assert_eq!(broker.source().handed_out(), 1);
    // Far from what it takes, and far from what copying a schema for each read would take.
    let begin = std::time::Instant::now();
    for _ in 0..2_000 {
        broker.get_instance(&administrator(), &machine_path("vm-77").within(namespace())).await.unwrap();
    }
    let took = begin.elapsed();
    println!("a read takes {:?}", took / 2_000);
    assert!(took < std::time::Duration::from_secs(4), "2000 reads took {took:?}");
}

#[tokio::test]
async fn enumerating_a_base_gives_every_derived_instance_once() {
    let broker = broker();
    let all = |class: &'static str| {
        let broker = broker.clone();
        async move { broker.enumerate(&caller(Role::Viewer), &namespace(), class).await.unwrap() }
    };
    assert_eq!(names(&all("Msvm_ComputerSystem").await, "Name"), ["kvm1", "vm-a", "vm-b"]);
    assert_eq!(names(&all("CIM_System").await, "Name"), ["kvm1", "vm-a", "vm-b"]);
    let settings = all("cim_virtualsystemsettingdata").await;
    assert_eq!(settings.len(), 5, "four of machines and points, one of replication");
    assert!(settings.iter().any(|one| one.class == "Msvm_ReplicationSettingData"));
    assert_eq!(all("CIM_ManagedElement").await.len(), 9);
    assert!(all("Msvm_ConcreteJob").await.is_empty());
    let error = broker.enumerate(&administrator(), &namespace(), "Win32_Process").await.unwrap_err();
    assert_eq!(error.status, StatusCode::InvalidClass);
}

#[tokio::test]
async fn a_source_without_a_namespace_says_which_it_has() {
    let broker = Broker::new(Repository::new().with_namespace("root/x", schema::cimv2()));
    assert_eq!(broker.namespaces(), [Namespace::new("/root/X/")]);
    let error = broker.schema(&namespace()).unwrap_err();
    assert_eq!(error.status, StatusCode::InvalidNamespace);
    assert!(error.message.contains("root/x"), "{error}");
    assert!(broker.schema(&Namespace::new(r"ROOT\x")).unwrap().class("win32_operatingsystem").is_some());
}

#[tokio::test]
async fn numbers_and_references_are_keys_as_well() {
    let repository = Repository::new().with_namespace("root/cimv2", schema::cimv2());
    let class = schema::cimv2();
    let class = class.class("Win32_NetworkAdapterConfiguration").unwrap();
    let mut adapter = standin_cim::Instance::new(class.name.clone());
    adapter.set("Index", standin_cim::CimType::Uint32, false, Some(Value::Uint32(7)));
    repository.put("root/cimv2", adapter).unwrap();
    let broker = Broker::new(repository);
    // Selectors of WS-Management carry numbers as text.
    let path = reference("Win32_NetworkAdapterConfiguration", &[("Index", "7")]);
    assert!(broker.get_instance(&administrator(), &path.within(Namespace::new("root/cimv2"))).await.is_ok());
    let link = reference(
        "Msvm_SettingsDefineState",
        &[
            (
                "ManagedElement",
                r#"\\KVM1\root\virtualization\v2:Msvm_ComputerSystem.CreationClassName="Msvm_ComputerSystem",Name="vm-a""#,
            ),
            ("SettingData", r#"Msvm_VirtualSystemSettingData.InstanceID="Microsoft:a""#),
        ],
    );
    let found =
        crate::scene::broker().get_instance(&administrator(), &link.within(namespace())).await.unwrap();
    assert!(
        matches!(found.value("SettingData"), Some(Value::Reference(path)) if path.same_object(&point_path("a")))
    );
}

#[tokio::test]
async fn a_namespace_lists_the_next_ones_below_it_and_each_can_be_entered() {
    let repository = [
        "root",
        "root/cimv2",
        "root/cimv2/x",
        "ROOT/virtualization/v2",
        "root/virtualization/v3",
        "interop",
        "rootless/x",
    ]
    .into_iter()
    .fold(Repository::new(), |repository, name| repository.with_namespace(name, schema::cimv2()));
    let broker = Broker::new(repository);
    let root = Namespace::new("root");
    let found = broker.enumerate(&caller(Role::Viewer), &root, "__NAMESPACE").await.unwrap();
    assert_eq!(names(&found, "Name"), ["cimv2", "virtualization/v2", "virtualization/v3"]);
    for name in names(&found, "Name") {
        let below = Namespace::new(&format!("root/{name}"));
        assert!(broker.enumerate(&administrator(), &below, "__NAMESPACE").await.is_ok(), "{name}");
    }
    let path = reference("__Namespace", &[("Name", "CIMV2")]).within(root);
    assert!(broker.get_instance(&administrator(), &path).await.is_ok());
    let found = broker.enumerate(&administrator(), &Namespace::new("interop"), "__NAMESPACE").await.unwrap();
    assert!(found.is_empty());
}

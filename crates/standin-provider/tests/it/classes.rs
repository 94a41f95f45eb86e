//! Every class of every namespace: what is enumerated is what the class definitions say, and is found again by its path.

use crate::client::{REPLICA, named, string, text};
use crate::world::World;
use standin_cim::{
    CimType, Class, Instance, InstanceSource, Keys, Narrow, Role, Schema, StatusCode, TypedValue, Value,
};
use standin_hypervisor::fake::Op;
use standin_provider::{CIMV2, INTEROP, Provider, ROOT, VIRTUALIZATION};

/// The classes that have instances on a replica that has failed over: all that clients walk.
const INHABITED: [&str; 33] = [
    "Msvm_ReplicationService",
    "Msvm_ReplicationRelationship",
    "Msvm_ReplicationSettingData",
    "Msvm_ReplicationServiceSettingData",
    "Msvm_ReplicationAuthorizationSettingData",
    "Msvm_ReplicationStatistics",
    "Msvm_ReplicationProvider",
    "Msvm_FailoverNetworkAdapterSettingData",
    "Msvm_SystemReplicationRelationship",
    "Msvm_ComputerSystem",
    "Msvm_VirtualSystemSettingData",
    "Msvm_SnapshotOfVirtualSystem",
    "Msvm_MostCurrentSnapshotInBranch",
    "Msvm_LastAppliedSnapshot",
    "Msvm_SettingsDefineState",
    "Msvm_VirtualSystemSettingDataComponent",
    "Msvm_StorageAllocationSettingData",
    "Msvm_SyntheticEthernetPort",
    "Msvm_SyntheticEthernetPortSettingData",
    "Msvm_EthernetPortFailoverSettingDataComponent",
    "Msvm_SystemDevice",
    "Msvm_VirtualSystemManagementService",
    "Msvm_VirtualSystemSnapshotService",
    "Msvm_ConcreteJob",
    "Msvm_HostedService",
    "Msvm_AffectedJobElement",
    "CIM_ComputerSystem",
    "CIM_VirtualSystemSettingData",
    "CIM_ResourceAllocationSettingData",
    "CIM_SettingData",
    "CIM_ConcreteJob",
    "CIM_Service",
    "CIM_ManagedElement",
];

/// A replica with cards, network settings and a job, failed over.
async fn lived_in() -> World {
    let world = World::with_cards(&["lan", "dmz"]).await;
    world.point().await;
    let mut card = world.at_b().all("Msvm_FailoverNetworkAdapterSettingData").await.remove(0);
    card.set("DHCPEnabled", CimType::Boolean, false, Some(Value::Boolean(false)));
    let addresses = Value::from(vec!["192.0.2.9"]);
    card.set("IPAddresses", CimType::String, true, Some(addresses));
    card.set("Subnets", CimType::String, true, Some(Value::from(vec!["255.255.255.0"])));
    let settings = standin_cim::RawValue::Array(vec![text("", standin_cim::embedded::to_text(&card)).value]);
    let set = vec![world.computer_system(), named("NetworkSettings", settings)];
    let answer = world.at_b().replication("SetFailoverNetworkAdapterSettings", set).await;
    assert_eq!(answer.return_value, 0);
    world.fails_over().await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn every_property_of_every_instance_is_declared_and_of_the_declared_type() {
    let world = lived_in().await;
    let mut seen = 0;
    for client in [world.at_a(), world.at_b()] {
        let host = if client.site().host == REPLICA { &world.b } else { &world.a };
        let provider = Provider::new(host.engine(), client.site());
        for namespace in provider.namespaces() {
            let schema = provider.schema(&namespace).expect("a schema");
            for class in schema.classes() {
                // Past the broker, which would leave out what no class has.
                let found =
                    provider.instances(&client.caller(), &namespace, &class.name, &Narrow::default()).await;
                for instance in found.expect("instances") {
                    assert_eq!(instance.class, class.name);
                    fits(&schema, class, &instance);
                    keys_make_the_path(class, &instance);
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 120, "{seen}");
}

fn fits(schema: &Schema, class: &Class, instance: &Instance) {
    let mut names = std::collections::BTreeSet::new();
    for property in &instance.properties {
        let place = format!("{}.{}", class.name, property.name);
        let declared = class.property(&property.name).unwrap_or_else(|| panic!("{place} is not declared"));
        assert_eq!(declared.name, property.name, "the spelling of {place}");
        assert!(names.insert(property.name.clone()), "{place} is there twice");
        let TypedValue { cim_type, array, value } = &property.value;
        assert_eq!((*cim_type, *array), (declared.default.cim_type, declared.default.array), "{place}");
        let values: Vec<&Value> = match value {
            None => Vec::new(),
            Some(Value::Array(values)) => values.iter().flatten().collect(),
            Some(value) => vec![value],
        };
        assert_eq!(matches!(value, Some(Value::Array(_))), *array && value.is_some(), "{place}");
        for value in values {
            match value {
                Value::Instance(inner) => {
                    let wanted = declared.embedded_class.as_deref().unwrap_or_else(|| panic!("{place}"));
                    assert!(schema.is_a(&inner.class, wanted), "{place} has a {}", inner.class);
                    let class = schema.class(&inner.class).expect("a class");
                    fits(schema, class, inner);
                }
                value => assert_eq!(value.cim_type(), Some(*cim_type), "{place}: {value:?}"),
            }
        }
    }
}

fn keys_make_the_path(class: &Class, instance: &Instance) {
    let path = instance.path.as_ref().unwrap_or_else(|| panic!("{} without a path", class.name));
    let Keys::Named(keys) = &path.keys else { panic!("{path}") };
    let mut declared: Vec<_> = class.keys().map(|key| key.name.to_string()).collect();
    let mut given: Vec<_> = keys.iter().map(|key| key.name.to_string()).collect();
    declared.sort();
    given.sort();
    assert_eq!(given, declared, "{path}");
    for key in keys {
        let value = instance.value(&key.name).unwrap_or_else(|| panic!("{path}: {} is null", key.name));
        assert!(key.value.agrees(value), "{path}: {value:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_class_that_clients_walk_is_inhabited_and_each_instance_is_found_by_its_path() {
    let world = lived_in().await;
    let client = world.at_b();
    for class in INHABITED {
        let found = client.all(class).await;
        assert!(!found.is_empty(), "{class} has no instances");
        for instance in found {
            let path = instance.path.clone().expect("a path");
            let again = client.get(&path).await;
            assert_eq!((&again.class, &again.path), (&instance.class, &instance.path), "{path}");
            for (one, other) in again.properties.iter().zip(&instance.properties) {
                // These go on while a test looks at them.
                if !["EndStatisticTime", "ElapsedTime", "TimeOfLastStateChange"].contains(&&*one.name) {
                    assert_eq!(one, other, "{path}");
                }
            }
        }
    }
    assert!(client.all("Msvm_ReplicaSystemDependency").await.is_empty(), "there are no test replicas");
    for class in
        ["CIM_ObjectManager", "CIM_Namespace", "CIM_RegisteredProfile", "CIM_ElementConformsToProfile"]
    {
        for namespace in INTEROP {
            assert!(!client.all_in(namespace.clone(), class).await.is_empty(), "{class} in {namespace}");
        }
    }
    let below = client.all_in(ROOT, "__NAMESPACE").await;
    let below: Vec<&str> = below.iter().map(|one| string(one, "Name")).collect();
    assert_eq!(below, ["virtualization/v2", "cimv2", "interop"]);
    let host = client.all_in(CIMV2, "Win32_ComputerSystem").await.remove(0);
    assert_eq!((string(&host, "Name"), string(&host, "DNSHostName")), (REPLICA, "replica"));
    let product = client.all_in(CIMV2, "Win32_ComputerSystemProduct").await.remove(0);
    assert_eq!(string(&product, "UUID"), "F1A5C0DE-0000-4000-8000-00000000ABCD");
    assert!(!client.all_in(CIMV2, "Win32_OperatingSystem").await.is_empty());
}

/// A thousand VMs are listed as they were seen last: asking the hypervisor for each would take minutes.
#[tokio::test(flavor = "multi_thread")]
async fn instances_are_listed_without_a_question_to_the_hypervisor() {
    let world = World::with_cards(&["lan", "dmz"]).await;
    world.point().await;
    world.look().await;
    for host in [&world.a, &world.b] {
        host.fake.faults().fail(Op::Inspect, 0, u64::MAX);
    }
    for client in [world.at_a(), world.at_b()] {
        assert!(!client.all("CIM_ManagedElement").await.is_empty());
        assert_eq!(client.all("Msvm_SyntheticEthernetPort").await.len(), 2);
        assert_eq!(client.all("Msvm_FailoverNetworkAdapterSettingData").await.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_standin_does_not_know_is_null() {
    let world = World::with_cards(&["lan"]).await;
    let client = world.at_b();
    let unknown = [
        ("Msvm_ReplicationServiceSettingData", "HttpPort"),
        ("Msvm_ReplicationSettingData", "CertificateThumbPrint"),
        ("Msvm_ReplicationStatistics", "LastTestFailoverTime"),
        ("Msvm_ComputerSystem", "NumberOfNumaNodes"),
        ("Msvm_ComputerSystem", "EnhancedSessionModeState"),
        ("Msvm_FailoverNetworkAdapterSettingData", "IPAddresses"),
    ];
    for (class, property) in unknown {
        let found = client.all(class).await;
        let declared = found[0].property(property).unwrap_or_else(|| panic!("{class} has no {property}"));
        assert_eq!(declared.value.value, None, "{class}.{property}");
    }
    // On the primary the VM was there before its replication: when it was made is not known.
    let realized = world.at_a().all("Msvm_VirtualSystemSettingData").await.remove(0);
    assert!(realized.value("CreationTime").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interval_that_does_not_fit_into_its_type_is_null_and_stays_when_it_is_given_back() {
    let world = World::new().await;
    let mut settings = crate::world::keep_all();
    settings.interval_s = 24 * 3600;
    world.enable(settings, false).await.expect("enabled");
    let client = world.at_a();
    let found = client.all("Msvm_ReplicationSettingData").await.remove(0);
    assert!(found.value("ReplicationInterval").is_none());
    let args = vec![world.computer_system(), crate::client::embedded("ReplicationSettingData", found)];
    assert_eq!(client.replication("ModifyReplicationSettings", args).await.return_value, 0);
    let kept = world.a.engine().settings(world.vm).expect("settings");
    assert_eq!(kept.interval_s, 24 * 3600);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_authorization_entries_are_changed_without_a_method() {
    let world = World::new().await;
    let client = world.at_b();
    let change = |property: &str, value: &str| vec![text(property, value)];
    let entry = client.all("Msvm_ReplicationAuthorizationSettingData").await.remove(0).path.expect("a path");
    let changed = client.modify(&entry, change("TrustGroup", "three")).await.expect("changed");
    assert_eq!(string(&changed, "TrustGroup"), "three");
    let wrong = client.modify(&entry, change("AllowedPrimaryHostSystem", "a.*.b")).await;
    assert_eq!(wrong.expect_err("a wildcard in the middle").status, StatusCode::InvalidParameter);
    let viewer = world.at_b().with_role(Role::Viewer);
    let denied = viewer.modify(&entry, change("TrustGroup", "four")).await;
    assert_eq!(denied.expect_err("a viewer").status, StatusCode::AccessDenied);
    assert_eq!(string(&client.get(&entry).await, "TrustGroup"), "three");
    let provider = Provider::new(world.b.engine(), client.site());
    for class in ["Msvm_ReplicationServiceSettingData", "Msvm_ReplicationService"] {
        let instance = client.all(class).await.remove(0);
        let changes = provider.modify(&client.caller(), &VIRTUALIZATION, &instance, Vec::new()).await;
        assert_eq!(changes.expect_err(class).status, StatusCode::NotSupported);
        provider.delete(&client.caller(), &VIRTUALIZATION, &instance).await.expect_err(class);
        provider.create(&client.caller(), &VIRTUALIZATION, instance).await.expect_err(class);
    }
}

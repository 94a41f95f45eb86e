//! The schema files.

use standin_cim::{CimType, Class, Schema, Value, schema};
use std::sync::Arc;

fn all() -> [(&'static str, Arc<Schema>); 4] {
    [
        ("virtualization", schema::virtualization()),
        ("interop", schema::interop()),
        ("cimv2", schema::cimv2()),
        ("root", schema::root()),
    ]
}

fn keys(class: &Class) -> Vec<&str> {
    class.keys().map(|key| &*key.name).collect()
}

#[test]
fn the_classes_that_clients_walk_are_there_with_their_keys() {
    let schema = schema::virtualization();
    let system: &[&str] = &["CreationClassName", "Name"];
    let service: &[&str] = &["SystemCreationClassName", "SystemName", "CreationClassName", "Name"];
    let instance: &[&str] = &["InstanceID"];
    let dependency: &[&str] = &["Antecedent", "Dependent"];
    let component: &[&str] = &["GroupComponent", "PartComponent"];
    for (name, wanted) in [
        ("Msvm_ComputerSystem", system),
        ("Msvm_PlannedComputerSystem", system),
        ("Msvm_ReplicationService", service),
        ("Msvm_VirtualSystemManagementService", service),
        ("Msvm_VirtualSystemSnapshotService", service),
        ("Msvm_ReplicationRelationship", instance),
        ("Msvm_ReplicationSettingData", instance),
        ("Msvm_ReplicationServiceSettingData", instance),
        ("Msvm_ReplicationAuthorizationSettingData", instance),
        ("Msvm_ReplicationStatistics", instance),
        ("Msvm_FailoverNetworkAdapterSettingData", instance),
        ("Msvm_VirtualSystemSettingData", instance),
        ("Msvm_StorageAllocationSettingData", instance),
        ("Msvm_SyntheticEthernetPortSettingData", instance),
        ("Msvm_EthernetPortAllocationSettingData", instance),
        ("Msvm_MemorySettingData", instance),
        ("Msvm_ProcessorSettingData", instance),
        ("Msvm_ConcreteJob", instance),
        ("Msvm_ReplicationProvider", &["InstanceID", "Name"]),
        (
            "Msvm_SyntheticEthernetPort",
            &["SystemCreationClassName", "SystemName", "CreationClassName", "DeviceID"],
        ),
        ("Msvm_ReplicaSystemDependency", dependency),
        ("Msvm_SystemReplicationRelationship", dependency),
        ("Msvm_SnapshotOfVirtualSystem", dependency),
        ("Msvm_MostCurrentSnapshotInBranch", dependency),
        ("Msvm_LastAppliedSnapshot", dependency),
        ("Msvm_HostedService", dependency),
        ("Msvm_HostedDependency", dependency),
        ("Msvm_VirtualSystemSettingDataComponent", component),
        ("Msvm_EthernetPortFailoverSettingDataComponent", component),
        ("Msvm_SystemDevice", component),
        ("Msvm_SettingsDefineState", &["ManagedElement", "SettingData"]),
        ("Msvm_ElementSettingData", &["ManagedElement", "SettingData"]),
        ("Msvm_AffectedJobElement", &["AffectedElement", "AffectingElement"]),
        ("Msvm_Error", &[]),
    ] {
        let class = schema.class(name).unwrap_or_else(|| panic!("{name}"));
        let (mut found, mut wanted) = (keys(class), wanted.to_vec());
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{name}");
        assert!(!class.is_abstract, "{name}");
        assert_eq!(
            class.association,
            class.properties.iter().any(|one| one.reference_class.is_some()),
            "{name}"
        );
    }
}

#[test]
fn the_replication_service_has_its_twenty_nine_methods() {
    let schema = schema::virtualization();
    let service = schema.class("Msvm_ReplicationService").unwrap();
    assert_eq!(
        service.methods.len(),
        29,
        "{:?}",
        service.methods.iter().map(|one| &one.name).collect::<Vec<_>>()
    );
    let failover = service.method("InitiateFailover").unwrap();
    let parameters: Vec<_> =
        failover.parameters.iter().map(|one| (&*one.name, one.input, one.output, one.cim_type)).collect();
    assert_eq!(
        parameters,
        [
            ("ComputerSystem", true, false, CimType::Reference),
            ("SnapshotSettingData", true, false, CimType::Reference),
            ("Job", false, true, CimType::Reference)
        ]
    );
    let codes = failover.qualifiers.iter().find(|one| one.name == "ValueMap").unwrap();
    let Some(Value::Array(codes)) = &codes.value.value else { panic!("{codes:?}") };
    assert!(codes.contains(&Some("4096".into())) && codes.contains(&Some("32779".into())));
}

#[test]
fn a_class_has_all_that_its_base_has_in_the_same_places() {
    for (name, schema) in all() {
        for class in schema.classes() {
            let Some(base) = &class.superclass else { continue };
            let base = schema.class(base).unwrap_or_else(|| panic!("{name}: {} without {base}", class.name));
            for (at, inherited) in base.properties.iter().enumerate() {
                let own = &class.properties[at];
                let place = format!("{name}: {}.{}", class.name, own.name);
                assert_eq!(own.name, inherited.name, "{place}");
                assert_eq!(own.default.cim_type, inherited.default.cim_type, "{place}");
                assert!(own.key || !inherited.key, "{place} is no key any more");
                assert!(own.origin == inherited.origin || own.origin == class.name, "{place}");
            }
            for method in &base.methods {
                assert!(class.method(&method.name).is_some(), "{name}: {}.{}", class.name, method.name);
            }
            let position = |wanted: &str| schema.classes().iter().position(|one| one.name == wanted).unwrap();
            assert!(position(&base.name) < position(&class.name), "{name}: {}", class.name);
        }
    }
}

#[test]
fn what_a_class_names_exists_and_every_value_has_its_type() {
    for (name, schema) in all() {
        for class in schema.classes() {
            let elements = class.properties.iter().map(|one| (&one.reference_class, &one.embedded_class));
            let parameters = class.methods.iter().flat_map(|method| &method.parameters);
            let elements = elements.chain(parameters.map(|one| (&one.reference_class, &one.embedded_class)));
            for named in elements.flat_map(|(reference, embedded)| [reference, embedded]).flatten() {
                assert!(schema.class(named).is_some(), "{name}: {} names {named}", class.name);
            }
            for property in &class.properties {
                for qualifier in &property.qualifiers {
                    assert!(
                        qualifier.value.value.is_some(),
                        "{}.{} {}",
                        class.name,
                        property.name,
                        qualifier.name
                    );
                    assert!(schema::qualifiers().iter().any(|declared| declared.name == qualifier.name));
                }
                if let Some(value) = &property.default.value {
                    assert_eq!(
                        value.cim_type(),
                        Some(property.default.cim_type),
                        "{}.{}",
                        class.name,
                        property.name
                    );
                    let nulls = matches!(value, Value::Array(elements) if elements.contains(&None));
                    assert!(!nulls, "{}.{} has a default of another type", class.name, property.name);
                }
            }
        }
    }
    let schema = schema::virtualization();
    let settings = schema.class("Msvm_ReplicationSettingData").unwrap();
    assert_eq!(settings.property("ReplicationInterval").unwrap().default.value, Some(300_u16.into()));
    let start = settings.property("AutoResynchronizeIntervalStart").unwrap();
    assert!(matches!(start.default.value, Some(Value::Datetime(_))), "{start:?}");
    assert_eq!(
        settings.property("IncludedDisks").unwrap().embedded_class.as_deref(),
        Some("Msvm_StorageAllocationSettingData")
    );
}

#[test]
fn families_hold_every_class_below_and_no_other() {
    let schema = schema::virtualization();
    for base in schema.classes() {
        let family: Vec<_> = schema.family(&base.name).map(|class| &class.name).collect();
        for class in schema.classes() {
            let mut above = Some(class);
            let mut below = false;
            while let Some(found) = above {
                below |= found.name == base.name;
                above = found.superclass.as_deref().and_then(|name| schema.class(name));
            }
            assert_eq!(family.contains(&&class.name), below, "{} under {}", class.name, base.name);
            assert_eq!(schema.is_a(&class.name.to_uppercase(), &base.name), below);
        }
    }
    assert!(schema.is_a("Foreign", "foreign") && !schema.is_a("Foreign", "CIM_ManagedElement"));
    assert_eq!(schema.family("Foreign").count(), 0);
}

#[test]
fn discovery_has_its_classes() {
    let schema = schema::interop();
    for name in
        ["CIM_Namespace", "CIM_ObjectManager", "CIM_RegisteredProfile", "CIM_ElementConformsToProfile"]
    {
        assert!(schema.class(name).is_some_and(|class| !class.is_abstract), "{name}");
    }
    assert!(schema.class("CIM_VirtualSystemSettingData").is_none(), "nothing there needs it");
    for (name, schema) in all() {
        assert_eq!(keys(schema.class("__NAMESPACE").unwrap()), ["Name"], "{name}");
    }
}

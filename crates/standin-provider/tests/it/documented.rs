//! The documentation has every class, property and method of the replication API, and nothing that is not there.

use standin_cim::schema;
use std::collections::BTreeSet;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/management-api.md");

/// The classes of the replication API: documented property by property, inherited ones too.
const WHOLE: [&str; 12] = [
    "Msvm_ReplicationService",
    "Msvm_ReplicationRelationship",
    "Msvm_ReplicationSettingData",
    "Msvm_ReplicationServiceSettingData",
    "Msvm_ReplicationAuthorizationSettingData",
    "Msvm_ReplicationStatistics",
    "Msvm_ReplicationProvider",
    "Msvm_FailoverNetworkAdapterSettingData",
    "Msvm_EthernetPortFailoverSettingDataComponent",
    "Msvm_ReplicaSystemDependency",
    "Msvm_SystemReplicationRelationship",
    "Msvm_ComputerSystem",
];
/// The associations of recovery points, and what they are.
const POINTS: [&str; 4] = [
    "Msvm_VirtualSystemSettingData",
    "Msvm_SnapshotOfVirtualSystem",
    "Msvm_MostCurrentSnapshotInBranch",
    "Msvm_LastAppliedSnapshot",
];

/// The names in the first column of the tables below the heading of a class.
fn documented(text: &str, class: &str) -> BTreeSet<String> {
    let heading = format!("### {class}");
    let section = text.lines().skip_while(|line| line.trim() != heading).skip(1);
    let section = section.take_while(|line| !line.starts_with("## ") && !line.starts_with("### "));
    section
        .filter_map(|line| line.strip_prefix("| "))
        .filter_map(|row| row.split('|').next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_property_and_method_is_in_the_table_and_every_row_is_of_the_class() {
    let text = std::fs::read_to_string(FILE).expect("the documentation");
    let schema = schema::virtualization();
    for class in WHOLE.into_iter().chain(POINTS) {
        let found = documented(&text, class);
        let class = schema.class(class).expect("a class");
        let properties = class.properties.iter().map(|property| property.name.to_string());
        let methods = class.methods.iter().map(|method| method.name.to_string());
        let declared: BTreeSet<String> = properties.chain(methods).collect();
        let missing: Vec<_> = declared.difference(&found).collect();
        assert!(missing.is_empty(), "{} is documented without {missing:?}", class.name);
        let surplus: Vec<_> = found.difference(&declared).collect();
        assert!(surplus.is_empty(), "{} has no {surplus:?}", class.name);
    }
    // No class of the API is forgotten here.
    let replication = schema.classes().iter().filter(|class| {
        let name = &class.name;
        name.starts_with("Msvm_Replica")
            || name.contains("Failover")
            || name.contains("ReplicationRelationship")
    });
    for class in replication {
        assert!(WHOLE.contains(&&*class.name), "{} is not documented", class.name);
    }
}

//! The ways that clients walk from a VM to what they look for, and back.

use crate::client::{PRIMARY, guid, number, string, system_named};
use crate::world::World;
use standin_cim::Instance;

/// Walks an association there and back, and gives what was found.
async fn there_and_back(world: &World, from: &Instance, by: &str, to: &str) -> Vec<Instance> {
    let client = world.at_b();
    let start = from.path.clone().expect("a path");
    let found = client.related(&start, by, to).await;
    assert!(!found.is_empty(), "{by} leads from {start} to no {to}");
    for one in &found {
        let back = client.related(&one.path.clone().expect("a path"), by, &from.class).await;
        let home = back.iter().any(|instance| instance.path == from.path);
        assert!(home, "{by} does not lead back from {:?} to {start}", one.path);
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_vm_to_its_relationship_its_settings_and_the_disks_that_replicate() {
    let world = World::with_cards(&["lan"]).await;
    let vm = world.at_b().get(&world.system()).await;
    let relationship =
        there_and_back(&world, &vm, "Msvm_SystemReplicationRelationship", "Msvm_ReplicationRelationship");
    let relationship = relationship.await.remove(0);
    assert_eq!(string(&relationship, "InstanceID"), format!("Microsoft:{}\\HVR\\0", guid(world.vm)));
    let settings =
        there_and_back(&world, &relationship, "Msvm_SettingsDefineState", "Msvm_ReplicationSettingData");
    let settings = settings.await.remove(0);
    assert_eq!(string(&settings, "PrimaryHostSystem"), PRIMARY);
    let Some(standin_cim::Value::Array(disks)) = settings.value("IncludedDisks") else { panic!("no disks") };
    assert_eq!(disks.len(), 2);
    let realized = there_and_back(&world, &vm, "Msvm_SettingsDefineState", "Msvm_VirtualSystemSettingData");
    let realized = realized.await.remove(0);
    assert_eq!(string(&realized, "VirtualSystemType"), "Microsoft:Hyper-V:System:Realized");
    let component = "Msvm_VirtualSystemSettingDataComponent";
    let disks = there_and_back(&world, &realized, component, "Msvm_StorageAllocationSettingData").await;
    let sizes: Vec<u64> = disks.iter().map(|disk| number(disk, "VirtualQuantity")).collect();
    assert_eq!(sizes, [crate::world::SIZE_A, crate::world::SIZE_B]);
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_vm_to_its_recovery_points_and_their_disks() {
    let world = World::with_cards(&["lan"]).await;
    world.point().await;
    let vm = world.at_b().get(&world.system()).await;
    let class = "Msvm_VirtualSystemSettingData";
    let points = there_and_back(&world, &vm, "Msvm_SnapshotOfVirtualSystem", class).await;
    assert_eq!(points.len(), 2);
    let newest = there_and_back(&world, &vm, "Msvm_MostCurrentSnapshotInBranch", class).await;
    let latest = format!("Microsoft:{}", world.latest().id.to_string().to_ascii_uppercase());
    assert_eq!((newest.len(), string(&newest[0], "InstanceID")), (1, &*latest));
    for point in &points {
        let component = "Msvm_VirtualSystemSettingDataComponent";
        let disks = there_and_back(&world, point, component, "Msvm_StorageAllocationSettingData").await;
        assert_eq!(disks.len(), 2);
    }
    world.fails_over().await;
    let vm = world.at_b().get(&world.system()).await;
    let applied = there_and_back(&world, &vm, "Msvm_LastAppliedSnapshot", class).await;
    assert_eq!(string(&applied[0], "InstanceID"), latest);
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_vm_to_its_cards_and_what_they_get_at_a_failover() {
    let world = World::with_cards(&["lan", "dmz"]).await;
    let vm = world.at_b().get(&world.system()).await;
    let ports = there_and_back(&world, &vm, "Msvm_SystemDevice", "Msvm_SyntheticEthernetPort").await;
    assert_eq!(ports.len(), 2);
    assert!(ports.iter().all(|port| string(port, "PermanentAddress").len() == 12));
    let realized = there_and_back(&world, &vm, "Msvm_SettingsDefineState", "Msvm_VirtualSystemSettingData");
    let realized = realized.await.remove(0);
    let component = "Msvm_VirtualSystemSettingDataComponent";
    let cards = there_and_back(&world, &realized, component, "Msvm_SyntheticEthernetPortSettingData").await;
    assert_eq!(cards.iter().map(|card| string(card, "ElementName")).collect::<Vec<_>>(), ["lan", "dmz"]);
    for card in &cards {
        let by = "Msvm_EthernetPortFailoverSettingDataComponent";
        let settings = there_and_back(&world, card, by, "Msvm_FailoverNetworkAdapterSettingData").await;
        assert_eq!(settings.len(), 1);
        assert_eq!(string(&settings[0], "ElementName"), string(card, "ElementName"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_host_to_its_services_their_settings_and_from_a_vm_to_its_jobs() {
    let world = World::with_cards(&["lan"]).await;
    let host = world.at_b().get(&system_named("replica.example.org")).await;
    let services = there_and_back(&world, &host, "Msvm_HostedService", "CIM_Service").await;
    assert_eq!(services.len(), 3);
    let service = world.at_b().all("Msvm_ReplicationService").await.remove(0);
    let by = "Msvm_SettingsDefineState";
    there_and_back(&world, &service, by, "Msvm_ReplicationServiceSettingData").await;
    let entries = there_and_back(&world, &service, by, "Msvm_ReplicationAuthorizationSettingData").await;
    assert_eq!(string(&entries[0], "AllowedPrimaryHostSystem"), PRIMARY);
    world.fails_over().await;
    let vm = world.at_b().get(&world.system()).await;
    there_and_back(&world, &vm, "Msvm_AffectedJobElement", "Msvm_ConcreteJob").await;
}

//! The associations between VMs, their settings, their recovery points and their relationships.

use crate::make::Make;
use crate::world::{self, Machine, Site};
use crate::{ids, replication, service, settings};
use standin_cim::{Instance, Key, ObjectPath};
use standin_engine::Engine;
use standin_model::PointId;

fn link(class: &'static str, from: (&'static str, ObjectPath), to: (&'static str, ObjectPath)) -> Instance {
    Make::new(class, vec![Key::reference(from.0, from.1), Key::reference(to.0, to.1)]).done()
}

/// `Msvm_SystemReplicationRelationship`.
pub fn relationship(machine: &Machine) -> Instance {
    link(
        "Msvm_SystemReplicationRelationship",
        ("Antecedent", ids::system_path(machine.id)),
        ("Dependent", replication::path(machine)),
    )
}

/// `Msvm_SettingsDefineState` of a VM: its settings, and those of its replication; and of its relationship.
pub fn settings_of_vm(machine: &Machine) -> Vec<Instance> {
    let define = |element: ObjectPath, data: ObjectPath| {
        link("Msvm_SettingsDefineState", ("ManagedElement", element), ("SettingData", data))
    };
    vec![
        define(ids::system_path(machine.id), settings::realized_path(machine)),
        define(ids::system_path(machine.id), replication::settings_path(machine)),
        define(replication::path(machine), replication::settings_path(machine)),
    ]
}

/// `Msvm_SettingsDefineState` of the replication service: its settings and its authorization entries.
pub fn settings_of_service(engine: &Engine, site: &Site) -> Vec<Instance> {
    let owner = service::path(site, service::REPLICATION);
    let entries = engine.replicas().entries();
    std::iter::once(service::settings_path(site))
        .chain(entries.iter().map(service::entry_path))
        .map(|data| {
            link("Msvm_SettingsDefineState", ("ManagedElement", owner.clone()), ("SettingData", data))
        })
        .collect()
}

/// `Msvm_SnapshotOfVirtualSystem`: every recovery point.
pub fn snapshots(engine: &Engine, machine: &Machine) -> Vec<Instance> {
    let points = world::points(engine, machine);
    points
        .iter()
        .map(|point| {
            link(
                "Msvm_SnapshotOfVirtualSystem",
                ("Antecedent", ids::system_path(machine.id)),
                ("Dependent", settings::point_path(point)),
            )
        })
        .collect()
}

/// `Msvm_MostCurrentSnapshotInBranch`: the newest recovery point.
pub fn newest(engine: &Engine, machine: &Machine) -> Option<Instance> {
    let points = world::points(engine, machine);
    let newest = points.last()?;
    Some(link(
        "Msvm_MostCurrentSnapshotInBranch",
        ("Antecedent", ids::system_path(machine.id)),
        ("Dependent", settings::point_path(newest)),
    ))
}

/// `Msvm_LastAppliedSnapshot`: the recovery point that the VM has failed over to, for as long as it is kept.
pub fn applied(engine: &Engine, machine: &Machine) -> Option<Instance> {
    let chosen: PointId = machine.relationship.as_ref()?.failed_over_to?;
    let points = world::points(engine, machine);
    let point = points.iter().find(|point| point.id == chosen)?;
    Some(link(
        "Msvm_LastAppliedSnapshot",
        ("Antecedent", settings::point_path(point)),
        ("Dependent", ids::system_path(machine.id)),
    ))
}

/// `Msvm_VirtualSystemSettingDataComponent`: the disks and cards of the VM, and the disks of each recovery point.
pub async fn components(engine: &Engine, machine: &Machine) -> Vec<Instance> {
    let part = |group: ObjectPath, part: ObjectPath| {
        link("Msvm_VirtualSystemSettingDataComponent", ("GroupComponent", group), ("PartComponent", part))
    };
    let disks = settings::disks(machine);
    let owner = ids::microsoft(machine.id, "");
    let mut all: Vec<Instance> = disks
        .iter()
        .map(|disk| part(settings::realized_path(machine), settings::disk_path(&owner, disk)))
        .collect();
    for adapter in settings::adapters(engine, machine).await {
        all.push(part(settings::realized_path(machine), settings::adapter_path(machine, &adapter)));
    }
    let disks = world::point_disks(engine, machine);
    for point in world::points(engine, machine) {
        let owner = ids::microsoft(point.id, "");
        all.extend(
            disks.iter().map(|disk| part(settings::point_path(&point), settings::disk_path(&owner, disk))),
        );
    }
    all
}

/// `Msvm_EthernetPortFailoverSettingDataComponent`: what each card gets at a failover.
pub async fn failover_components(engine: &Engine, machine: &Machine) -> Vec<Instance> {
    settings::adapters(engine, machine)
        .await
        .iter()
        .map(|adapter| {
            link(
                "Msvm_EthernetPortFailoverSettingDataComponent",
                ("GroupComponent", settings::adapter_path(machine, adapter)),
                ("PartComponent", settings::failover_path(machine, adapter)),
            )
        })
        .collect()
}

/// `Msvm_SystemDevice`: the cards of a VM.
pub async fn devices(engine: &Engine, machine: &Machine) -> Vec<Instance> {
    settings::adapters(engine, machine)
        .await
        .iter()
        .map(|adapter| {
            let port = ObjectPath::new("Msvm_SyntheticEthernetPort", settings::port_keys(machine, adapter));
            link(
                "Msvm_SystemDevice",
                ("GroupComponent", ids::system_path(machine.id)),
                ("PartComponent", port),
            )
        })
        .collect()
}

/// `Msvm_HostedService`: the services of this host.
pub fn hosted(site: &Site, one: service::Service) -> Instance {
    link(
        "Msvm_HostedService",
        ("Antecedent", ObjectPath::new("Msvm_ComputerSystem", ids::system_keys(site.host.clone()))),
        ("Dependent", service::path(site, one)),
    )
}

/// `Msvm_AffectedJobElement`: the VMs that jobs work on.
pub fn affected(engine: &Engine) -> Vec<Instance> {
    let jobs = engine.jobs().list();
    jobs.iter()
        .filter_map(|job| {
            Some(link(
                "Msvm_AffectedJobElement",
                ("AffectedElement", ids::system_path(job.vm?)),
                ("AffectingElement", ids::job_path(job.id)),
            ))
        })
        .collect()
}

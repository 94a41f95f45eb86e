//! What there is on this host: its VMs and relationships as the engine has them in memory.

use crate::ids;
use crate::settings::Disk;
use jiff::Timestamp;
use standin_cim::Narrow;
use standin_engine::Engine;
use standin_engine::overview::Relationship;
use standin_hypervisor::{PowerState, VmInfo};
use standin_model::{ReplicationMode, Side, VmId};
use standin_store::Point;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// Facts of this host that do not change while the daemon runs.
#[derive(Debug, Clone)]
pub struct Site {
    /// The host's name, as `__SERVER` and the host's `Msvm_ComputerSystem` have it.
    pub host: String,
    /// Its identity, for `Win32_ComputerSystemProduct`.
    pub machine_id: Option<String>,
    /// The port on which replicas are taken in, unless a client names another.
    pub port: u16,
    /// Version of the daemon.
    pub version: &'static str,
    /// When the daemon started.
    pub started_at: Timestamp,
    /// When the host started.
    pub booted_at: Option<Timestamp>,
    /// The certificate that hosts authenticate this one by, and those it trusts: PEM files.
    pub certificates: Vec<PathBuf>,
}

/// A VM with what this host knows of it.
pub struct Machine {
    /// Its identity.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// The hypervisor's facts; a replica that has not failed over is not there.
    pub info: Option<Arc<VmInfo>>,
    /// Its replication, where it has one.
    pub relationship: Option<Relationship>,
}

impl Machine {
    /// The power state; a replica that the hypervisor does not know is off.
    pub fn power(&self) -> PowerState {
        self.info.as_ref().map_or(PowerState::Off, |info| info.power)
    }

    /// What the VM is to this host.
    pub fn mode(&self) -> ReplicationMode {
        self.relationship.as_ref().map_or(ReplicationMode::None, |found| found.status.mode)
    }

    /// This host receives it.
    pub fn is_replica(&self) -> bool {
        self.relationship.as_ref().is_some_and(|found| found.side != Side::Primary)
    }
}

/// Finds one VM. No I/O.
pub fn machine(engine: &Engine, id: VmId) -> Option<Machine> {
    let info = engine.vms().get(&id).cloned();
    let relationship = engine.relationship(id);
    let name = match (&info, &relationship) {
        (Some(info), _) => info.name.to_string(),
        (None, Some(found)) => found.status.vm.to_string(),
        (None, None) => return None,
    };
    Some(Machine { id, name, info, relationship })
}

/// The VMs that can be meant: the one that the keys name, or all.
pub fn machines(engine: &Engine, narrow: &Narrow) -> Vec<Machine> {
    if let Some(id) = focus(narrow) {
        if let Some(found) = machine(engine, VmId(id)) {
            return vec![found];
        }
    }
    let mut ids: BTreeSet<VmId> = engine.vms().keys().copied().collect();
    ids.extend(engine.relationships().iter().map(|found| found.status.id));
    ids.into_iter().filter_map(|id| machine(engine, id)).collect()
}

/// The GUID that is looked for.
pub fn focus(narrow: &Narrow) -> Option<uuid::Uuid> {
    ids::guid_of_keys(&narrow.keys).or_else(|| narrow.endpoint.as_ref().and_then(ids::guid_of_path))
}

/// The recovery points of a replica, oldest first.
pub fn points(engine: &Engine, machine: &Machine) -> Vec<Point> {
    if !machine.is_replica() {
        return Vec::new();
    }
    engine
        .replicas()
        .find(machine.id)
        .map_or_else(Vec::new, |replica| replica.store().manifest().points.clone())
}

/// The disks that every recovery point of a replica has, with the sizes that the replica's manifest says.
pub fn point_disks(engine: &Engine, machine: &Machine) -> Vec<Disk> {
    let replica = if machine.is_replica() { engine.replicas().find(machine.id) } else { None };
    let Some(replica) = replica else { return Vec::new() };
    let manifest = replica.store().manifest();
    let shown = manifest.disks.iter().map(|disk| Disk {
        name: disk.name.to_string(),
        path: None,
        size: disk.size,
        writable: true,
    });
    shown.collect()
}

//! `Msvm_ComputerSystem`: this host, and every VM that it runs, sends or receives.

use crate::ids;
use crate::make::Make;
use crate::world::{Machine, Site};
use jiff::Timestamp;
use standin_cim::Instance;
use standin_engine::overview::Relationship;
use standin_hypervisor::PowerState;
use standin_model::{PointKind, ReplicationState};

/// What the entry of `OtherIdentifyingInfo` is that a replica has.
const NAME_ON_PRIMARY: &str = "Name on the primary host";

/// `EnabledState`: enabled, disabled, quiesced.
pub fn enabled_state(power: PowerState) -> u16 {
    match power {
        PowerState::Running => 2,
        PowerState::Off => 3,
        PowerState::Paused => 9,
    }
}

/// `FailedOverReplicationType` and `LastReplicationType`.
pub fn replication_type(kind: Option<PointKind>) -> u16 {
    kind.map_or(0, PointKind::replication_type)
}

/// The host itself.
pub fn host(site: &Site) -> Instance {
    Make::new("Msvm_ComputerSystem", ids::system_keys(site.host.clone()))
        .with("Caption", "Hosting Computer System")
        .with("Description", "Microsoft Hosting Computer System")
        .with("ElementName", site.host.as_str())
        .numbers("OperationalStatus", &[2])
        .texts("StatusDescriptions", ["The host is operating normally".to_owned()])
        .with("Status", "OK")
        .with("HealthState", 5_u16)
        .with("EnabledState", 2_u16)
        .with("RequestedState", 12_u16)
        .maybe("OnTimeInMilliseconds", site.booted_at.map(since))
        .with("ReplicationState", 0_u16)
        .with("ReplicationHealth", 0_u16)
        .with("ReplicationMode", 0_u16)
        .done()
}

/// A VM.
pub fn vm(machine: &Machine) -> Instance {
    let enabled = enabled_state(machine.power());
    let (operational, text) = operational(machine);
    let make = Make::new("Msvm_ComputerSystem", ids::system_keys(ids::guid(machine.id)))
        .with("Caption", "Virtual Machine")
        .with("Description", "Microsoft Virtual Computer System")
        .with("ElementName", machine.name.as_str())
        .numbers("OperationalStatus", &[operational])
        .texts("StatusDescriptions", [text.to_owned()])
        .with("HealthState", health_state(machine))
        .with("EnabledState", enabled)
        .with("RequestedState", 12_u16)
        .maybe(
            "ProcessID",
            machine.info.as_ref().and_then(|info| info.pid).and_then(|pid| u32::try_from(pid).ok()),
        )
        .with("ReplicationMode", machine.mode().code());
    let make = match primary_name(machine) {
        Some(name) => make
            .texts("OtherIdentifyingInfo", [name])
            .texts("IdentifyingDescriptions", [NAME_ON_PRIMARY.to_owned()]),
        None => make,
    };
    match &machine.relationship {
        Some(found) => replication(make, found),
        None => make
            .with("ReplicationState", ReplicationState::Disabled.code())
            .with("ReplicationHealth", 0_u16)
            .with("FailedOverReplicationType", 0_u16)
            .with("LastReplicationType", 0_u16),
    }
    .done()
}

/// The name that a replica's VM has on its primary; `ElementName` is that on this host.
fn primary_name(machine: &Machine) -> Option<String> {
    machine.relationship.as_ref()?.status.primary_name.as_ref().map(ToString::to_string)
}

/// What a VM and its relationship both show.
pub fn replication(make: Make, found: &Relationship) -> Make {
    make.with("ReplicationState", found.status.state.code())
        .with("ReplicationHealth", found.status.health.code())
        .with("FailedOverReplicationType", replication_type(found.failed_over_kind))
        .with("LastReplicationType", replication_type(found.last_kind))
        .time("LastApplicationConsistentReplicationTime", found.status.last_application_consistent_at)
        .time("LastReplicationTime", found.last_replication_at)
}

/// `HealthState`: a VM one of whose disks cannot be used has a major failure; standin knows of no other.
pub fn health_state(machine: &Machine) -> u16 {
    let broken = machine.info.iter().flat_map(|info| &info.disks).any(|disk| disk.problem.is_some());
    if broken { 20 } else { 5 }
}

/// `OperationalStatus` and a word for people.
pub fn operational(machine: &Machine) -> (u16, &'static str) {
    match machine.relationship.as_ref().map(|found| found.status.state) {
        // 3 is "degraded" in CIM's own numbers.
        Some(ReplicationState::Critical) => (3, "Replication needs attention"),
        _ => (2, "Operating normally"),
    }
}

fn since(at: Timestamp) -> u64 {
    u64::try_from(Timestamp::now().duration_since(at).as_millis()).unwrap_or(0)
}

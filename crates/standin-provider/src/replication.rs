//! The relationship itself: `Msvm_ReplicationRelationship`, its settings, its statistics, and the provider that does it.

use crate::ids;
use crate::make::Make;
use crate::settings;
use crate::system;
use crate::world::{Machine, Site};
use jiff::Timestamp;
use standin_cim::{Datetime, Instance, Key, ObjectPath};
use standin_engine::overview::Relationship;
use standin_model::settings::RelationshipSettings;
use standin_model::stats::Statistics;
use standin_model::{HealthIssue, Side};

/// The name of the built-in host-to-host provider.
pub const PROVIDER: &str = "22391CDC-272C-4DDF-BA88-9BEFB1A0975C";
/// `AuthenticationType`: certificates.
pub const BY_CERTIFICATE: u16 = 2;

/// The path of a VM's relationship.
pub fn path(machine: &Machine) -> ObjectPath {
    ids::instance_path("Msvm_ReplicationRelationship", ids::microsoft(machine.id, "\\HVR\\0"))
}

/// The path of its settings.
pub fn settings_path(machine: &Machine) -> ObjectPath {
    ids::instance_path("Msvm_ReplicationSettingData", ids::microsoft(machine.id, "\\HVR"))
}

/// The relationship of a VM that has one; of one that has none an instance in state 0, as Hyper-V has it: clients look
/// at the state there before they create a relationship.
pub fn relationship(machine: &Machine) -> Instance {
    let make = Make::new(
        "Msvm_ReplicationRelationship",
        vec![Key::text("InstanceID", ids::microsoft(machine.id, "\\HVR\\0"))],
    )
    .with("Caption", "Replication Relationship")
    .with("ElementName", machine.name.as_str());
    let Some(found) = &machine.relationship else {
        return make
            .with("ReplicationState", 0_u16)
            .with("ReplicationHealth", 0_u16)
            .with("FailedOverReplicationType", 0_u16)
            .with("LastReplicationType", 0_u16)
            .done();
    };
    system::replication(make, found).time("LastApplyTime", found.last_apply_at).done()
}

/// The settings of a relationship, or those that a VM would start with.
pub fn setting_data(site: &Site, machine: &Machine) -> Instance {
    let make = Make::new(
        "Msvm_ReplicationSettingData",
        vec![Key::text("InstanceID", ids::microsoft(machine.id, "\\HVR"))],
    )
    .with("Caption", "Replication Settings")
    .with("Description", "Virtual Machine Replication Settings Data")
    .with("ElementName", machine.name.as_str())
    .with("VirtualSystemIdentifier", ids::guid(machine.id))
    .with("VirtualSystemType", "Microsoft:Hyper-V:Replica")
    .with("AuthenticationType", BY_CERTIFICATE)
    .with("BypassProxyServer", true)
    .with("ReplicateHostKvpItems", false)
    .with("ReplicationProvider", PROVIDER);
    let defaults = RelationshipSettings::default();
    let agreed = machine.relationship.as_ref().map_or(&defaults, |found| &found.settings);
    let make = ends(make, site, machine.relationship.as_ref());
    let included = settings::disks(machine).into_iter().filter(|disk| replicates(machine, &disk.name));
    let owner = ids::microsoft(machine.id, "");
    make.with("CompressionEnabled", agreed.compression)
        // Longer than 18 hours and 12 minutes does not fit: null, which changes nothing when it is given back.
        .maybe("ReplicationInterval", u16::try_from(agreed.interval_s).ok())
        .maybe("RecoveryHistory", u16::try_from(agreed.history).ok())
        .maybe(
            "ApplicationConsistentSnapshotInterval",
            u16::try_from(agreed.application_consistent_hours).ok(),
        )
        .with("AutoResynchronizeEnabled", agreed.auto_resync)
        // Both midnight: the whole day.
        .with("AutoResynchronizeIntervalStart", time_of_day(agreed.auto_resync_window.map(|it| it.start_s)))
        .with("AutoResynchronizeIntervalEnd", time_of_day(agreed.auto_resync_window.map(|it| it.end_s)))
        .instances("IncludedDisks", included.map(|disk| settings::disk(&owner, &disk)))
        .time("CreationTime", machine.relationship.as_ref().and_then(|found| found.created_at))
        .done()
}

fn time_of_day(seconds: Option<u32>) -> Datetime {
    Datetime::seconds(seconds.unwrap_or(0).into())
}

/// A disk that replicates, or would: all of them before there is a relationship.
fn replicates(machine: &Machine, disk: &str) -> bool {
    machine
        .relationship
        .as_ref()
        .is_none_or(|found| found.disks.iter().any(|shape| shape.name.as_str() == disk))
}

/// Both ends: hosts and connection points.
fn ends(make: Make, site: &Site, found: Option<&Relationship>) -> Make {
    let Some(found) = found else { return make.with("RecoveryServerPortNumber", site.port) };
    let peer = found.status.peer.as_deref();
    match found.side {
        Side::Primary => {
            let peer = peer.map(|peer| split(peer, site.port));
            make.with("PrimaryHostSystem", site.host.as_str())
                .with("PrimaryConnectionPoint", site.host.as_str())
                .maybe("RecoveryHostSystem", peer.map(|(host, _)| host))
                .maybe("RecoveryConnectionPoint", peer.map(|(host, _)| host))
                .maybe("RecoveryServerPortNumber", peer.map(|(_, port)| port))
        }
        Side::Replica | Side::ExtendedReplica => make
            .maybe("PrimaryHostSystem", peer)
            .maybe("PrimaryConnectionPoint", peer)
            .with("RecoveryHostSystem", site.host.as_str())
            .with("RecoveryConnectionPoint", site.host.as_str())
            .with("RecoveryServerPortNumber", site.port),
    }
}

/// `host:port` taken apart, an IPv6 address in brackets included.
pub fn split(peer: &str, default: u16) -> (&str, u16) {
    match peer.rsplit_once(':') {
        Some((host, port)) => match port.parse() {
            Ok(port) => (host.trim_matches(['[', ']']), port),
            Err(_) => (peer, default),
        },
        None => (peer, default),
    }
}

/// One set of statistics. Latencies are whole seconds, sizes bytes.
pub fn statistics(machine: &Machine, found: &Relationship, set: &Statistics) -> Instance {
    let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let seconds = |millis: u64| count(millis.div_ceil(1000));
    // A window that lasts is counted up to now, and only its health is known.
    let lasts = set.end.is_none();
    let end = set.end.or_else(|| Some(Timestamp::now()));
    Make::embedded("Msvm_ReplicationStatistics")
        .with("InstanceID", ids::microsoft(machine.id, "\\HVR\\0\\Statistics"))
        .with("Caption", "Replication Statistics")
        .with("ElementName", machine.name.as_str())
        .time("StartStatisticTime", set.start)
        .time("EndStatisticTime", end.filter(|_| set.start.is_some()))
        .with("ReplicationSuccessCount", count(set.cycles_ok))
        .with("ReplicationSize", set.bytes_changed)
        .with("MaxReplicationSize", set.max_cycle_bytes)
        .with("ReplicationLatency", seconds(set.latency_total_ms))
        .with("MaxReplicationLatency", seconds(set.max_latency_ms))
        .with("ReplicationMissCount", count(set.cycles_missed))
        .with("NetworkFailureCount", count(set.network_failures))
        .with("ReplicationFailureCount", count(set.cycles_failed))
        .with("PendingReplicationSize", set.pending_bytes)
        .with("ApplicationConsistentSnapshotFailureCount", count(set.application_consistent_failed))
        .maybe("ReplicationHealth", lasts.then(|| u32::from(found.status.health.code())))
        .time("LastTestFailoverTime", set.last_test_failover_at)
        .done()
}

/// Statistics as an instance of their own, to be found by their path.
pub fn statistics_instance(machine: &Machine, found: &Relationship) -> Instance {
    let mut instance = statistics(machine, found, &found.statistics.current);
    let id = ids::microsoft(machine.id, "\\HVR\\0\\Statistics");
    instance.path = Some(ids::instance_path("Msvm_ReplicationStatistics", id));
    instance
}

/// A health issue as `Msvm_Error`.
pub fn issue(issue: &HealthIssue) -> Instance {
    Make::embedded("Msvm_Error")
        .with("ErrorType", 1_u16)
        .with("Message", issue.message.as_str())
        .with("PerceivedSeverity", severity(issue.severity.code()))
        .texts("RecommendedActions", [issue.remedy.clone()])
        .with("ErrorSourceFormat", 0_u16)
        .done()
}

/// Health 2 is a degraded service, 3 a critical one (`PerceivedSeverity` of `CIM_Error`).
fn severity(health: u16) -> u16 {
    match health {
        3 => 6,
        2 => 3,
        _ => 2,
    }
}

/// The provider.
pub fn provider(site: &Site) -> Instance {
    let id = format!("Microsoft:{}\\ReplicationProvider\\{PROVIDER}", site.host);
    let keys = vec![Key::text("InstanceID", id), Key::text("Name", PROVIDER)];
    Make::new("Msvm_ReplicationProvider", keys)
        .with("Caption", "Replication Provider")
        .with("Description", "Replicates from host to host")
        .with("ElementName", "standin")
        .numbers("OperationalStatus", &[2])
        .done()
}

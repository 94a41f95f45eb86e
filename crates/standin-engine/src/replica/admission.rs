//! Who may make and use a relationship on this replica, and what must fit.

use super::beside;
use super::files;
use super::host::ReplicaHost;
use super::layer::{blocking, refusal_of};
use super::reason::Admission;
use super::reattach;
use super::sender::Sender;
use super::vm::{Locked, ReplicaVm};
use crate::engine::hypervisor_refusal;
use crate::messages::{DiskShape, Offer, RefusedReply};
use crate::peers::reason::Peer;
use crate::records::{self, ReplicaRecord};
use crate::vm::Sharing;
use jiff::Timestamp;
use standin_hypervisor::definition::VmIdentity;
use standin_model::fence::{Claim, KnownHost, Reason, Role};
use standin_model::settings::MAX_DISKS;
use standin_model::state::{Event, ReplicationState};
use standin_model::stats::{Monitor, Window};
use standin_model::{AuthId, Refusal, ReturnCode, VmId, VmName};
use standin_store::{DiskSpec, RemoveDisks, ReplicaSpec};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use uuid::Uuid;

/// Disks are addressed by sector.
const SECTOR: u64 = 512;
/// The largest disk: 64 TiB.
const MAX_DISK: u64 = 64 << 40;

/// The refusal for a VM of which this host has no replica.
pub(super) fn unknown(host: &ReplicaHost, offer: &Offer) -> Refusal {
    if let Some(missing) = host.disks_missing(offer.vm) {
        return missing;
    }
    Admission::NoReplica { vm: offer.name.clone() }.into()
}

/// Makes the replica, or finds the one that an earlier try made.
pub(super) async fn create(
    host: &Arc<ReplicaHost>,
    peer: &Sender,
    offer: &Offer,
) -> Result<Arc<ReplicaVm>, Refusal> {
    let entry = host.entry_for(&peer.identity)?;
    check_offer(offer)?;
    let _one_at_a_time = host.creating.lock().await;
    if let Some(vm) = host.find(offer.vm) {
        return reattach::found_again(host, vm, peer, offer).await;
    }
    if let Some(refusal) = host.disks_missing(offer.vm) {
        return Err(refusal);
    }
    if let Ok(info) = host.shared.hypervisor.inspect(offer.vm).await {
        return Err(Admission::Exists { vm: info.name, id: info.id, adopting: false }.into());
    }
    let (location, host_name) = (entry.storage_location.clone(), peer.name());
    let others = host.shared.hypervisor.names().await.map_err(|error| hypervisor_refusal(&error))?;
    let name = host.shared.names.give(offer.vm, &offer.name, &host_name, &others);
    let made = async {
        share(host, peer, offer, &name).await?;
        let store = make_store(host, offer, &name, location.clone()).await?;
        let window = host.shared.service.get().monitoring;
        let mut record = new_record(offer, name.clone(), host_name, entry.id, location, window);
        record.host = peer.host;
        let directory = store.directory().to_owned();
        host.shared.vms.keeps_beside(offer.vm, directory.clone()).await;
        records::put(&host.shared.tables.relationships, record.id(), &record.clone().into()).await?;
        beside::write(&host.shared.files, directory, &record).await?;
        Ok((store, record))
    };
    let (store, record) = made.await.inspect_err(|_: &Refusal| host.shared.names.forget(offer.vm))?;
    tracing::info!(vm = %name, id = %offer.vm, called = %offer.name, from = %peer.identity.address, "a replica was made");
    Ok(host.insert(ReplicaVm::new(host.shared.clone(), store, record)))
}

/// The sender shares the VM from now on, which has this name here, under the claim that it offers. Refused where another
/// host holds the VM.
pub(super) async fn share(
    host: &ReplicaHost,
    peer: &Sender,
    offer: &Offer,
    name: &VmName,
) -> Result<(), Refusal> {
    let Some(id) = peer.host else {
        return Err(Refusal::from(Peer::Nameless { address: peer.identity.address.to_string() })
            .with_code(ReturnCode::AccessDenied));
    };
    let claim = offer.claim.unwrap_or_else(|| Claim::unnamed(offer.generation, id));
    let known = KnownHost {
        name: peer.name(),
        addresses: peer.addresses.clone(),
        role: Role::Source,
        accepted: None,
    };
    let sharing = Sharing { host: id, known, name: name.clone(), claim: Some(claim) };
    host.shared.vms.share(offer.vm, sharing).await.map(|_| ())
}

/// What a sender is told beside a refusal where another host than it holds the VM, whatever became of the relationship:
/// that it must not run it.
pub(super) fn refused(host: &ReplicaHost, peer: &Sender, vm: VmId, refusal: Refusal) -> RefusedReply {
    let fence = host.shared.vms.fence(vm);
    let shared = fence.filter(|fence| peer.host.is_some_and(|peer| fence.hosts.contains_key(&peer)));
    let claim = shared.map(|fence| fence.claim);
    RefusedReply {
        refusal,
        generation: claim.map(|claim| claim.number),
        claim,
        failed_over: claim.is_some_and(|claim| Some(claim.holder) != peer.host),
    }
}

fn check_offer(offer: &Offer) -> Result<(), Refusal> {
    offer.settings.validate()?;
    offer.network.validate()?;
    if offer.disks.is_empty() || offer.disks.len() > MAX_DISKS {
        return Err(Admission::DiskCount { vm: offer.name.clone(), disks: offer.disks.len() }.into());
    }
    let mut names = BTreeSet::new();
    for DiskShape { name, size } in &offer.disks {
        if !names.insert(name) {
            return Err(Admission::DiskTwice { vm: offer.name.clone(), disk: name.clone() }.into());
        }
        if *size == 0 || size % SECTOR != 0 || *size > MAX_DISK {
            return Err(
                Admission::DiskSize { vm: offer.name.clone(), disk: name.clone(), bytes: *size }.into()
            );
        }
    }
    Ok(())
}

/// Makes the store's directory. One that an earlier relationship left is kept, under another name: its points
/// may be all that somebody has.
async fn make_store(
    host: &Arc<ReplicaHost>,
    offer: &Offer,
    name: &VmName,
    location: PathBuf,
) -> Result<standin_store::Replica, Refusal> {
    let spec = ReplicaSpec {
        vm: offer.vm,
        name: name.clone(),
        disks: offer.disks.iter().map(|disk| DiskSpec { name: disk.name.clone(), size: disk.size }).collect(),
        granule: offer.settings.granularity,
    };
    let store = host.shared.store.clone();
    blocking(move || {
        if store.get(spec.vm).is_some() {
            store.remove(spec.vm, RemoveDisks::Keep).map_err(|error| refusal_of(&error))?;
            tracing::warn!(vm = %spec.name, "the disks of a former replica are kept beside the new one");
        }
        store.create(&location, spec).map_err(|error| refusal_of(&error))
    })
    .await
}

fn new_record(
    offer: &Offer,
    name: VmName,
    primary_host: String,
    auth: AuthId,
    location: PathBuf,
    window: Window,
) -> ReplicaRecord {
    ReplicaRecord {
        primary_name: Some(offer.name.clone()).filter(|called| *called != name),
        primary_host,
        auth,
        settings: offer.settings.clone(),
        disks: offer.disks.clone(),
        primary_network: offer.network.clone(),
        replica: Uuid::new_v4(),
        revision: 1,
        ..ReplicaRecord::blank(offer.vm, name, location, Monitor::new(window, Timestamp::now()))
    }
}

/// Lets a primary into the relationship, or says why not. Returns the claim to go on under.
pub(super) async fn admit(
    host: &ReplicaHost,
    vm: &ReplicaVm,
    peer: &Sender,
    offer: &Offer,
) -> Result<Claim, RefusedReply> {
    let refuse = |refusal: Refusal| refused(host, peer, offer.vm, refusal);
    let before = vm.snapshot();
    let entry = host.may_send(peer, &before).map_err(refuse)?;
    // A claim that is older than what is known here is refused by it, whatever state the replica is in.
    let shared = share(host, peer, offer, &before.name).await;
    let mut record = vm.lock().await;
    if let Some(refusal) = takes_nothing(&record) {
        return Err(refuse(refusal));
    }
    shared.map_err(refuse)?;
    let claim = host.shared.vms.claim(offer.vm);
    if offer.claim.is_some() && Some(claim.holder) != peer.host {
        return Err(refuse(Reason::LivesElsewhere(claim).refusal(record.name.as_str(), "another host")));
    }
    same_shape(&record, offer).map_err(refuse)?;
    offer.network.validate().map_err(refuse)?;
    let older = reattach::older_than_acknowledged(vm, &record, offer);
    let same = record.settings == offer.settings
        && record.primary_network == offer.network
        && record.host == peer.host
        && record.primary_host == peer.name()
        && record.auth == entry
        && *record.primary_name() == offer.name
        && older.is_none();
    if !same {
        record.host = peer.host;
        record.primary_host = peer.name();
        record.bound &= record.auth == entry;
        record.auth = entry;
        record.settings = offer.settings.clone();
        record.primary_network = offer.network.clone();
        record.note_primary_name(&offer.name);
        record.last_error = older.or(record.last_error.take());
        record.save().await.map_err(refuse)?;
    }
    Ok(claim)
}

/// Why a replica in this state takes nothing from its primary; `None` when it does.
pub(super) fn takes_nothing(record: &ReplicaRecord) -> Option<Refusal> {
    if record.state.is_failed_over() {
        return Some(failed_over(record));
    }
    matches!(record.state, ReplicationState::Suspended | ReplicationState::Disabled)
        .then(|| Admission::Paused { vm: record.name.clone(), state: record.state }.into())
}

fn failed_over(record: &ReplicaRecord) -> Refusal {
    Admission::FailedOver { vm: record.name.clone(), state: record.state }.into()
}

pub(super) fn same_shape(record: &ReplicaRecord, offer: &Offer) -> Result<(), Refusal> {
    if record.settings.granularity != offer.settings.granularity {
        return Err(Admission::GranularityDiffers { vm: record.name.clone() }.into());
    }
    let differs = record.disks.iter().zip(&offer.disks).find(|(ours, theirs)| ours != theirs);
    if let Some((ours, theirs)) = differs {
        return Err(Admission::DiskDiffers {
            vm: record.name.clone(),
            disk: ours.name.clone(),
            bytes: ours.size,
            offered: theirs.name.clone(),
            offered_bytes: theirs.size,
        }
        .into());
    }
    if record.disks.len() != offer.disks.len() {
        return Err(Admission::DiskCountDiffers { vm: record.name.clone() }.into());
    }
    Ok(())
}

/// The primary has ended the relationship. The replica keeps its points and can still fail over to them.
pub(super) async fn released(record: &mut Locked<'_>) -> Result<(), Refusal> {
    if record.state == ReplicationState::Suspended || record.state.is_failed_over() {
        return Ok(());
    }
    let refusal = Refusal::from(Admission::PrimaryRemoved {
        vm: record.name.clone(),
        has_points: record.last_point_at.is_some(),
    });
    if record.last_point_at.is_some() {
        record.step(Event::RetryExhausted).await?;
    }
    record.note_error(&refusal).await;
    Ok(())
}

/// Whether the definition that comes with a point is that of the record's VM, under the name that its primary offered: it
/// becomes a VM of this host at a failover, and must not pass for another one. From a sender that does not tell renames
/// any name is taken: a failover defines the VM by the name of the record.
///
/// # Errors
/// 32773 for any other definition; nothing is sealed then.
pub(super) fn same_vm(peer: &Sender, record: &ReplicaRecord, definition: &str) -> Result<(), Refusal> {
    // A first copy has none.
    if definition.is_empty() {
        return Ok(());
    }
    let found = VmIdentity::of_toml(definition).map_err(|error| Admission::DefinitionUnreadable {
        vm: record.name.clone(),
        error: crate::error::chain(&error),
    })?;
    let name = record.primary_name();
    if found.uuid == record.vm && (found.name == *name || !peer.tells_renames) {
        return Ok(());
    }
    let (vm, id) = (name.clone(), record.vm);
    Err(Admission::DefinitionOfAnother { found: found.name, found_id: found.uuid, vm, id }.into())
}

/// Where the files of a configuration are, by role, for a definition on this host.
pub(super) fn file_path(vm: &ReplicaVm, hash: &str) -> PathBuf {
    files::path_of(vm.store().directory(), hash)
}

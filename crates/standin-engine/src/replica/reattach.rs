//! A primary finds its replica again: its records, or the replica's, are lost or older than the other side's.
//!
//! Nothing is copied anew and no recovery point goes: the primary compares ([`crate::primary`]), and what differs is one
//! more point.
//!
//! Called by [`super::admission`].

use super::admission::{same_shape, share, takes_nothing};
use super::host::ReplicaHost;
use super::reason::Admission;
use super::sender::Sender;
use super::vm::{Locked, ReplicaVm};
use crate::messages::Offer;
use crate::records::{LastError, ReplicaRecord};
use standin_model::state::{Event, ReplicationState};
use standin_model::{Epoch, Refusal, VmName};
use std::sync::Arc;

/// A primary whose records are lost, or that begins anew, finds its replica: the recovery points stay, and both sides are
/// compared. One that is another host's, that has failed over or whose disks are others is refused.
pub(super) async fn found_again(
    host: &ReplicaHost,
    vm: Arc<ReplicaVm>,
    peer: &Sender,
    offer: &Offer,
) -> Result<Arc<ReplicaVm>, Refusal> {
    let record = vm.snapshot();
    if let Some(refusal) = takes_nothing(&record) {
        return Err(refusal);
    }
    if !peer.is_source_of(&record) {
        return Err(of_another_host(&record, peer));
    }
    same_shape(&record, offer).map_err(|refusal| {
        refusal.with_remedy(format!(
            "Give the VM the disks that it had, or name those with --disks and --granularity. To begin without the \
             recovery points of the replica, remove it on the replica host first (`standin unreplicate {}`): its disks \
             stay there.",
            record.name
        ))
    })?;
    share(host, peer, offer, &record.name).await?;
    let mut record = vm.lock().await;
    if record.state == ReplicationState::Critical {
        // Whatever ended the relationship of before: it begins again.
        record.last_error = None;
        record.step(Event::RetrySucceeded).await?;
    }
    drop(record);
    let points = vm.store().points().len();
    tracing::info!(vm = %offer.name, id = %offer.vm, from = %peer.identity.address, points, "a replica was found again");
    Ok(vm)
}

fn of_another_host(record: &ReplicaRecord, peer: &Sender) -> Refusal {
    if record.primary_host.is_empty() {
        return Admission::OwnerLost { vm: record.name.clone() }.into();
    }
    Admission::OfAnotherHost {
        vm: record.name.clone(),
        owner: record.primary_host.clone(),
        old: record.source(),
        asks: peer.name(),
        new: peer.host,
    }
    .into()
}

/// What there is to say where the disks are older than what the primary was told is durable; `None` where it is said
/// already.
pub(super) fn older_than_acknowledged(
    vm: &ReplicaVm,
    record: &Locked<'_>,
    offer: &Offer,
) -> Option<LastError> {
    let head = vm.store().head_epoch();
    let told = offer.acknowledged.filter(|told| head.is_none_or(|head| head < *told))?;
    let refusal = older_disks(&record.name, head, told);
    let said = record.last_error.as_ref().is_some_and(|known| known.message == refusal.message);
    (!said).then(|| LastError::now(refusal))
}

/// What is wrong where the disks are older than what was acknowledged of them.
pub(super) fn older_disks(vm: &VmName, head: Option<Epoch>, known: Epoch) -> Refusal {
    Admission::OlderDisks { vm: vm.clone(), newest: head, known }.into()
}

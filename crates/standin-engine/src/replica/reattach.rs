//! A primary finds its replica again: its records, or the replica's, are lost or older than the other side's.
//!
//! Nothing is copied anew and no recovery point goes: the primary compares ([`crate::primary`]), and what differs is one
//! more point.
//!
//! Called by [`super::admission`].

use super::admission::{same_shape, share, takes_nothing};
use super::host::ReplicaHost;
use super::sender::Sender;
use super::vm::{Locked, ReplicaVm};
use crate::messages::Offer;
use crate::records::{LastError, ReplicaRecord};
use jiff::Timestamp;
use standin_model::state::{Event, ReplicationState};
use standin_model::{Epoch, Refusal, ReturnCode, VmName};
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
    same_shape(&record, offer).map_err(|refusal| Refusal {
        remedy: format!(
            "Give the VM the disks that it had, or name those with --disks and --granularity. To begin without the \
             recovery points of the replica, remove it on the replica host first (`standin unreplicate {}`): its disks \
             stay there.",
            record.name
        ),
        ..refusal
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
    let (vm, owner, asks) = (&record.name, &record.primary_host, peer.name());
    if owner.is_empty() {
        return Refusal::new(
            ReturnCode::InUse,
            format!(
                "the replica of VM {vm} on this host has lost every record of the host that it belongs to"
            ),
            format!(
                "Its recovery points can be failed over to on the replica host. To replicate anew, remove it there first \
                 (`standin unreplicate {vm}`): its disks stay there."
            ),
        );
    }
    let (old, new) = (record.source(), peer.host.map(|host| host.to_string()).unwrap_or_default());
    Refusal::new(
        ReturnCode::InUse,
        format!(
            "the replica of VM {vm} on this host belongs to {owner} (host id {old}); {asks} has the host id {new}"
        ),
        format!(
            "If that is the same machine, set up anew, say so on the replica host: `standin peer rebind {old} {new}`; then \
             replicate again, and every recovery point stays. If the VM has another primary now, remove its replica there \
             first: `standin unreplicate {vm}`."
        ),
    )
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
    let Refusal { message, remedy, .. } = older_disks(&record.name, head, told);
    let said = record.last_error.as_ref().is_some_and(|known| known.message == message);
    (!said).then(|| LastError { at: Timestamp::now(), message, remedy })
}

/// What is wrong where the disks are older than what was acknowledged of them.
pub(super) fn older_disks(vm: &VmName, head: Option<Epoch>, known: Epoch) -> Refusal {
    let newest = head.map_or_else(|| "none".to_owned(), |head| head.to_string());
    Refusal::new(
        ReturnCode::InvalidState,
        format!(
            "the disks of the replica of VM {vm} are an older copy: their newest epoch is {newest}, and {known} was \
             durable here before; the recovery points in between are gone"
        ),
        "Its primary compares and goes on by itself; the points that are here stay. If the newer disks still exist, put \
         them back instead: stop the daemon first.",
    )
}

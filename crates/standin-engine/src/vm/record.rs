//! What is kept of a VM that ever replicated: its fence, and what went wrong when two hosts met over it.

use super::alarm::Alarm;
use super::claims::ClaimFiles;
use crate::records::{self, Tables};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use standin_model::fence::{Claim, Fence, Stance, WhenSilent};
use standin_model::{HostId, Refusal, VmId, VmName};
use standin_state::StateError;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The record of a VM in the state store, and, without the alarm's details being needed, in its claim files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmRecord {
    /// Which VM.
    pub vm: VmId,
    /// Its name on this host when the record was last written: a tombstone has no other.
    pub name: VmName,
    /// Who may run it.
    pub fence: Fence,
    /// What a person must see to; cleared when the hosts agree again.
    #[serde(default)]
    pub alarm: Option<Alarm>,
    /// No relationship of this host has the VM any more; only the fence is left.
    #[serde(default)]
    pub tombstone: bool,
    /// What the silence of a replica means for a start of this VM; as the host is configured when it was never set.
    #[serde(default)]
    pub when_silent: Option<WhenSilent>,
    /// How other hosts decide about it, as they last told.
    #[serde(default)]
    pub stances: BTreeMap<HostId, ToldStance>,
    /// Somebody decided for the other one of two copies, and what this one wrote is not kept yet.
    #[serde(default)]
    pub given_up: bool,
    /// Witnesses (`host:port`) with which a failover of this VM is recorded before its start: others count on it.
    #[serde(default)]
    pub promised: Vec<String>,
    /// The last claim of this host that each of them is known to have recorded.
    #[serde(default)]
    pub witnessed: BTreeMap<String, Claim>,
}

/// How another host decides about a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldStance {
    /// What it told.
    #[serde(flatten)]
    pub stance: Stance,
    /// When it told it first.
    pub at: Timestamp,
}

/// The records that an earlier process left. Of the copies in the state store and in files the higher claim counts: any of
/// them may be lost, or come from an older backup, and is written again. The hosts of all copies count: each of them may
/// have the VM.
///
/// # Errors
/// When the state store cannot be read.
pub(crate) async fn recover(tables: &Tables, files: &ClaimFiles) -> Result<Vec<VmRecord>, StateError> {
    let stored = records::list(&tables.vms).await?;
    let mut stored: HashMap<VmId, VmRecord> = stored.into_iter().map(|record| (record.vm, record)).collect();
    let mut kept = files.load();
    let vms: BTreeSet<VmId> = stored.keys().chain(kept.keys()).copied().collect();
    let mut recovered = Vec::new();
    for vm in vms {
        let (stored, kept) = (stored.remove(&vm), kept.remove(&vm).unwrap_or_default());
        let copies = stored.clone().into_iter().chain(kept.clone());
        let Some(record) = copies.reduce(VmRecord::joined) else { continue };
        match &stored {
            None => tracing::warn!(vm = %record.name, vm_id = %vm, claim = %record.fence.claim,
                "the claim on a VM was found in a file only; the database was lost"),
            Some(stored) if stored.fence.claim.number < record.fence.claim.number => {
                tracing::warn!(vm = %record.name, vm_id = %vm, claim = %record.fence.claim,
                    "the claim on a VM was found in a file; the database is behind it");
            }
            Some(_) => {}
        }
        if stored.as_ref() != Some(&record) {
            said(&record, records::put(&tables.vms, vm, &record).await);
        }
        if kept.len() < files.copies_of(vm) || kept.iter().any(|copy| *copy != record) {
            said(&record, files.write(&record).await);
        }
        recovered.push(record);
    }
    Ok(recovered)
}

/// What is known counts all the same.
fn said(record: &VmRecord, written: Result<(), Refusal>) {
    if let Err(refusal) = written {
        tracing::error!(vm = %record.name, %refusal, "a copy of the claim on a VM could not be written again");
    }
}

impl VmRecord {
    /// Of two copies the one with the higher claim, this one where they are alike, with the hosts of both.
    pub(super) fn joined(self, other: Self) -> Self {
        let (mut newer, older) =
            if self.fence.claim.number < other.fence.claim.number { (other, self) } else { (self, other) };
        for (host, known) in older.fence.hosts {
            newer.fence.hosts.entry(host).or_insert(known);
        }
        for address in older.promised {
            if !newer.promised.contains(&address) {
                newer.promised.push(address);
            }
        }
        for (host, told) in older.stances {
            let known = newer.stances.entry(host).or_insert(told);
            if known.at < told.at {
                *known = told;
            }
        }
        newer
    }
}

//! What this host keeps as a witness for others: the highest claim on each VM that somebody recorded here.
//!
//! That nothing higher was recorded is worth something only while nothing can have been lost. So the records have an id,
//! and a host counts on them only under the id that both sides know. It is kept three times: with the records in the
//! state store, where a number rises with every claim that is recorded; in a stamp in the runtime directory, which no
//! backup has; and with the boot of the kernel, because the runtime directory ends with it.
//!
//! ```text
//!   record: claim -> number in the store -> number in the stamp -> answer
//!   start:  the store's id and number are the stamp's, in this boot ? the same records : others, with a new id
//! ```
//!
//! So a lost store, an older backup of it, a lost stamp, a crash half way and a reboot all give new records: nobody counts
//! on them before both sides have heard of them. What is in the store then is still told: it was claimed.

use crate::error::chain;
use crate::peers::{Peer, Testimony};
use crate::records::{self, Tables};
use crate::replica::layer::blocking;
use crate::vm::reason::Vm;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use standin_durable::{Content, Document, DocumentError, Files};
use standin_model::fence::Claim;
use standin_model::{HostId, Refusal, VmId};
use std::path::PathBuf;
use std::sync::Arc;
use uuid::Uuid;

/// VMs that are witnessed at most: whoever has a trusted certificate can record.
const MAX_VMS: usize = 100_000;
/// The one record of its table.
const KEY: &str = "log";
/// The stamp's file in the runtime directory.
const STAMP: &str = "witness.json";
/// Names the boot of the kernel.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The highest claim on a VM that was recorded here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessRecord {
    /// Which VM.
    pub vm: VmId,
    /// The claim.
    pub claim: Claim,
    /// Who recorded it.
    pub by: HostId,
    /// Its name, for people.
    pub name: String,
    /// When.
    pub at: Timestamp,
}

/// Which records these are, and how many claims were recorded among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessLog {
    /// Their id.
    pub id: Uuid,
    /// Rises with every claim.
    pub number: u64,
}

/// The same, where no backup reaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    log: WitnessLog,
    boot: String,
}

impl Content for Stamp {
    const KIND: &'static str = "standin witness stamp";
    const VERSION: u32 = 1;
    const IF_LOST: &'static str = "the daemon writes it again; hosts that name this one as their witness count on it when \
                                   both sides have spoken with it";
}

/// The claims that others recorded with this host.
pub(crate) struct WitnessRecords {
    tables: Tables,
    files: Files,
    runtime_dir: PathBuf,
    open: tokio::sync::Mutex<Option<Open>>,
}

struct Open {
    log: WitnessLog,
    boot: String,
    stamp: Arc<Document<Stamp>>,
    vms: usize,
}

impl WitnessRecords {
    pub fn new(tables: Tables, files: Files, runtime_dir: PathBuf) -> Self {
        Self { tables, files, runtime_dir, open: tokio::sync::Mutex::default() }
    }

    /// What is known of a VM, after `claim` was recorded.
    ///
    /// # Errors
    /// 32769 for a claim that is not the peer's to record, 32768 when it cannot be kept.
    pub async fn testify(
        &self,
        by: &Peer,
        vm: Option<VmId>,
        claim: Option<Claim>,
    ) -> Result<Testimony, Refusal> {
        let mut open = self.open.lock().await;
        if open.is_none() {
            *open = Some(self.take_up().await?);
        }
        let Some(now) = open.as_mut() else { return Err(unusable("it is not open")) };
        let Some(vm) = vm else { return Ok(Testimony { records: now.log.id, claim: None }) };
        let known = records::get(&self.tables.witnessed, vm).await?.map(|record| record.claim);
        let Some(claim) = claim.filter(|claim| is_news(*claim, known)) else {
            return Ok(Testimony { records: now.log.id, claim: known });
        };
        may_record(by, claim, known)?;
        if known.is_none() && now.vms >= MAX_VMS {
            return Err(unusable("it is the witness of as many VMs as it can be"));
        }
        let (name, at) = (by.name.clone(), Timestamp::now());
        let record = WitnessRecord { vm, claim, by: by.id, name, at };
        match self.keep(now, &record).await {
            Ok(()) => {
                now.vms += usize::from(known.is_none());
                Ok(Testimony { records: now.log.id, claim: Some(claim) })
            }
            Err(refusal) => {
                // How far it came is found out when it is taken up again.
                *open = None;
                Err(refusal)
            }
        }
    }

    async fn keep(&self, now: &mut Open, record: &WitnessRecord) -> Result<(), Refusal> {
        tracing::info!(vm = %record.vm, host = %record.name, claim = %record.claim, "a claim is witnessed");
        records::put(&self.tables.witnessed, record.vm, record).await?;
        now.log.number += 1;
        self.stamp(now).await
    }

    /// After the claim itself: what the number counts is there. A crash between the store and the stamp gives new records.
    async fn stamp(&self, now: &Open) -> Result<(), Refusal> {
        records::put(&self.tables.witness_log, KEY, &now.log).await?;
        let (stamp, document) = (Stamp { log: now.log, boot: now.boot.clone() }, Arc::clone(&now.stamp));
        blocking(move || document.write(&stamp).map_err(|error| unusable(&chain(&error)))).await
    }

    async fn take_up(&self) -> Result<Open, Refusal> {
        let (files, path) = (self.files.clone(), self.runtime_dir.join(STAMP));
        let (document, stamp, boot) = blocking(move || {
            let failed = |error: DocumentError| unusable(&chain(&error));
            let document = Document::<Stamp>::open(files, path).map_err(failed)?;
            // One that cannot be read proves nothing, and is written anew.
            let stamp = document.read().unwrap_or_else(|error| {
                tracing::warn!(error = %chain(&error), "the stamp of the witnessed claims cannot be read");
                None
            });
            let boot = std::fs::read_to_string(BOOT_ID)
                .map_err(|error| unusable(&format!("{BOOT_ID} cannot be read: {error}")))?;
            Ok((document, stamp, boot.trim().to_owned()))
        })
        .await?;
        let log = records::get(&self.tables.witness_log, KEY).await?;
        let sound = log.zip(stamp).filter(|(log, stamp)| *log == stamp.log && stamp.boot == boot);
        let new = || WitnessLog { id: Uuid::new_v4(), number: 0 };
        let log = sound.as_ref().map_or_else(new, |(log, _)| *log);
        let vms =
            records::list(&self.tables.witnessed).await.map_err(|error| unusable(&chain(&error)))?.len();
        let open = Open { log, boot, stamp: Arc::new(document), vms };
        if sound.is_none() {
            tracing::info!(records = %open.log.id, vms, "claims that are witnessed here count when both sides have heard of these records");
            self.stamp(&open).await?;
        }
        Ok(open)
    }
}

fn is_news(claim: Claim, known: Option<Claim>) -> bool {
    known.is_none_or(|known| claim.number > known.number)
}

/// A host records what it holds, or gives what it held.
fn may_record(by: &Peer, claim: Claim, known: Option<Claim>) -> Result<(), Refusal> {
    if claim.holder == by.id || known.is_some_and(|known| known.holder == by.id) {
        return Ok(());
    }
    Err(Vm::ForeignClaim { by: by.name.clone() }.into())
}

fn unusable(why: &str) -> Refusal {
    Vm::NoWitness { why: why.to_owned() }.into()
}

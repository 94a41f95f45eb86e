//! Gives the guest of a failed-over VM its network settings: by its agent once it runs, or by a disk that cloud-init
//! reads when it boots, where the VM has no channel for an agent.
//!
//! ```text
//!              before the start                     after it
//!  channel:    nothing                              ask the agent, wait, read back: applied or failed
//!  no channel: image into the overlay's directory,  offered
//!              disk into the definition
//! ```
//!
//! Nothing of it keeps the VM from starting: what fails is kept for `standin network`, noted as the last error, and
//! tried again at the next start. Everything that is written is in the overlay or in its directory, so a revert
//! takes it away and a commit keeps it. An agent that stays silent has the next start use the disk.

use super::layer::blocking;
use super::reason::Receive;
use super::vm::ReplicaVm;
use crate::network::reason::Network;
use crate::records::{FailoverRecord, NetworkRecord, ReplicaRecord};
use crate::tasks;
use jiff::Timestamp;
use standin_hypervisor::{DiskDefinition, DiskFormat, Error, GuestNic, VmDefinition, nocloud};
use standin_model::network::{AppliedNetwork, ApplyState, ApplyWay, NetworkSettings};
use standin_model::reason::{Reason, Text};
use standin_model::{DiskName, Refusal};
use standin_store::Overlay;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The disk's name in the definition. Read-only, so it never replicates.
const DISK: &str = "standin-cidata";
/// Its image, in the overlay's directory.
const IMAGE: &str = "cidata.img";

/// What the VM's cards get here.
fn wanted(record: &ReplicaRecord) -> NetworkSettings {
    record.primary_network.overlaid(&record.network)
}

/// Before the VM is started: decides the way, and makes the disk where that is the way.
pub(super) async fn prepare(vm: &Arc<ReplicaVm>) {
    let record = vm.snapshot();
    let Some(failover) = &record.failover else { return };
    let settings = wanted(&record);
    if !is_due(failover, &settings) {
        return;
    }
    let prepared = plan(vm, failover, &settings).await;
    let agent_silent = failover.network.as_ref().is_some_and(|before| before.agent_silent);
    match prepared {
        Ok(None) => note(vm, failover, None).await,
        Ok(Some((way, message))) => {
            let applied = now(ApplyState::Pending, Some(way), message);
            note(vm, failover, Some(NetworkRecord { settings, applied, agent_silent })).await;
        }
        Err(refusal) => {
            let applied = now(ApplyState::Failed, None, format!("{} {}", refusal.message, refusal.remedy));
            note(vm, failover, Some(NetworkRecord { settings, applied, agent_silent })).await;
        }
    }
}

fn now(state: ApplyState, way: Option<ApplyWay>, message: String) -> AppliedNetwork {
    AppliedNetwork { state, way, message, at: Timestamp::now() }
}

/// Settings that the guest has, or had handed over, are not given twice; changed ones are given again.
fn is_due(failover: &FailoverRecord, settings: &NetworkSettings) -> bool {
    match &failover.network {
        None => !settings.is_empty(),
        Some(before) if before.settings != *settings => true,
        Some(before) => matches!(before.applied.state, ApplyState::Pending | ApplyState::Failed),
    }
}

/// The cards that have settings. A card that the point does not have is left out, and said.
fn cards(definition: &VmDefinition, settings: &NetworkSettings) -> (Vec<GuestNic>, Vec<String>) {
    let mut missing = Vec::new();
    let mut found = Vec::new();
    for (name, settings) in &settings.0 {
        match definition.nics.iter().find(|nic| nic.name == *name) {
            Some(nic) => found.push(GuestNic {
                name: name.clone(),
                mac: nic.address(definition.uuid),
                settings: settings.clone(),
            }),
            None => missing.push(name.clone()),
        }
    }
    (found, missing)
}

/// Brings the definition in line with the way, and says which it is; `None` when there is nothing to give.
async fn plan(
    vm: &Arc<ReplicaVm>,
    failover: &FailoverRecord,
    settings: &NetworkSettings,
) -> Result<Option<(ApplyWay, String)>, Refusal> {
    let hypervisor = &vm.shared.hypervisor;
    let failed = |error: &Error| {
        Refusal::from(Network::NotPrepared(Text::new(crate::error::chain(error), error.remedy())))
    };
    let mut definition = hypervisor.inspect(vm.id()).await.map_err(|error| failed(&error))?.definition;
    let before = definition.clone();
    definition.disks.retain(|disk| disk.name.as_str() != DISK);
    let (cards, missing) = cards(&definition, settings);
    if !missing.is_empty() {
        tracing::warn!(vm = %definition.name, cards = ?missing, "network settings of cards that the VM does not have here");
    }
    let silent = failover.network.as_ref().is_some_and(|before| before.agent_silent);
    let way = match (cards.is_empty(), definition.guest_agent && !silent) {
        (true, _) => None,
        (false, true) => {
            Some((ApplyWay::GuestAgent, "waits for the guest's agent to answer after the start".to_owned()))
        }
        (false, false) => {
            let image = write_image(vm, failover, cards).await?;
            definition.disks.push(seed_disk(&definition, image)?);
            Some((
                ApplyWay::CloudInit,
                "handed to the guest at its next start, on a cloud-init disk".to_owned(),
            ))
        }
    };
    if definition != before {
        vm.shared.vms.define(definition).await?;
    }
    Ok(way)
}

/// Where the failover's own files are.
fn directory(vm: &ReplicaVm, failover: &FailoverRecord) -> Option<PathBuf> {
    let overlay: Overlay = vm.store().overlays().into_iter().find(|known| known.id == failover.overlay)?;
    overlay.disks.values().next()?.path.parent().map(Path::to_path_buf)
}

/// A new instance for each failover and each change of settings: cloud-init takes the settings of an instance once.
async fn write_image(
    vm: &ReplicaVm,
    failover: &FailoverRecord,
    cards: Vec<GuestNic>,
) -> Result<PathBuf, Refusal> {
    let failed = |why: String| Refusal::from(Network::NoImage { why });
    let image = directory(vm, failover)
        .ok_or_else(|| failed("the failover has no directory".to_owned()))?
        .join(IMAGE);
    let instance = format!("standin-{}-{}", failover.overlay, Timestamp::now().as_millisecond());
    let target = image.clone();
    blocking(move || {
        nocloud::write(&target, &instance, &cards)
            .map_err(|error| failed(format!("write {}: {error}", target.display())))
    })
    .await?;
    Ok(image)
}

/// On the bus of the VM's first disk: the guest has a driver for that.
fn seed_disk(definition: &VmDefinition, image: PathBuf) -> Result<DiskDefinition, Refusal> {
    let name =
        DiskName::new(DISK).map_err(|error| Refusal::from(Receive::Defect { error: error.to_string() }))?;
    let mut disk = DiskDefinition::new(name, image, DiskFormat::Raw);
    disk.bus = definition.disks.first().map(|first| first.bus).unwrap_or_default();
    disk.read_only = true;
    disk.discard = false;
    Ok(disk)
}

/// The VM runs: what was prepared is handed over, or the agent is asked in the background.
pub(super) async fn started(vm: &Arc<ReplicaVm>) {
    let Some(failover) = vm.snapshot().failover else { return };
    let Some(mut network) = failover.network.clone() else { return };
    match (network.applied.state, network.applied.way) {
        (ApplyState::Pending, Some(ApplyWay::CloudInit)) => {
            let message = "the guest has them on a cloud-init disk, which cloud-init reads as it boots; it cannot be \
                           asked whether it took them, as the VM has no guest agent that answers";
            network.applied = now(ApplyState::Offered, Some(ApplyWay::CloudInit), message.to_owned());
            tracing::info!(vm = %vm.snapshot().name, "network settings were handed over on a cloud-init disk");
            note(vm, &failover, Some(network)).await;
        }
        (ApplyState::Pending, Some(ApplyWay::GuestAgent)) => {
            let vm = Arc::clone(vm);
            tasks::spawn(async move { ask_agent(&vm, &failover, network).await });
        }
        _ => {}
    }
}

async fn ask_agent(vm: &Arc<ReplicaVm>, failover: &FailoverRecord, mut network: NetworkRecord) {
    let hypervisor = &vm.shared.hypervisor;
    let cards = match hypervisor.inspect(vm.id()).await {
        Ok(info) => cards(&info.definition, &network.settings).0,
        // Reverted in this moment.
        Err(_) => return,
    };
    let patience = vm.shared.networks.agent_patience;
    let asked = tokio::select! {
        () = vm.shared.shutdown.cancelled() => return,
        asked = hypervisor.configure_network(vm.id(), &cards, patience) => asked,
    };
    let name = vm.snapshot().name;
    let way = Some(ApplyWay::GuestAgent);
    network.applied = match asked {
        Ok(done) => now(ApplyState::Applied, way, done.join("; ")),
        Err(Error::Timeout { .. }) => {
            network.agent_silent = true;
            let message = format!(
                "the guest's agent did not answer within {} s. At the next start of the VM its settings are on a \
                 cloud-init disk instead: `standin vm stop {name}`, then `standin vm start {name}`; or start the \
                 agent in the guest.",
                patience.as_secs()
            );
            now(ApplyState::Failed, way, message)
        }
        Err(error) => {
            let message =
                format!("{}. It is tried again at the next start of the VM.", crate::error::chain(&error));
            now(ApplyState::Failed, way, message)
        }
    };
    note(vm, failover, Some(network)).await;
}

/// Keeps what became of the settings, unless that failover is over by now.
async fn note(vm: &ReplicaVm, of: &FailoverRecord, network: Option<NetworkRecord>) {
    let mut record = vm.lock().await;
    let name = record.name.clone();
    let same = record.failover.as_mut().filter(|failover| failover.overlay == of.overlay);
    let Some(failover) = same else { return };
    let applied = network.as_ref().map(|network| network.applied.clone());
    failover.network = network;
    match applied {
        Some(AppliedNetwork { state: ApplyState::Failed, message, .. }) => {
            tracing::warn!(vm = %name, %message, "the guest did not get its network settings");
            record.note_error(&Network::NotApplied { vm: name.clone(), why: message }.refusal()).await;
        }
        applied => {
            if let Some(AppliedNetwork { state: ApplyState::Applied, message, .. }) = applied {
                tracing::info!(vm = %name, %message, "the guest has its network settings");
            }
            if let Err(refusal) = record.save().await {
                tracing::error!(vm = %name, %refusal, "what became of the network settings could not be kept");
            }
        }
    }
}

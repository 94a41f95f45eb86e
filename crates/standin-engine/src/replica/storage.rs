//! The directories of replicas: those that cannot be opened, those that were moved, those that were kept.
//!
//! A replica lives where its directory is found. Its record, and the definition of a VM that failed over, follow it there
//! ([`follow`], [`bring_vm`]); layers and overlays name each other by relative names. One that cannot be opened
//! is shown as a replica that is critical, and nothing takes its place. What was kept of a replica can be taken up again
//! while its VM has no other one here.
//!
//! Called by [`super::find`] at the start, and by the management interfaces.

use super::beside;
use super::host::ReplicaHost;
use super::layer::{blocking, refusal_of};
use super::overlay_vm;
use super::reason::{Admission, Storage};
use super::vm::ReplicaVm;
use crate::engine::hypervisor_refusal;
use crate::records::{LastError, ReplicaRecord};
use crate::tasks::to_its_end;
use crate::vm::Sharing;
use standin_hypervisor::{PowerState, VmInfo};
use standin_model::fence::{Claim, KnownHost, Role};
use standin_model::state::ReplicationState;
use standin_model::stats::Monitor;
use standin_model::view::{DirectoryKind, DirectoryView};
use standin_model::{Refusal, RelationshipId, VmId, VmName};
use standin_store::{Directory, DirectoryState, Repaired, Replica, Unreadable};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The refusal for a replica that cannot be opened.
pub(super) fn cannot_be_opened(name: &VmName, unreadable: &Unreadable) -> Refusal {
    Storage::NotOpened {
        vm: name.clone(),
        error: unreadable.message.clone(),
        directory: unreadable.directory.clone(),
        repairable: unreadable.repairable,
    }
    .into()
}

/// Brings a replica's record to where its directory is; whether it was elsewhere.
pub(super) fn follow(store: &Replica, record: &mut ReplicaRecord) -> bool {
    let Some(location) = store.directory().parent().filter(|location| record.location != **location) else {
        return false;
    };
    tracing::info!(vm = %record.name, from = %record.location.display(), to = %location.display(),
        "the storage of a replica was moved");
    record.location = location.to_owned();
    true
}

/// Brings the VM of a failover to where the replica's directory is.
///
/// # Errors
/// When the VM runs on disks elsewhere, or its definition cannot be changed.
pub(super) async fn bring_vm(vm: &ReplicaVm) -> Result<(), Refusal> {
    if vm.snapshot().failover.is_none() {
        return Ok(());
    }
    let Ok(info) = vm.shared.hypervisor.inspect(vm.id()).await else { return Ok(()) };
    let Some(old) = other_root(&info, vm.store()) else { return Ok(()) };
    if info.power != PowerState::Off {
        return Err(Storage::RunsOnOldDisks { vm: info.name, old }.into());
    }
    let definition = overlay_vm::moved(info.definition.clone(), &old, vm.store().directory());
    vm.shared.vms.define(definition).await.map(|_| ())
}

/// The directory of a replica that a VM's overlays are in, if that is not the one in which they were found.
fn other_root(info: &VmInfo, store: &Replica) -> Option<PathBuf> {
    let overlays = store.overlays();
    let disks = overlays.iter().flat_map(|overlay| overlay.disks.values());
    let within: Vec<&Path> =
        disks.filter_map(|disk| disk.path.strip_prefix(store.directory()).ok()).collect();
    info.definition.disks.iter().find_map(|disk| {
        let inner = within.iter().find(|inner| disk.file.ends_with(inner))?;
        let root = disk.file.ancestors().nth(inner.components().count())?;
        // Of another VM it would be another directory.
        (root != store.directory() && root.file_name() == store.directory().file_name())
            .then(|| root.to_owned())
    })
}

impl ReplicaHost {
    /// Replicas that cannot be opened and of which no record is left are shown all the same.
    pub(super) fn note_unreadable(&self) {
        let mut missing = self.lock_missing();
        for unreadable in self.shared.store.unreadable() {
            if missing.range(RelationshipId::all_of(unreadable.vm)).next().is_none() {
                let record = self.shown(&unreadable);
                missing.insert(record.id(), record);
            }
        }
    }

    /// A record for `status` alone, without disks: what else is known lies beside the disks, and counts once they can be
    /// opened.
    fn shown(&self, unreadable: &Unreadable) -> ReplicaRecord {
        let record = nameless(unreadable);
        match beside::read(&self.shared.files, &unreadable.directory) {
            Ok(Some(known)) => ReplicaRecord { name: known.name, primary_host: known.primary_host, ..record },
            _ => record,
        }
    }

    /// Every directory of a replica in the storage locations. Looks at every file.
    ///
    /// # Errors
    /// When a location cannot be listed, or the hypervisor cannot say what its VMs use.
    pub async fn directories(self: &Arc<Self>) -> Result<Vec<DirectoryView>, Refusal> {
        let vms = self.shared.hypervisor.list().await.map_err(|error| hypervisor_refusal(&error))?;
        let store = self.shared.store.clone();
        let found = blocking(move || store.survey().map_err(|error| refusal_of(&error))).await?;
        let host = Arc::clone(self);
        blocking(move || Ok(found.into_iter().map(|directory| host.view(directory, &vms)).collect())).await
    }

    fn view(&self, found: Directory, vms: &[VmInfo]) -> DirectoryView {
        let record = match found.state {
            DirectoryState::Replica => self.find(found.vm).map(|vm| vm.snapshot()),
            DirectoryState::Unreadable(_) => self.missing().into_iter().find(|known| known.vm == found.vm),
            _ => None,
        };
        let host = record.as_ref().map(|record| record.primary_host.clone());
        let known = beside::read(&self.shared.files, &found.path).ok().flatten();
        // A version before kept it in the manifest.
        let known = known.or_else(|| serde_json::from_value::<ReplicaRecord>(found.engine).ok());
        let vm = record.map_or(found.name, |record| record.name);
        let in_use = used_by(vms, &found.path).is_some();
        let path = found.path.display().to_string();
        let away = format!("Remove it with `standin store remove {path}`");
        let (kind, problem, remedy) = match found.state {
            DirectoryState::Replica => (DirectoryKind::Replica, None, String::new()),
            DirectoryState::Copy => (DirectoryKind::Copy, None, format!("{away} if it is of no more use.")),
            DirectoryState::Unfinished => (DirectoryKind::Unfinished, None, format!("{away}.")),
            _ if in_use => (DirectoryKind::Kept, None, "A VM of this host has its disks here.".to_owned()),
            DirectoryState::Kept if found.points == 0 => (DirectoryKind::Kept, None, format!("{away}.")),
            DirectoryState::Kept => {
                let again = format!("Make it a replica again with `standin store adopt {path}`");
                (
                    DirectoryKind::Kept,
                    None,
                    format!("{again}, or remove it with `standin store remove {path}`."),
                )
            }
            DirectoryState::Unreadable(why) => {
                let unreadable =
                    self.shared.store.unreadable().into_iter().find(|u| u.directory == found.path);
                let remedy = unreadable.map(|unreadable| cannot_be_opened(&vm, &unreadable).remedy);
                (DirectoryKind::Unreadable, Some(why), remedy.unwrap_or_else(|| format!("{away}.")))
            }
        };
        DirectoryView {
            path,
            vm,
            id: found.vm,
            kind,
            host: host.or_else(|| known.map(|known| known.primary_host)),
            points: found.points as u64,
            newest_point_at: found.newest,
            size_bytes: found.bytes,
            in_use,
            problem,
            remedy,
        }
    }

    /// Builds the manifest of a replica again, and takes the replica up. `progress` gets bytes read and bytes in all.
    ///
    /// # Errors
    /// 32775 for a replica whose manifest is not lost; why it cannot be built.
    pub async fn repair(
        self: &Arc<Self>,
        id: VmId,
        mut progress: impl FnMut(u64, u64) + Send + 'static,
    ) -> Result<Repaired, Refusal> {
        let host = Arc::clone(self);
        to_its_end(async move {
            let _one_at_a_time = host.creating.lock().await;
            let unreadable =
                host.shared.store.unreadable().into_iter().find(|unreadable| unreadable.vm == id);
            if unreadable.is_none_or(|unreadable| !unreadable.repairable) {
                return Err(Storage::NothingToRepair { id }.into());
            }
            let store = host.shared.store.clone();
            let (replica, repaired) =
                blocking(move || store.repair(id, &mut progress).map_err(|error| refusal_of(&error))).await?;
            host.shared.vms.keeps_beside(id, replica.directory().to_owned()).await;
            // A record that was made for `status` alone makes room for what is beside the disks.
            host.lock_missing().retain(|_, record| record.vm != id || !record.disks.is_empty());
            host.find_again().await;
            Ok(repaired)
        })
        .await
    }

    /// Makes a directory that was kept the replica of its VM again. Nothing is sent to it until its VM is replicated here
    /// again; its points can be failed over to.
    ///
    /// # Errors
    /// 32774 where the VM, or another replica of it, is on this host; 32773 for what is no such directory; 32775 where
    /// another host holds the VM.
    pub async fn adopt(self: &Arc<Self>, path: PathBuf) -> Result<VmName, Refusal> {
        let host = Arc::clone(self);
        to_its_end(async move { host.adopt_kept(path).await }).await
    }

    async fn adopt_kept(self: &Arc<Self>, path: PathBuf) -> Result<VmName, Refusal> {
        let _one_at_a_time = self.creating.lock().await;
        let found = self.known_directory(path.clone()).await?;
        if let Ok(info) = self.shared.hypervisor.inspect(found.vm).await {
            return Err(Admission::Exists { vm: info.name, id: info.id, adopting: true }.into());
        }
        let store = self.shared.store.clone();
        let replica = blocking(move || store.adopt(&path).map_err(|error| refusal_of(&error))).await?;
        let (id, directory) = (found.vm, replica.directory().to_owned());
        self.shared.vms.keeps_beside(id, directory).await;
        let mut record = self.beside_disks(&replica).unwrap_or_else(|| self.by_manifest(&replica));
        let others = self.shared.hypervisor.names().await.map_err(|error| hypervisor_refusal(&error))?;
        let name = self.shared.names.give(id, record.primary_name(), &record.primary_host, &others);
        record.give_name(name.clone());
        if let Err(refusal) = self.share_again(&replica, &record).await {
            let store = self.shared.store.clone();
            drop(replica);
            let keep = standin_store::RemoveDisks::Keep;
            blocking(move || store.remove(id, keep).map_err(|error| refusal_of(&error))).await?;
            self.shared.names.forget(id);
            return Err(refusal);
        }
        record.failover = None;
        record.state = ReplicationState::Critical;
        record.last_error = Some(LastError::now(Storage::TakenUp { vm: name.clone() }.into()));
        self.restore(replica, record, false).await;
        Ok(name)
    }

    /// Whoever replicated the VM here shares it again, under the claim that is known. Where none is, that host holds the VM, or
    /// this one if it has failed over.
    pub(super) async fn share_again(&self, replica: &Replica, record: &ReplicaRecord) -> Result<(), Refusal> {
        let (vms, source) = (&self.shared.vms, record.source());
        let (me, known) = (vms.me(), vms.record(record.vm));
        if known.as_ref().is_some_and(|known| known.fence.held_by(me) && !known.tombstone) {
            return Ok(());
        }
        let generation = replica.manifest().generation;
        let first = match record.state.is_failed_over() {
            true => Claim::unnamed(generation.next(), me),
            false => Claim::unnamed(generation, source),
        };
        let claim = Some(known.map_or(first, |known| known.fence.claim));
        let (name, addresses) = (record.primary_host.clone(), Vec::new());
        let known = KnownHost { name, addresses, role: Role::Source, accepted: None };
        let sharing = Sharing { host: source, known, name: record.name.clone(), claim };
        vms.share(record.vm, sharing).await.map(|_| ())
    }

    /// Removes a directory that no replica and no VM uses, with all that is in it.
    ///
    /// # Errors
    /// 32774 for one that is used, or that is the replica of a VM whatever its state; 32773 for what is no such directory.
    pub async fn remove_directory(self: &Arc<Self>, path: PathBuf) -> Result<(), Refusal> {
        let host = Arc::clone(self);
        to_its_end(async move {
            let _one_at_a_time = host.creating.lock().await;
            let found = host.known_directory(path.clone()).await?;
            let vms = host.shared.hypervisor.list().await.map_err(|error| hypervisor_refusal(&error))?;
            if let Some(vm) = used_by(&vms, &path) {
                return Err(Storage::UsedByVm { vm, path }.into());
            }
            let replica = host.disks_missing(found.vm).is_some();
            if replica && matches!(found.state, DirectoryState::Unreadable(_)) {
                return Err(Storage::IsReplica { vm: found.name.to_string(), path }.into());
            }
            let store = host.shared.store.clone();
            blocking(move || store.remove_directory(&path).map_err(|error| refusal_of(&error))).await
        })
        .await
    }

    async fn known_directory(&self, path: PathBuf) -> Result<Directory, Refusal> {
        let store = self.shared.store.clone();
        let found = blocking(move || {
            let all = store.survey().map_err(|error| refusal_of(&error))?;
            Ok(all.into_iter().find(|found| found.path == path).ok_or(path))
        })
        .await?;
        found.map_err(|path| Storage::UnknownDirectory { path }.into())
    }
}

/// The VM that has files in a directory.
fn used_by(vms: &[VmInfo], directory: &Path) -> Option<VmName> {
    let uses = |info: &&VmInfo| {
        let carried = info.definition.carried_files();
        let disks = info.definition.disks.iter().map(|disk| disk.file.as_path());
        let seen = info.disks.iter().map(|disk| disk.path.as_path());
        let mut files = disks.chain(seen).chain(carried.into_iter().map(|(_, path)| path));
        files.any(|file| file.starts_with(directory))
    };
    vms.iter().find(uses).map(|info| info.name.clone())
}

/// A record for `status` of a replica of which nothing but its directory is known.
fn nameless(unreadable: &Unreadable) -> ReplicaRecord {
    let location = unreadable.directory.parent().unwrap_or(Path::new("/")).to_owned();
    ReplicaRecord {
        primary_host: "unknown".to_owned(),
        state: ReplicationState::Critical,
        ..ReplicaRecord::blank(unreadable.vm, unreadable.name.clone(), location, Monitor::default())
    }
}

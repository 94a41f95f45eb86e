//! Taking a replica up again whose manifest is lost.

use crate::copies;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::locations::foreign;
use crate::rebuild::{self, not_provable};
use crate::recover;
use crate::replica::{Replica, lock};
use crate::store::{Store, Unreadable};
use standin_model::VmId;
use std::path::PathBuf;
use std::sync::PoisonError;

/// What a repair found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// Recovery points that are offered again, each proven.
    pub points: usize,
    /// What is not offered or could not be used, and why.
    pub left_out: Vec<String>,
    /// Files that no point needs, under their new names.
    pub set_aside: Vec<PathBuf>,
}

impl Store {
    /// Builds the manifest of a replica again, from the layers and what is noted with them, and opens it. Reads the whole
    /// replica. `progress` gets bytes read so far and bytes in all, about.
    ///
    /// # Errors
    /// [`Error::UnknownVm`] where no manifest is lost, [`Error::NotProvable`]. The directory is then as it was.
    pub fn repair(&self, vm: VmId, progress: &mut dyn FnMut(u64, u64)) -> Result<(Replica, Repaired)> {
        let Unreadable { name, directory, repairable, message, .. } =
            lock(&self.shared.unreadable).get(&vm).cloned().ok_or(Error::UnknownVm(vm))?;
        if !repairable {
            return Err(Error::invalid(format!("the manifest of VM {name} is not lost: {message}")));
        }
        let (io, options) = (&self.shared.io, &self.shared.options);
        let layout = Layout::new(directory);
        let guard = recover::take_lock(&layout)?;
        let mut draft = rebuild::draft(io, &layout, &name, vm)?;
        // What does not hold together must not become a manifest.
        crate::manifest::parse(&draft.manifest.render()?).map_err(|what| not_provable(&layout, what))?;
        let total = draft.manifest.disks.iter().flat_map(|disk| &disk.layers).map(|layer| layer.stored).sum();
        let mut done = 0;
        let mut tick = |bytes: u64| {
            done += bytes;
            progress(done.min(total), total);
        };
        let unproven =
            Replica::assemble(io.clone(), layout.clone(), options.clone(), draft.manifest.clone(), guard)?;
        let reports = draft.prove(&unproven, &mut tick);
        if draft.manifest.points.is_empty() && draft.manifest.overlays.is_empty() {
            let why =
                draft.left_out.first().cloned().unwrap_or_else(|| "no layer is a recovery point".into());
            return Err(not_provable(&layout, why));
        }
        unproven.note_damage(unproven.damage_of_newest(&draft.manifest, &reports))?;
        drop(unproven);
        let set_aside = rebuild::set_aside(io, &layout, &draft.manifest)?;
        // They may hold what is set aside now.
        draft.manifest.disks.iter().try_for_each(|disk| io.remove(&layout.tree(&disk.name)))?;
        copies::write(io, &layout, &draft.manifest.render()?)?;
        let opened = recover::open(io, layout, options)?.ok_or(Error::UnknownVm(vm))?;
        let points = opened.replica.points().len();
        let mut replicas = self.shared.replicas.write().unwrap_or_else(PoisonError::into_inner);
        replicas.insert(vm, opened.replica.clone());
        lock(&self.shared.unreadable).remove(&vm);
        let mut problems = lock(&self.shared.problems);
        problems.retain(|problem| problem.path != opened.replica.directory());
        problems.extend(opened.foreign.into_iter().map(foreign));
        Ok((opened.replica, Repaired { points, left_out: draft.left_out, set_aside }))
    }
}

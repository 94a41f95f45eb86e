//! Runtime files as the release before named them: by the first 12 digits of a VM's identity, which two VMs can share.
//!
//! A VM that runs since before an upgrade has its sockets under such names. They are given the names of today when the
//! driver opens, before anything looks for them: whoever connects to a unix socket finds it by its file, not by the
//! name that QEMU bound it to. The pid file comes last, so that a daemon that ends in between goes on at its next start.
//!
//! Called by [`super::driver`]; to go with the release after the next.

use super::machine::{Origin, Vm};
use super::names;
use super::process::Process;
use super::store::Store;
use crate::error::Error;
use standin_model::VmId;
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

/// What a VM has besides its pid file.
const SUFFIXES: [&str; 4] = ["qmp", "ga", "nbd", "frozen"];

/// Renames the runtime files of every VM that was started by the release before and still runs.
///
/// # Errors
/// When a file cannot be renamed: its VM runs and would be taken for one that is off.
pub(super) fn take_over(store: &Store, vms: &BTreeMap<VmId, Arc<Vm>>) -> Result<(), Error> {
    for vm in vms.values() {
        let short = |suffix: &str| store.runtime_dir().join(format!("{}.{suffix}", names::short(vm.id)));
        let is_its_own = match vm.origin {
            // Whoever started last under a name that two share has the files.
            Origin::Owned => Process::named_by(&short("pid"), vm.id).is_some(),
            Origin::Adopted { .. } => {
                vms.keys().filter(|other| names::short(**other) == names::short(vm.id)).count() == 1
            }
        };
        if !is_its_own {
            continue;
        }
        let last = matches!(vm.origin, Origin::Owned).then_some("pid");
        let mut taken = false;
        for suffix in SUFFIXES.into_iter().chain(last) {
            let (from, to) = (short(suffix), store.runtime_file(vm.id, suffix));
            match fs::rename(&from, &to) {
                Ok(()) => taken = true,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io(format!("rename {}", from.display()))(error)),
            }
        }
        // It holds the path of the agent's socket.
        let marker = store.frozen_marker(vm.id);
        if taken && matches!(vm.origin, Origin::Owned) && marker.exists() {
            let agent = store.agent_socket(vm.id);
            fs::write(&marker, agent.as_os_str().as_encoded_bytes())
                .map_err(Error::io(format!("write {}", marker.display())))?;
        }
        if taken {
            tracing::info!(vm = %vm.id, "a VM that runs since before an upgrade was taken over");
        }
    }
    Ok(())
}

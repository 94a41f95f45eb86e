//! Runtime files as the release before named them: by the first 12 digits of a VM's identity, which two VMs can share.
//!
//! A VM that runs since before an upgrade has its sockets under such names. They are given the names of today when the
//! driver opens, before anything looks for them: whoever connects to a unix socket finds it by its file, not by the
//! name that QEMU bound it to. The pid file comes last, so that a daemon that ends in between goes on at its next start.
//! Nothing waits for the disk: a loss of power ends the processes that these files lead to.
//!
//! Called by [`super::driver`]; to go with the release after the next.

use super::machine::{Origin, Vm};
use super::names;
use super::process::Process;
use super::store::Store;
use crate::error::Error;
use standin_durable::{Files, Mode};
use standin_model::VmId;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
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
        let mut taken = false;
        for suffix in SUFFIXES {
            taken |= moved(&short(suffix), &store.runtime_file(vm.id, suffix))?;
        }
        if matches!(vm.origin, Origin::Owned) {
            let marker = store.frozen_marker(vm.id);
            // It holds the path of the agent's socket.
            if marker.exists() {
                let agent = store.agent_socket(vm.id);
                Files::default().replace(&marker, agent.as_os_str().as_encoded_bytes(), Mode::Owner)?;
            }
            taken |= moved(&short("pid"), &store.pid_file(vm.id))?;
        }
        if taken {
            tracing::info!(vm = %vm.id, "a VM that runs since before an upgrade was taken over");
        }
    }
    Ok(())
}

/// Renames a file that may not be there; whether it was.
fn moved(from: &Path, to: &Path) -> Result<bool, Error> {
    match fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io(format!("rename {}", from.display()))(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::VmDefinition;
    use standin_model::VmName;
    use std::process::Command;

    #[test]
    fn a_daemon_that_ended_between_two_renames_is_gone_on_with_at_the_next_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path(), &dir.path().join("run")).expect("a store");
        let definition = VmDefinition::new(VmName::new("a").expect("a name"), 64);
        let vm = definition.uuid;
        let mut process =
            Command::new("sh").args(["-c", "sleep 60; :", &vm.to_string()]).spawn().expect("sh");
        let short = |suffix: &str| store.runtime_dir().join(format!("{}.{suffix}", names::short(vm)));
        fs::write(short("pid"), process.id().to_string()).expect("write");
        // Its arguments can be seen a moment after it was started.
        while Process::named_by(&short("pid"), vm).is_none() {
            std::thread::yield_now();
        }
        // The marker has its name of today, and still the path of yesterday.
        fs::write(store.frozen_marker(vm), short("ga").as_os_str().as_encoded_bytes()).expect("write");
        let vms = BTreeMap::from([(vm, Arc::new(Vm::new(Origin::Owned, definition)))]);
        take_over(&store, &vms).expect("taken over");
        let led = fs::read_to_string(store.frozen_marker(vm)).expect("read");
        assert_eq!(Path::new(&led), store.agent_socket(vm));
        assert!(store.pid_file(vm).exists() && !short("pid").exists());
        process.kill().and_then(|()| process.wait()).expect("end");
    }
}

//! What the driver remembers over restarts: one small file per VM, written whole or not at all.
//!
//! ```text
//! <state_dir>/vms/<uuid>.toml        a definition
//! <state_dir>/adopted/<uuid>.toml    the monitor of a VM that somebody else runs
//! <state_dir>/log/<uuid>.log         what its QEMU said
//! <runtime_dir>/<uuid, 32 digits>.{qmp,ga,nbd,pid,frozen}
//! <runtime_dir>/<uuid, 32 digits>.toml   what the process was started from: it outlives the state directory's file
//! ```

use crate::definition::VmDefinition;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use standin_durable::{Files, Mode};
use standin_model::{VmId, VmName};
use std::fs;
use std::path::{Path, PathBuf};

/// A unix socket's path has at most 107 bytes.
const MAX_SOCKET_PATH: usize = 107;
/// `/`, the digits of an identity, and the longest suffix of a socket.
const SOCKET_NAME: usize = 1 + 32 + 4;
/// A definition that is larger than this is not one of ours.
const MAX_FILE: u64 = 4 << 20;

/// Where the driver keeps things.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    state: PathBuf,
    runtime: PathBuf,
}

/// A VM that somebody else runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Adoption {
    /// Its identity.
    pub uuid: VmId,
    /// Its name.
    pub name: VmName,
    /// The socket of its monitor.
    pub qmp: PathBuf,
}

impl Store {
    /// Makes the directories, readable by their owner only: definitions can hold secrets in extra arguments.
    pub fn open(state: &Path, runtime: &Path) -> Result<Self, Error> {
        let files = Files::default();
        for dir in [state.join("vms"), state.join("adopted"), state.join("log"), runtime.to_owned()] {
            files.make_directory(&dir, Mode::Owner)?;
        }
        for dir in [state.join("vms"), state.join("adopted"), runtime.to_owned()] {
            files.recover_directory(&dir)?;
        }
        let absolute = |dir: &Path| {
            fs::canonicalize(dir).map_err(Error::io(format!("find the directory {}", dir.display())))
        };
        let store = Self { state: absolute(state)?, runtime: absolute(runtime)? };
        let (length, most) = (store.runtime.as_os_str().len(), MAX_SOCKET_PATH - SOCKET_NAME);
        if length > most {
            return Err(Error::RuntimeDir { dir: store.runtime, length, most });
        }
        Ok(store)
    }

    /// The state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// Monitor of an owned VM.
    pub fn qmp_socket(&self, vm: VmId) -> PathBuf {
        self.runtime_file(vm, "qmp")
    }

    /// Guest agent of an owned VM.
    pub fn agent_socket(&self, vm: VmId) -> PathBuf {
        self.runtime_file(vm, "ga")
    }

    /// NBD server of a VM.
    pub fn nbd_socket(&self, vm: VmId) -> PathBuf {
        self.runtime_file(vm, "nbd")
    }

    /// Process id of an owned VM, written by QEMU.
    pub fn pid_file(&self, vm: VmId) -> PathBuf {
        self.runtime_file(vm, "pid")
    }

    /// Is there while the VM's guest may be frozen; holds the path of its agent's socket.
    pub fn frozen_marker(&self, vm: VmId) -> PathBuf {
        self.runtime_file(vm, "frozen")
    }

    /// What QEMU said.
    pub fn log_file(&self, vm: VmId) -> PathBuf {
        self.state.join("log").join(format!("{vm}.log"))
    }

    /// A runtime file of a VM. By its whole identity: whoever chose that may know the identities of other VMs.
    pub fn runtime_file(&self, vm: VmId, suffix: &str) -> PathBuf {
        self.runtime.join(format!("{}.{suffix}", vm.0.simple()))
    }

    /// The runtime directory.
    pub fn runtime_dir(&self) -> &Path {
        &self.runtime
    }

    fn definition_file(&self, vm: VmId) -> PathBuf {
        self.state.join("vms").join(format!("{vm}.toml"))
    }

    fn adoption_file(&self, vm: VmId) -> PathBuf {
        self.state.join("adopted").join(format!("{vm}.toml"))
    }

    /// Keeps a definition.
    pub fn save_definition(&self, definition: &VmDefinition) -> Result<(), Error> {
        keep(&self.definition_file(definition.uuid), &definition.to_toml()?)
    }

    /// Keeps what the process of a VM runs, beside its pid file: a state directory that is put back from an older backup
    /// may know nothing of a VM that runs on.
    pub fn save_running(&self, definition: &VmDefinition) -> Result<(), Error> {
        keep(&self.runtime_file(definition.uuid, "toml"), &definition.to_toml()?)
    }

    /// What was kept of processes, whether they still run or not.
    pub fn load_running(&self) -> Result<Vec<VmDefinition>, Error> {
        read_all(&self.runtime, VmDefinition::from_toml)
    }

    /// Keeps an adoption.
    pub fn save_adoption(&self, adoption: &Adoption) -> Result<(), Error> {
        let text = toml::to_string(adoption).map_err(|e| Error::Definition(e.to_string()))?;
        keep(&self.adoption_file(adoption.uuid), &text)
    }

    /// Forgets a VM. One that is not there is forgotten already.
    pub fn remove(&self, vm: VmId) -> Result<(), Error> {
        for file in [self.definition_file(vm), self.adoption_file(vm)] {
            Files::default().remove(&file)?;
        }
        Ok(())
    }

    /// Everything that was kept. A file that cannot be read is reported and left alone: one bad file must not
    /// stop the replication of the other VMs.
    pub fn load(&self) -> Result<(Vec<VmDefinition>, Vec<Adoption>), Error> {
        let definitions = read_all(&self.state.join("vms"), VmDefinition::from_toml)?;
        let adoptions = read_all(&self.state.join("adopted"), |text| {
            toml::from_str::<Adoption>(text).map_err(|e| Error::Definition(e.to_string()))
        })?;
        Ok((definitions, adoptions))
    }
}

fn read_all<T>(dir: &Path, parse: impl Fn(&str) -> Result<T, Error>) -> Result<Vec<T>, Error> {
    let context = || format!("list {}", dir.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io(context()))? {
        let path = entry.map_err(Error::io(context()))?.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        match read_small(&path).and_then(|text| parse(&text)) {
            Ok(value) => found.push(value),
            Err(error) => tracing::error!(file = %path.display(), %error, "a VM's file cannot be read"),
        }
    }
    Ok(found)
}

fn keep(path: &Path, text: &str) -> Result<(), Error> {
    Ok(Files::default().replace(path, text.as_bytes(), Mode::Owner)?)
}

fn read_small(path: &Path) -> Result<String, Error> {
    let context = || format!("read {}", path.display());
    let size = fs::metadata(path).map_err(Error::io(context()))?.len();
    if size > MAX_FILE {
        return Err(Error::Definition(format!("{} has {size} bytes", path.display())));
    }
    fs::read_to_string(path).map_err(Error::io(context()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(dir: &Path) -> Store {
        Store::open(&dir.join("state"), &dir.join("run")).expect("a store")
    }

    fn definition(name: &str) -> VmDefinition {
        VmDefinition::new(VmName::new(name).expect("a name"), 64)
    }

    #[test]
    fn what_was_kept_is_found_again_and_can_be_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let vm = definition("a");
        let adoption =
            Adoption { uuid: VmId::random(), name: VmName::new("b").expect("a name"), qmp: "/q".into() };
        store(dir.path()).save_definition(&vm).expect("save");
        store(dir.path()).save_adoption(&adoption).expect("save");
        assert_eq!(store(dir.path()).load().expect("load"), (vec![vm.clone()], vec![adoption]));
        store(dir.path()).remove(vm.uuid).expect("remove");
        store(dir.path()).remove(vm.uuid).expect("remove again");
        assert_eq!(store(dir.path()).load().expect("load").0, vec![]);
    }

    #[test]
    fn a_torn_file_does_not_hide_the_other_vms() {
        let dir = tempfile::tempdir().expect("a directory");
        let vm = definition("a");
        store(dir.path()).save_definition(&vm).expect("save");
        fs::write(dir.path().join("state/vms/x.toml"), "name = ").expect("write");
        let left = dir.path().join("state/vms/y.toml.part");
        fs::write(&left, "name = \"half\"").expect("write");
        assert_eq!(store(dir.path()).load().expect("load").0, vec![vm]);
        assert!(!left.exists(), "what a crash left stays");
    }

    #[test]
    fn a_runtime_directory_too_long_for_sockets_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let long = dir.path().join("r".repeat(100));
        let error = Store::open(dir.path(), &long).expect_err("too long");
        let length = fs::canonicalize(&long).expect("it was made").as_os_str().len();
        assert!(error.to_string().contains(&format!("has {length} bytes")), "{error}");
        assert!(error.remedy().contains("runtime_dir"), "{}", error.remedy());
    }

    #[test]
    fn the_longest_runtime_directory_has_room_for_every_socket() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = fs::canonicalize(dir.path()).expect("a path");
        let of = |length: usize| root.join("r".repeat(length - root.as_os_str().len() - 1));
        let most = MAX_SOCKET_PATH - SOCKET_NAME;
        let store = Store::open(dir.path(), &of(most)).expect("it fits");
        let vm = VmId::random();
        for socket in [store.qmp_socket(vm), store.agent_socket(vm), store.nbd_socket(vm)] {
            assert!(socket.as_os_str().len() <= MAX_SOCKET_PATH, "{}", socket.display());
            std::os::unix::net::UnixListener::bind(&socket).expect("a socket of that path");
        }
        assert!(Store::open(dir.path(), &of(most + 1)).is_err());
    }

    #[test]
    fn identities_that_begin_alike_have_files_of_their_own() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path());
        let one: VmId = "6f2c1f0e-0000-4000-8000-000000000001".parse().expect("an id");
        let other: VmId = "6f2c1f0e-0000-4000-8000-000000000002".parse().expect("an id");
        assert_ne!(store.pid_file(one), store.pid_file(other));
        assert_ne!(store.qmp_socket(one), store.qmp_socket(other));
    }
}

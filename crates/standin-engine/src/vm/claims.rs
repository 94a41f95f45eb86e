//! The claims as files: one a VM in the data directory, and one beside the disks of a replica, so that neither the loss of
//! the database nor that of the data directory makes a host forget that a VM lives elsewhere.
//!
//! ```text
//!   <data>/claims/<vm>.json            always
//!   <replica's directory>/claim.json   where this host has a replica of the VM
//! ```
//!
//! Of copies that differ the highest claim counts. A file that cannot be read is said, and the others count.

use super::reason::Vm;
use super::record::VmRecord;
use crate::error::chain;
use crate::replica::layer::blocking;
use standin_durable::{Content, Document, DocumentError, Documents, Files};
use standin_model::{Refusal, VmId};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The name of the copy in a replica's directory.
const BESIDE: &str = "claim.json";

impl Content for VmRecord {
    const KIND: &'static str = "standin claim";
    const VERSION: u32 = 1;
    const IF_LOST: &'static str =
        "the daemon writes it again from the other copies of the claim (state.redb, the replica's directory)";
}

/// The claim files of a host.
#[derive(Clone)]
pub struct ClaimFiles {
    files: Files,
    documents: Arc<Documents<VmRecord>>,
    beside: Arc<Mutex<HashMap<VmId, PathBuf>>>,
}

impl ClaimFiles {
    /// Opens the directory of the claims, which is made if it does not exist.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn open(files: Files, directory: &Path) -> Result<Self, DocumentError> {
        let documents = Arc::new(Documents::open(files.clone(), directory)?);
        Ok(Self { files, documents, beside: Arc::default() })
    }

    /// Where the copy beside a replica's disks is from now on.
    pub fn beside(&self, vm: VmId, directory: PathBuf) {
        self.lock().insert(vm, directory);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<VmId, PathBuf>> {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many copies there are of a VM's record.
    #[must_use]
    pub fn copies_of(&self, vm: VmId) -> usize {
        1 + usize::from(self.lock().contains_key(&vm))
    }

    /// Every copy that is there and whole.
    #[must_use]
    pub fn load(&self) -> HashMap<VmId, Vec<VmRecord>> {
        let mut found: HashMap<VmId, Vec<VmRecord>> = HashMap::new();
        match self.documents.list() {
            Ok(listed) => {
                for document in listed {
                    match document.content {
                        Ok(record) if record.vm.to_string() == document.name => {
                            found.entry(record.vm).or_default().push(record);
                        }
                        Ok(_) => {
                            tracing::error!(file = %document.name, "a claim file has another VM's claim; it is not used");
                        }
                        Err(error) => tracing::error!(error = %chain(&error), "a claim cannot be read"),
                    }
                }
            }
            Err(error) => tracing::error!(error = %chain(&error), "the claims cannot be read"),
        }
        for (vm, directory) in self.lock().iter() {
            if let Some(record) = self.beside_disks(*vm, directory) {
                found.entry(*vm).or_default().push(record);
            }
        }
        found
    }

    fn beside_disks(&self, vm: VmId, directory: &Path) -> Option<VmRecord> {
        let file = Document::<VmRecord>::open(self.files.clone(), directory.join(BESIDE));
        match file.and_then(|file| file.read()) {
            Ok(found) => found.filter(|record| record.vm == vm),
            Err(error) => {
                tracing::error!(error = %chain(&error), "the claim beside a replica cannot be read");
                None
            }
        }
    }

    /// The copy beside the disks of a replica.
    pub async fn read_beside(self, vm: VmId, directory: PathBuf) -> Option<VmRecord> {
        let read = move || Ok(self.beside_disks(vm, &directory));
        blocking(read).await.ok().flatten()
    }

    /// Writes both copies, durably.
    ///
    /// # Errors
    /// When the one in the data directory cannot be written. One beside a replica whose storage is not there is said only.
    pub async fn write(&self, record: &VmRecord) -> Result<(), Refusal> {
        let (this, record) = (self.clone(), record.clone());
        blocking(move || {
            this.documents.write(&record.vm.to_string(), &record).map_err(|error| refusal(&record, &error))?;
            let Some(directory) = this.lock().get(&record.vm).cloned() else { return Ok(()) };
            let written = Document::open(this.files.clone(), directory.join(BESIDE))
                .and_then(|file| file.write(&record));
            if let Err(error) = written {
                tracing::warn!(vm = %record.name, error = %chain(&error), "the claim beside the replica's disks is an old one");
            }
            Ok(())
        })
        .await
    }

    /// Removes both copies, durably.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub async fn remove(&self, vm: VmId) -> Result<(), Refusal> {
        let this = self.clone();
        blocking(move || {
            let beside = this.lock().get(&vm).cloned();
            let removed = this.documents.remove(&vm.to_string()).and_then(|()| match beside {
                Some(directory) => {
                    Document::<VmRecord>::open(this.files.clone(), directory.join(BESIDE))?.remove()
                }
                None => Ok(()),
            });
            removed.map_err(|error| Refusal::from(Vm::ClaimNotRemoved { vm, error: chain(&error) }))
        })
        .await
    }
}

fn refusal(record: &VmRecord, error: &DocumentError) -> Refusal {
    Vm::ClaimNotKept { vm: record.name.clone(), error: chain(error) }.into()
}

//! The configuration that travels with a point: the definition, and the files that it names. Files are hashed
//! when their size, time or inode changed, and sent only when the replica does not have that content.

use super::session::Session;
use crate::error::WorkError;
use crate::messages::{CONFIG_STREAM, ConfigFileInfo, MAX_CONFIG_FILE, Reply, Request};
use crate::tasks;
use bytes::Bytes;
use standin_hypervisor::{VmConfig, VmDefinition};
use standin_model::VmName;
use standin_model::digest::DeltaDigest;
use standin_wire::block::{self, Compression};
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

const PIECE: usize = 256 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: (i64, i64),
    inode: u64,
}

/// Hashes of files, kept while the files do not change.
#[derive(Default)]
pub struct ConfigFiles {
    known: Mutex<HashMap<PathBuf, (Stamp, String)>>,
}

impl ConfigFiles {
    /// The hash and length of a file; reads it only when it changed. Blocks.
    fn info(&self, role: &str, path: &Path) -> Result<ConfigFileInfo, std::io::Error> {
        let meta = std::fs::metadata(path)?;
        if meta.len() > MAX_CONFIG_FILE {
            return Err(std::io::Error::other(format!("it is larger than {MAX_CONFIG_FILE} bytes")));
        }
        let stamp =
            Stamp { length: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()), inode: meta.ino() };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = match known.get(path) {
            Some((same, hash)) if *same == stamp => hash.clone(),
            _ => {
                let mut hasher = blake3::Hasher::new();
                hasher.update_reader(std::fs::File::open(path)?)?;
                let hash = hasher.finalize().to_hex().to_string();
                known.insert(path.to_owned(), (stamp, hash.clone()));
                hash
            }
        };
        Ok(ConfigFileInfo { role: role.to_owned(), hash, length: meta.len() })
    }
}

/// Sends configurations in one session after the other.
pub struct Sender {
    files: Arc<ConfigFiles>,
    last: Option<(String, Vec<ConfigFileInfo>)>,
    /// The files that the replica of this session is known to have.
    offered: Option<Vec<ConfigFileInfo>>,
    /// The guest can change a file of the configuration (its NVRAM): an idle disk does not mean an idle VM.
    volatile: bool,
}

impl Sender {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(files: Arc<ConfigFiles>) -> Self {
        Self { files, last: None, offered: None, volatile: false }
    }

    /// The session is gone.
    pub fn forget(&mut self) {
        self.offered = None;
    }

    /// Whether [`Self::last`] is still the VM's configuration while its disks do not change.
    #[must_use]
    pub fn reusable(&self) -> bool {
        self.last.is_some() && self.offered.is_some() && !self.volatile
    }

    /// The configuration that was sent last, for a seal.
    #[must_use]
    pub fn last(&self) -> (String, Vec<ConfigFileInfo>) {
        self.last.clone().unwrap_or_default()
    }

    /// Sends what the replica lacks of `config`, whose definition travels under the `name` that was offered: a VM that
    /// was renamed since is offered under its new one with the next session.
    ///
    /// # Errors
    /// A file that cannot be read, the link's or the replica's reason.
    pub async fn send(
        &mut self,
        session: &mut Session,
        config: &VmConfig,
        name: &VmName,
    ) -> Result<(), WorkError> {
        let paths: BTreeMap<String, PathBuf> = config.files.clone();
        let files = Arc::clone(&self.files);
        let hashed = tasks::on_thread(move || {
            paths.iter().map(|(role, path)| files.info(role, path).map_err(|e| (path.clone(), e))).collect()
        });
        let infos: Result<Vec<ConfigFileInfo>, (PathBuf, std::io::Error)> =
            hashed.await.map_err(|_| WorkError::Cancelled)?;
        let infos = infos.map_err(|(path, source)| WorkError::Io {
            context: format!("read {} of the VM's configuration", path.display()),
            source,
        })?;
        if self.offered.as_ref() != Some(&infos) {
            self.offer(session, config, &infos).await?;
            self.offered = Some(infos.clone());
        }
        self.volatile = config.files.contains_key("nvram");
        let definition = VmDefinition { name: name.clone(), ..config.definition.clone() };
        let definition =
            definition.to_toml().map_err(WorkError::hypervisor("write down the VM's definition"))?;
        self.last = Some((definition, infos));
        Ok(())
    }

    async fn offer(
        &self,
        session: &mut Session,
        config: &VmConfig,
        infos: &[ConfigFileInfo],
    ) -> Result<(), WorkError> {
        let roles = match session.ask(&Request::ConfigFiles { files: infos.to_vec() }).await? {
            Reply::ConfigWanted { roles } => roles,
            other => return Err(session.out_of_turn(&other)),
        };
        let mut offset = 0;
        let mut digest = DeltaDigest::default();
        for role in &roles {
            let Some(path) = config.files.get(role) else {
                return Err(WorkError::ViewLost(format!("the replica wants an unknown file {role}")));
            };
            offset = send_file(session, path, offset, &mut digest).await?;
        }
        if !roles.is_empty() {
            let digests = BTreeMap::from([(CONFIG_STREAM, digest.to_string())]);
            session.done(&Request::PassEnd { digests }).await?;
        }
        Ok(())
    }
}

/// Sends a file as blocks from `offset` of the stream on; returns where the next file begins.
async fn send_file(
    session: &mut Session,
    path: &Path,
    mut offset: u64,
    digest: &mut DeltaDigest,
) -> Result<u64, WorkError> {
    let failed = |source| WorkError::Io { context: format!("read {}", path.display()), source };
    let mut file = std::fs::File::open(path).map_err(failed)?;
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        file.by_ref().take(PIECE as u64).read_to_end(&mut piece).map_err(failed)?;
        if piece.is_empty() {
            return Ok(offset);
        }
        let length = piece.len() as u64;
        let granule = u32::try_from(PIECE).unwrap_or(u32::MAX);
        let encoded = block::encode(CONFIG_STREAM, offset, Bytes::from(piece), granule, Compression::Zstd(1))
            .map_err(|source| WorkError::Encode { source })?;
        super::pass::add_to_digest(digest, offset, length, granule, encoded.digests());
        session.block(encoded).await?;
        offset += length;
    }
}

//! The users in memory: found by name, certificate or principal, and checked by password.
//!
//! The file is looked at once a second at most; when it is another one it is read again. If it cannot be used
//! the users stay as they were and the log says so (ERROR): a slip of the pen in the file must not lock
//! everybody out, and it is told at once.
//!
//! A password costs Argon2 once: a success is remembered for [`REMEMBERED`] under a keyed hash of name and
//! password, whose key this process drew at its start, so that neither the password nor anything to guess it by
//! is kept. Everything remembered is dropped when the file changes. At most [`HASHES_AT_ONCE`] are computed at
//! the same time: that bounds memory and leaves the CPUs to replication.

use super::file::Stamp;
use super::{CertificateMatch, PasswordHash, User, UsersError, UsersFile, names};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How long a success is remembered.
pub const REMEMBERED: Duration = Duration::from_secs(300);
/// The most successes remembered.
const MAX_REMEMBERED: usize = 1024;
/// Hashes of passwords computed at the same time, of 19 MiB each.
const HASHES_AT_ONCE: usize = 2;
/// How often the file is looked at, in milliseconds.
const LOOK_EVERY_MS: u64 = 1000;

/// The users as of one reading.
#[derive(Debug)]
struct Snapshot {
    generation: u64,
    stamp: Option<Stamp>,
    by_name: HashMap<String, Arc<User>>,
    by_certificate: HashMap<CertificateMatch, Arc<User>>,
    by_principal: HashMap<String, Arc<User>>,
}

struct Remembered {
    user: Arc<User>,
    generation: u64,
    until: Instant,
}

/// The users. Shared by all listeners.
pub struct Directory {
    file: UsersFile,
    started: Instant,
    looked_ms: AtomicU64,
    snapshot: RwLock<Arc<Snapshot>>,
    key: [u8; 32],
    remembered: Mutex<HashMap<[u8; 32], Remembered>>,
    hashing: Arc<Semaphore>,
    decoy: PasswordHash,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Directory {
    /// Reads the file. One that does not exist has no users.
    ///
    /// # Errors
    /// As [`UsersFile::list`].
    pub fn open(file: UsersFile) -> Result<Self, UsersError> {
        let (stamp, users) = file.read()?;
        Ok(Self {
            file,
            started: Instant::now(),
            looked_ms: AtomicU64::new(0),
            snapshot: RwLock::new(Arc::new(Snapshot::of(0, stamp, users))),
            key: rand::random(),
            remembered: Mutex::new(HashMap::new()),
            hashing: Arc::new(Semaphore::new(HASHES_AT_ONCE)),
            decoy: PasswordHash::decoy(),
        })
    }

    /// The user of that name, with or without a domain.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<Arc<User>> {
        let name = names::fold(name);
        self.find(|snapshot| snapshot.by_name.get(&name).cloned())
    }

    /// The user whom one of these belongs to; the first one counts.
    #[must_use]
    pub fn by_certificate(&self, certificate: &[CertificateMatch]) -> Option<Arc<User>> {
        self.find(|snapshot| certificate.iter().find_map(|facts| snapshot.by_certificate.get(facts)).cloned())
    }

    /// The user with this Kerberos principal.
    #[must_use]
    pub fn by_principal(&self, principal: &str) -> Option<Arc<User>> {
        self.find(|snapshot| snapshot.by_principal.get(principal).cloned())
    }

    /// Who is not known may have been added a moment ago: for him the file is looked at at once.
    fn find(&self, look: impl Fn(&Snapshot) -> Option<Arc<User>>) -> Option<Arc<User>> {
        look(&self.current()).or_else(|| {
            self.reload();
            look(&self.snapshot())
        })
    }

    /// The user as he is now, if nothing of his was changed since `known` was found: what a connection that was
    /// authenticated once is asked before each of its requests.
    #[must_use]
    pub fn still(&self, known: &Arc<User>) -> Option<Arc<User>> {
        let now = self.by_name(&known.name)?;
        (Arc::ptr_eq(&now, known) || *now == **known).then_some(now)
    }

    /// Whom name and password belong to, if this was found out within [`REMEMBERED`] and is still so. Cheap.
    #[must_use]
    pub fn recall(&self, name: &str, password: &str) -> Option<Arc<User>> {
        let generation = self.current().generation;
        let key = self.key_of(name, password);
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let found = remembered.get(&key)?;
        (found.generation == generation && found.until > Instant::now()).then(|| Arc::clone(&found.user))
    }

    /// Whom name and password belong to. Costs a hash, for an unknown name too.
    ///
    /// # Errors
    /// A sentence, when the hash could not be computed.
    pub async fn check(&self, name: &str, password: &str) -> Result<Option<Arc<User>>, String> {
        // Beside the hash a look at the file costs nothing, and a password may have been changed a moment ago.
        self.reload();
        let snapshot = self.snapshot();
        let user = snapshot.by_name.get(&names::fold(name)).cloned();
        let hash = user.as_ref().and_then(|user| user.password.clone()).unwrap_or_else(|| self.decoy.clone());
        // Never closed; an error would be one of the runtime's end.
        let permit = Arc::clone(&self.hashing).acquire_owned().await.map_err(|error| error.to_string())?;
        let candidate = password.to_owned();
        let matches = tokio::task::spawn_blocking(move || {
            let matches = hash.matches(&candidate);
            drop(permit);
            matches
        });
        let matches = matches.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let Some(user) = user.filter(|_| matches) else { return Ok(None) };
        self.remember(self.key_of(name, password), &user, snapshot.generation);
        Ok(Some(user))
    }

    fn remember(&self, key: [u8; 32], user: &Arc<User>, generation: u64) {
        let now = Instant::now();
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, entry| entry.until > now && entry.generation == generation);
        }
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        let until = now + REMEMBERED;
        remembered.insert(key, Remembered { user: Arc::clone(user), generation, until });
    }

    fn key_of(&self, name: &str, password: &str) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        // The length tells where the name ends: `ab` + `c` is not `a` + `bc`.
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(password.as_bytes());
        *hasher.finalize().as_bytes()
    }

    fn current(&self) -> Arc<Snapshot> {
        self.look();
        self.snapshot()
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file again if it is another one and nobody looked within the last second.
    fn look(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let looked = self.looked_ms.load(Ordering::Relaxed);
        if now.saturating_sub(looked) < LOOK_EVERY_MS {
            return;
        }
        if self.looked_ms.compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.reload();
        }
    }

    /// Reads the file again if it is another one.
    pub fn reload(&self) {
        let known = self.snapshot();
        let read = match self.file.stamp() {
            Ok(stamp) if stamp == known.stamp => return,
            Ok(_) => self.file.read(),
            Err(error) => Err(error),
        };
        match read {
            Ok((stamp, users)) => {
                tracing::info!(users = users.len(), "the users' file was read again");
                let next = Arc::new(Snapshot::of(known.generation + 1, stamp, users));
                *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = next;
                self.remembered.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
            Err(error) => {
                tracing::error!(%error, "the users' file changed and cannot be used; the users stay as they were");
            }
        }
    }
}

impl Snapshot {
    fn of(generation: u64, stamp: Option<Stamp>, users: Vec<User>) -> Self {
        let mut new = Self {
            generation,
            stamp,
            by_name: HashMap::new(),
            by_certificate: HashMap::new(),
            by_principal: HashMap::new(),
        };
        for user in users {
            let user = Arc::new(user);
            for certificate in &user.certificates {
                new.by_certificate.entry(certificate.clone()).or_insert_with(|| Arc::clone(&user));
            }
            if let Some(principal) = &user.principal {
                new.by_principal.entry(principal.clone()).or_insert_with(|| Arc::clone(&user));
            }
            new.by_name.insert(names::fold(&user.name), user);
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::NewUser;
    use standin_cim::Role;

    fn alice() -> NewUser {
        NewUser {
            name: "alice".to_owned(),
            role: Role::Viewer,
            password: Some("secret".to_owned()),
            ntlm: false,
            certificates: vec!["CN=alice".to_owned()],
            principal: Some("alice@EXAMPLE.ORG".to_owned()),
        }
    }

    fn scratch() -> (tempfile::TempDir, UsersFile, Directory) {
        let dir = tempfile::tempdir().unwrap();
        let file = UsersFile::new(dir.path().join("users.toml"));
        file.add(alice()).unwrap();
        let directory = Directory::open(file.clone()).unwrap();
        (dir, file, directory)
    }

    #[tokio::test]
    async fn a_password_is_computed_once_and_then_recalled() {
        let (_dir, _file, directory) = scratch();
        assert!(directory.recall("alice", "secret").is_none());
        assert!(directory.check("HOST\\ALICE", "secret").await.unwrap().is_some());
        assert!(directory.recall("HOST\\ALICE", "secret").is_some());
        assert!(directory.recall("alice", "Secret").is_none());
        assert!(directory.recall("HOST\\ALICEs", "ecret").is_none());
    }

    #[tokio::test]
    async fn a_wrong_password_and_an_unknown_user_are_nobody_and_not_remembered() {
        let (_dir, _file, directory) = scratch();
        for (name, password) in [("alice", "Secret"), ("bob", "secret"), ("", "")] {
            assert!(directory.check(name, password).await.unwrap().is_none(), "{name}");
            assert!(directory.recall(name, password).is_none());
        }
    }

    #[tokio::test]
    async fn what_was_remembered_ends_when_the_file_changes() {
        let (_dir, file, directory) = scratch();
        let known = directory.check("alice", "secret").await.unwrap().unwrap();
        assert!(directory.still(&known).is_some());
        file.set_password("alice", "other", None).unwrap();
        directory.reload();
        assert!(directory.recall("alice", "secret").is_none());
        assert!(directory.still(&known).is_none());
        assert!(directory.check("alice", "secret").await.unwrap().is_none());
        assert!(directory.check("alice", "other").await.unwrap().is_some());
        file.remove("alice").unwrap();
        directory.reload();
        assert!(directory.by_name("alice").is_none());
    }

    #[tokio::test]
    async fn who_was_added_a_moment_ago_is_known_at_once() {
        let (_dir, file, directory) = scratch();
        assert!(directory.by_name("alice").is_some());
        let bob = |name: &str| NewUser {
            name: name.to_owned(),
            certificates: vec![format!("CN={name}")],
            principal: Some(format!("{name}@EXAMPLE.ORG")),
            ..alice()
        };
        file.add(bob("bob")).unwrap();
        assert!(directory.by_name("bob").is_some());
        file.add(bob("carol")).unwrap();
        assert!(directory.by_principal("carol@EXAMPLE.ORG").is_some());
        file.add(bob("dave")).unwrap();
        assert!(directory.by_certificate(&[CertificateMatch::Subject("CN=dave".to_owned())]).is_some());
        file.set_password("alice", "other", None).unwrap();
        assert!(directory.check("alice", "secret").await.unwrap().is_none());
        assert!(directory.check("alice", "other").await.unwrap().is_some());
    }

    #[test]
    fn a_file_that_became_unusable_leaves_the_users_as_they_were() {
        let (_dir, file, directory) = scratch();
        std::fs::write(file.path(), "version = ").unwrap();
        directory.reload();
        assert!(directory.by_name("alice").is_some());
    }

    #[test]
    fn a_user_is_found_by_certificate_and_by_principal() {
        let (_dir, _file, directory) = scratch();
        let subject = CertificateMatch::Subject("CN=alice".to_owned());
        assert!(directory.by_certificate(&[subject]).is_some());
        assert!(directory.by_certificate(&[CertificateMatch::Subject("CN=bob".to_owned())]).is_none());
        assert!(directory.by_principal("alice@EXAMPLE.ORG").is_some());
        assert!(directory.by_principal("alice@example.org").is_none());
    }
}

//! The users' file: TOML, for the daemon's own user only (mode 0600), replaced as a whole.
//!
//! ```toml
//! version = 1
//!
//! [[user]]
//! name = "alice"
//! role = "administrator"
//! password = "$argon2id$v=19$..."
//! nt_hash = "..."                       # only when NTLM was asked for
//! certificates = ["<SHA-256>", "CN=alice, O=Example"]
//! principal = "alice@EXAMPLE.ORG"
//! ```
//!
//! Written by `standin user`, under a lock beside it, so that two commands at once lose nothing; read by
//! [`super::Directory`].

use super::hash::{HashError, PasswordHash};
use super::{CertificateMatch, User, names, parse_role};
use crate::auth::ntlm::NtHash;
use serde::{Deserialize, Serialize};
use standin_cim::Role;
use standin_durable::{FileError, FileLock, Files, Mode};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The longest file that is read.
const MAX_FILE: u64 = 4 << 20;
/// The most users.
pub const MAX_USERS: usize = 4096;
/// The most certificates of one user.
const MAX_CERTIFICATES: usize = 16;

/// Why the users could not be read or changed.
#[derive(Debug, Error)]
pub enum UsersError {
    /// The system refused.
    #[error("{what} {path}: {source}")]
    Io {
        /// Verb and object.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others than its owner can read or change the file.
    #[error(
        "the users' file {path} has mode {mode:o}, so others could read hashes or add users; run chmod 600 {path}"
    )]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file says something that cannot be.
    #[error("the users' file {path}: {reason}; correct it, or remove and add the user again")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What is wrong with what.
        reason: String,
    },
    /// There is a user of that name.
    #[error(
        "the user {0} is there already; change his password with `standin user passwd`, or remove him first"
    )]
    Exists(String),
    /// There is no user of that name.
    #[error("there is no user {0}; `standin user list` shows all")]
    Unknown(String),
    /// A name nobody can have.
    #[error(
        "{0:?} cannot be a user's name: 1 to 64 letters, digits, `.`, `-`, `_`, beginning with a letter or digit"
    )]
    Name(String),
    /// What was given for the user cannot be used.
    #[error("{0}")]
    Refused(String),
    /// The password cannot be used.
    #[error(transparent)]
    Password(#[from] HashError),
}

impl From<FileError> for UsersError {
    fn from(error: FileError) -> Self {
        Self::Io { what: error.verb, path: error.path, source: error.source }
    }
}

/// What a new user is made of.
#[derive(Clone)]
pub struct NewUser {
    /// His name.
    pub name: String,
    /// What he may do.
    pub role: Role,
    /// His password; `None` for one who comes by certificate or Kerberos only.
    pub password: Option<String>,
    /// Keep the hash that NTLM needs as well.
    pub ntlm: bool,
    /// Fingerprints or subjects of his certificates.
    pub certificates: Vec<String>,
    /// His Kerberos principal.
    pub principal: Option<String>,
}

impl std::fmt::Debug for NewUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewUser").field("name", &self.name).field("role", &self.role).finish_non_exhaustive()
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    #[serde(default, rename = "user", skip_serializing_if = "Vec::is_empty")]
    users: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    role: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nt_hash: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    certificates: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    principal: Option<String>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What tells one content of the file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// The file.
#[derive(Debug, Clone)]
pub struct UsersFile {
    path: PathBuf,
}

impl UsersFile {
    /// A file, which need not exist yet: then there are no users.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All users, in the order they were added.
    ///
    /// # Errors
    /// [`UsersError::Io`], [`UsersError::Mode`], [`UsersError::Invalid`].
    pub fn list(&self) -> Result<Vec<User>, UsersError> {
        Ok(self.read()?.1)
    }

    /// Adds a user.
    ///
    /// # Errors
    /// As [`UsersFile::list`], and what is wrong with the user.
    pub fn add(&self, new: NewUser) -> Result<User, UsersError> {
        if !names::is_valid(&new.name) {
            return Err(UsersError::Name(new.name));
        }
        let user = user_of(new)?;
        self.change(|users| {
            if users.iter().any(|other| names::fold(&other.name) == names::fold(&user.name)) {
                return Err(UsersError::Exists(user.name.to_string()));
            }
            if users.len() >= MAX_USERS {
                return Err(UsersError::Refused(format!("there are {MAX_USERS} users; remove some first")));
            }
            users.push(user.clone());
            Ok(user)
        })
    }

    /// Removes a user. Connections of his end with their next request.
    ///
    /// # Errors
    /// As [`UsersFile::list`]; [`UsersError::Unknown`].
    pub fn remove(&self, name: &str) -> Result<User, UsersError> {
        self.change(|users| {
            let at = position(users, name)?;
            Ok(users.remove(at))
        })
    }

    /// Gives a user another password. `ntlm` says whether the hash for NTLM is kept; `None` leaves that as it is.
    ///
    /// # Errors
    /// As [`UsersFile::list`]; [`UsersError::Unknown`], [`UsersError::Password`].
    pub fn set_password(&self, name: &str, password: &str, ntlm: Option<bool>) -> Result<User, UsersError> {
        let hash = PasswordHash::of(password)?;
        self.change(|users| {
            let at = position(users, name)?;
            let user = &mut users[at];
            user.password = Some(hash);
            user.nt_hash = ntlm.unwrap_or(user.nt_hash.is_some()).then(|| NtHash::of(password));
            Ok(user.clone())
        })
    }

    fn change<T>(&self, edit: impl FnOnce(&mut Vec<User>) -> Result<T, UsersError>) -> Result<T, UsersError> {
        let mut lock = self.path.as_os_str().to_owned();
        lock.push(".lock");
        let _lock = FileLock::wait(Path::new(&lock))?;
        let (_, mut users) = self.read()?;
        let result = edit(&mut users)?;
        self.write(&users)?;
        Ok(result)
    }

    /// What the file is now; `None` when there is none.
    pub(super) fn stamp(&self) -> Result<Option<Stamp>, UsersError> {
        match std::fs::metadata(&self.path) {
            Ok(meta) => Ok(Some(stamp_of(&meta))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io("look at", &self.path)(error)),
        }
    }

    pub(super) fn read(&self) -> Result<(Option<Stamp>, Vec<User>), UsersError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((None, Vec::new())),
            Err(error) => return Err(io("open", &self.path)(error)),
        };
        let meta = file.metadata().map_err(io("look at", &self.path))?;
        if meta.mode() & 0o077 != 0 {
            return Err(UsersError::Mode { path: self.path.clone(), mode: meta.mode() & 0o777 });
        }
        let mut text = String::new();
        let read = file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(io("read", &self.path))?;
        if read as u64 > MAX_FILE {
            return Err(self.invalid(format!("it is longer than {MAX_FILE} bytes")));
        }
        Ok((Some(stamp_of(&meta)), self.parse(&text)?))
    }

    fn parse(&self, text: &str) -> Result<Vec<User>, UsersError> {
        // Only the message: the excerpt that the full error prints could hold a hash.
        let document: Document =
            toml::from_str(text).map_err(|error| self.invalid(error.message().to_owned()))?;
        if document.version != 1 {
            return Err(self.invalid(format!("version {} is not known; this is version 1", document.version)));
        }
        if document.users.len() > MAX_USERS {
            return Err(self.invalid(format!("it has more than {MAX_USERS} users")));
        }
        let mut users: Vec<User> = Vec::with_capacity(document.users.len());
        let mut taken = std::collections::HashSet::new();
        for entry in document.users {
            let name = entry.name.clone();
            let user =
                entry.into_user().map_err(|reason| self.invalid(format!("the user {name:?}: {reason}")))?;
            if !taken.insert(names::fold(&user.name)) {
                return Err(self.invalid(format!("the user {name:?} is there twice")));
            }
            users.push(user);
        }
        Ok(users)
    }

    fn write(&self, users: &[User]) -> Result<(), UsersError> {
        let document = Document { version: 1, users: users.iter().map(Entry::of).collect() };
        let text = toml::to_string(&document).map_err(|error| self.invalid(error.to_string()))?;
        let text = format!("# The users of the management API. Change it with `standin user`.\n{text}");
        Ok(Files::default().replace(&self.path, text.as_bytes(), Mode::Owner)?)
    }

    fn invalid(&self, reason: String) -> UsersError {
        UsersError::Invalid { path: self.path.clone(), reason }
    }
}

impl Entry {
    fn of(user: &User) -> Self {
        Self {
            name: user.name.to_string(),
            role: user.role.as_str().to_owned(),
            password: user.password.as_ref().map(PasswordHash::to_phc),
            nt_hash: user.nt_hash.as_ref().map(NtHash::to_hex),
            certificates: user.certificates.iter().map(ToString::to_string).collect(),
            principal: user.principal.clone(),
        }
    }

    fn into_user(self) -> Result<User, String> {
        if !names::is_valid(&self.name) {
            return Err("nobody can be called so".to_owned());
        }
        let role = parse_role(&self.role)
            .ok_or_else(|| format!("the role {:?} is none of viewer, operator, administrator", self.role))?;
        let password = self.password.as_deref().map(PasswordHash::parse).transpose();
        let password = password.map_err(|error| format!("its password: {error}"))?;
        let nt_hash =
            self.nt_hash.as_deref().map(|text| NtHash::parse(text).ok_or("its nt_hash is not 32 digits"));
        let certificates = self.certificates.iter().map(String::as_str);
        Ok(User {
            name: self.name.into(),
            role,
            password,
            nt_hash: nt_hash.transpose()?,
            certificates: parse_certificates(certificates)?,
            principal: self.principal.map(checked_principal).transpose()?,
        })
    }
}

fn user_of(new: NewUser) -> Result<User, UsersError> {
    let password = new.password.as_deref();
    if password.is_none() && new.certificates.is_empty() && new.principal.is_none() {
        return Err(UsersError::Refused(
            "a user without a password needs a certificate or a principal".to_owned(),
        ));
    }
    if new.ntlm && password.is_none() {
        return Err(UsersError::Refused("NTLM needs a password".to_owned()));
    }
    let nt_hash = password.filter(|_| new.ntlm).map(NtHash::of);
    let certificates = parse_certificates(new.certificates.iter().map(String::as_str));
    Ok(User {
        password: password.map(PasswordHash::of).transpose()?,
        name: new.name.into(),
        role: new.role,
        nt_hash,
        certificates: certificates.map_err(UsersError::Refused)?,
        principal: new.principal.map(checked_principal).transpose().map_err(UsersError::Refused)?,
    })
}

fn parse_certificates<'t>(texts: impl Iterator<Item = &'t str>) -> Result<Vec<CertificateMatch>, String> {
    let parsed: Result<Vec<_>, String> = texts
        .take(MAX_CERTIFICATES + 1)
        .map(|text| {
            CertificateMatch::parse(text).ok_or_else(|| {
                format!(
                    "{text:?} is neither the SHA-256 of a certificate nor a subject as CN=alice, O=Example"
                )
            })
        })
        .collect();
    match parsed {
        Ok(list) if list.len() > MAX_CERTIFICATES => {
            Err(format!("a user has at most {MAX_CERTIFICATES} certificates"))
        }
        parsed => parsed,
    }
}

fn checked_principal(text: String) -> Result<String, String> {
    let whole = text.len() <= 256 && !text.chars().any(|c| c.is_whitespace() || c.is_control());
    let realm = text.rsplit_once('@').is_some_and(|(name, realm)| !name.is_empty() && !realm.is_empty());
    if whole && realm {
        Ok(text)
    } else {
        Err(format!("{text:?} is no Kerberos principal as alice@EXAMPLE.ORG"))
    }
}

fn position(users: &[User], name: &str) -> Result<usize, UsersError> {
    let folded = names::fold(name);
    let at = users.iter().position(|user| names::fold(&user.name) == folded);
    at.ok_or_else(|| UsersError::Unknown(name.to_owned()))
}

fn stamp_of(meta: &std::fs::Metadata) -> Stamp {
    Stamp { inode: meta.ino(), size: meta.size(), changed: (meta.ctime(), meta.ctime_nsec()) }
}

fn io<'p>(what: &'static str, path: &'p Path) -> impl Fn(std::io::Error) -> UsersError + use<'p> {
    move |source| UsersError::Io { what, path: path.to_path_buf(), source }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;

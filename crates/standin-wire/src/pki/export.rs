//! The authority as one encrypted file, so that another host can become it when the only one is gone.
//!
//! ```text
//! JSON   kind, version, fingerprint, made_at          for people
//!        salt, memory_kib, passes, nonce              how the key comes from the passphrase
//!        sealed                                       base64: the certificates and the key
//! ```
//!
//! The key is Argon2id of the passphrase, the cipher is AES-256-GCM, and what is not secret is authenticated with it. What
//! waits of tokens is not in it: tokens lead to the old host. Nothing of the file is taken before all of it was opened and
//! fits together.

use crate::pki::{Authority, HOST_DAYS, PkiDir, PkiError, Summary, check_names};
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a file of this kind says that it is.
const KIND: &str = "standin authority";
const VERSION: u32 = 1;
/// Largest file that is read.
pub const MAX_EXPORT: usize = 1 << 20;
/// What one guess of the passphrase costs: 256 MiB, three times.
const MEMORY_KIB: u32 = 256 << 10;
const PASSES: u32 = 3;
/// What a file may ask for.
const MOST_MEMORY_KIB: u32 = 1 << 20;
const MOST_PASSES: u32 = 32;
/// A passphrase below this is no protection for a file that is kept for years.
const MIN_PASSPHRASE: usize = 12;

/// What is not secret. It is authenticated as it is serialized, so the order of the fields is part of the format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    kind: String,
    version: u32,
    /// SHA-256 of the authority's certificate.
    fingerprint: String,
    made_at: Timestamp,
    memory_kib: u32,
    passes: u32,
    salt: String,
    nonce: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    header: Header,
    sealed: String,
}

/// The secret part: files of the directory, by their names there.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Secrets {
    key: String,
    certificate: String,
    former: String,
    cross: String,
    trusted: String,
}

impl PkiDir {
    /// This host's authority, encrypted with a passphrase: everything that another host needs to become it.
    ///
    /// # Errors
    /// [`PkiError::NoAuthority`]; [`PkiError::Passphrase`] for one that is too short.
    pub fn export(&self, passphrase: &str) -> Result<String, PkiError> {
        let authority = self.authority()?;
        if passphrase.chars().count() < MIN_PASSPHRASE {
            return Err(PkiError::Passphrase { reason: "it has fewer than 12 characters" });
        }
        let secrets = Secrets {
            key: self.read("ca.key")?,
            certificate: authority.certificate().to_owned(),
            former: self.read_if_there("former.crt")?,
            cross: authority.cross().to_owned(),
            trusted: self.read("trusted.crt")?,
        };
        let (salt, nonce): ([u8; 16], [u8; 12]) = (rand::random(), rand::random());
        let header = Header {
            kind: KIND.to_owned(),
            version: VERSION,
            fingerprint: authority.fingerprint(),
            made_at: Timestamp::now(),
            memory_kib: MEMORY_KIB,
            passes: PASSES,
            salt: STANDARD.encode(salt),
            nonce: STANDARD.encode(nonce),
        };
        let mut data = to_json(&secrets)?;
        cipher(&header, passphrase)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(to_json(&header)?),
                &mut data,
            )
            .map_err(|_| PkiError::unusable("the export", "it cannot be encrypted"))?;
        let file = File { header, sealed: STANDARD.encode(data) };
        let text = serde_json::to_string_pretty(&file);
        text.map(|text| text + "\n").map_err(|error| PkiError::unusable("the export", error))
    }

    /// Makes this host the authority that a file holds. It gets a fresh certificate from it, for the names that it has, or
    /// for `names` where it has none.
    ///
    /// # Errors
    /// [`PkiError::Passphrase`] when the file does not open with it; [`PkiError::Exists`] when this host has another
    /// authority and `force` is not given; [`PkiError::Unusable`] for what is no such file. Nothing has changed then.
    pub fn import(
        &self,
        text: &str,
        passphrase: &str,
        names: &[String],
        force: bool,
    ) -> Result<Summary, PkiError> {
        let secrets = open(text, passphrase)?;
        let authority = Authority::read(&secrets.certificate, &secrets.key, secrets.cross.clone())?;
        super::dir::check_certificates(&secrets.trusted, "the trusted authorities of the export")?;
        let names = match self.summary() {
            Ok(summary) => check_names(&summary.names)?,
            Err(_) => check_names(names)?,
        };
        let own = self.file("ca.key");
        if self.has_authority()
            && !force
            && self.authority().map(|own| own.fingerprint()).ok() != Some(authority.fingerprint())
        {
            return Err(PkiError::Exists { path: own });
        }
        let issued = authority.issue(&names, HOST_DAYS)?;
        self.become_authority(&authority, secrets.key, &secrets.former, &secrets.trusted, &issued)
    }
}

fn open(text: &str, passphrase: &str) -> Result<Secrets, PkiError> {
    let wrong = |reason: &str| PkiError::unusable("the export", reason);
    if text.len() > MAX_EXPORT {
        return Err(wrong("it is larger than any export"));
    }
    let File { header, sealed } = serde_json::from_str(text)
        .map_err(|error| wrong(&format!("it is no export of an authority: {error}")))?;
    if header.kind != KIND || header.version != VERSION {
        return Err(wrong("it is of another kind or of a newer version"));
    }
    let decoded = |text: &str| STANDARD.decode(text).map_err(|_| wrong("it is damaged"));
    let nonce =
        Nonce::try_assume_unique_for_key(&decoded(&header.nonce)?).map_err(|_| wrong("it is damaged"))?;
    let mut data = decoded(&sealed)?;
    let plain = cipher(&header, passphrase)?
        .open_in_place(nonce, Aad::from(to_json(&header)?), &mut data)
        .map_err(|_| PkiError::Passphrase { reason: "the export does not open with it, or is damaged" })?;
    serde_json::from_slice(plain).map_err(|_| wrong("what it holds is not understood"))
}

fn cipher(header: &Header, passphrase: &str) -> Result<LessSafeKey, PkiError> {
    let wrong = |reason: String| PkiError::unusable("the export", reason);
    if !(8..=MOST_MEMORY_KIB).contains(&header.memory_kib) || !(1..=MOST_PASSES).contains(&header.passes) {
        return Err(wrong("it asks for an impossible amount of work".to_owned()));
    }
    let salt = STANDARD.decode(&header.salt).map_err(|_| wrong("it is damaged".to_owned()))?;
    let refused = |error: argon2::Error| wrong(error.to_string());
    let mut key = [0; 32];
    let params = Params::new(header.memory_kib, header.passes, 1, Some(key.len())).map_err(refused)?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), &salt, &mut key)
        .map_err(refused)?;
    UnboundKey::new(&AES_256_GCM, &key).map(LessSafeKey::new).map_err(|_| wrong("no cipher".to_owned()))
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>, PkiError> {
    serde_json::to_vec(value).map_err(|error| PkiError::unusable("the export", error))
}

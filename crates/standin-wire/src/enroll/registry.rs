//! The tokens that wait on the signing host, in `enrolments.json` of its directory.
//!
//! The file is read anew for every request and replaced as a whole under the directory's lock, so the command
//! line and the daemon can both use it. It holds keys derived from the secrets, mode 0600: whoever can read it
//! can read `ca.key` beside it too.

use crate::enroll::token::{from_hex, hex, proof};
use crate::enroll::{Denied, EnrollError, Token};
use crate::pki::{CertificateName, PkiDir, PkiError, check_names};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use standin_durable::{Content, Document, Upgrade};
use std::time::Duration;

/// Wrong proofs after which a token is void.
pub const MAX_TRIES: u32 = 5;
/// How long a token that is used or expired stays on file, so that "used" can be told from "unknown".
const REMEMBER: Duration = Duration::from_secs(7 * 24 * 3600);
const FILE: &str = "enrolments.json";

/// What is in the file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tokens {
    tokens: Vec<Entry>,
}

impl Content for Tokens {
    const KIND: &'static str = "enrolments";
    const VERSION: u32 = 1;
    const IF_LOST: &'static str = "move it elsewhere and make new tokens with `standin enroll --new`";
    const LIMIT: u64 = 16 << 20;
    /// It was the same, with a number of its format in it.
    const WITHOUT_ENVELOPE: Option<Upgrade> = Some(|mut body| {
        let format = body.as_object_mut().and_then(|fields| fields.remove("format"));
        match format.and_then(|format| format.as_u64()) {
            Some(1) => Ok(body),
            _ => Err("its format is not 1".to_owned()),
        }
    });
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    /// Derived from the secret, hexadecimal.
    key: String,
    names: Vec<String>,
    expires_at: Timestamp,
    wrong_tries: u32,
    used_at: Option<Timestamp>,
}

/// The tokens of a signing host.
#[derive(Debug, Clone)]
pub struct Registry {
    dir: PkiDir,
}

impl Registry {
    /// The tokens in the directory of `dir`'s authority. Nothing is read yet.
    #[must_use]
    pub const fn new(dir: PkiDir) -> Self {
        Self { dir }
    }

    /// Makes a token for a host that will be called `names`, honoured for as long as `valid` says. `addresses` are
    /// where the new host reaches this one (`host:port`).
    ///
    /// # Errors
    /// [`PkiError::NoAuthority`] if this host cannot sign, [`PkiError::Name`], [`PkiError::Io`], or
    /// [`crate::enroll::TokenError`] for addresses that cannot be used.
    pub fn create(
        &self,
        names: &[String],
        addresses: &[String],
        valid: Duration,
        now: Timestamp,
    ) -> Result<Token, EnrollError> {
        let names: Vec<String> = check_names(names)?.iter().map(ToString::to_string).collect();
        self.dir.authority()?;
        let own = self.dir.summary()?.names;
        let host = own.first().map_or("", String::as_str);
        let token = Token::create(&self.dir.presented_authority()?, host, addresses)?;
        let expires_at = now.checked_add(valid).unwrap_or(Timestamp::MAX);
        self.change(now, |tokens| {
            let key = hex(&token.key());
            tokens.push(Entry { id: token.id(), key, names, expires_at, wrong_tries: 0, used_at: None });
            Ok(())
        })?;
        Ok(token)
    }

    /// Decides over a request and, if it is granted, marks the token used. What is returned is durable.
    pub(super) fn redeem(
        &self,
        id: &str,
        names: &[String],
        request: &[u8],
        claimed: &str,
        now: Timestamp,
    ) -> Result<Vec<CertificateName>, EnrollError> {
        let mut decision = Err(Denied::Unknown);
        self.change(now, |tokens| {
            if let Some(entry) = tokens.iter_mut().find(|entry| entry.id == id) {
                decision = entry.decide(names, request, claimed, now);
            }
            Ok(())
        })?;
        let granted = decision?;
        Ok(check_names(&granted)?)
    }

    fn change(
        &self,
        now: Timestamp,
        work: impl FnOnce(&mut Vec<Entry>) -> Result<(), EnrollError>,
    ) -> Result<(), EnrollError> {
        let _lock = self.dir.make_and_lock()?;
        let path = self.dir.file(FILE);
        let document = Document::<Tokens>::open(self.dir.files().clone(), path).map_err(PkiError::from)?;
        let mut tokens = document.read().map_err(PkiError::from)?.unwrap_or_default().tokens;
        let forgotten = now.checked_sub(REMEMBER).unwrap_or(Timestamp::MIN);
        tokens.retain(|entry| entry.expires_at > forgotten);
        work(&mut tokens)?;
        Ok(document.write(&Tokens { tokens }).map_err(PkiError::from)?)
    }
}

impl Entry {
    /// The state of a token is told only to whoever proves to have it. The proof is compared in constant time.
    fn decide(
        &mut self,
        names: &[String],
        request: &[u8],
        claimed: &str,
        now: Timestamp,
    ) -> Result<Vec<String>, Denied> {
        if self.wrong_tries >= MAX_TRIES {
            return Err(Denied::Void);
        }
        let (Some(key), Some(claimed)) = (from_hex::<32>(&self.key), from_hex::<32>(claimed)) else {
            self.wrong_tries += 1;
            return Err(Denied::Unknown);
        };
        // `Hash == Hash` compares in constant time.
        if proof(&key, &self.id, names, request) != blake3::Hash::from_bytes(claimed) {
            self.wrong_tries += 1;
            return Err(Denied::Unknown);
        }
        if self.used_at.is_some() {
            return Err(Denied::Used);
        }
        if now >= self.expires_at {
            return Err(Denied::Expired);
        }
        if let Some(asked) = names.iter().find(|name| !self.names.contains(name)) {
            return Err(Denied::Names {
                allowed: self.names.join(", "),
                asked: asked.chars().take(64).collect(),
            });
        }
        self.used_at = Some(now);
        Ok(if names.is_empty() { self.names.clone() } else { names.to_vec() })
    }
}

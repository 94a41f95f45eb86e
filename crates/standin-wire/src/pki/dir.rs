//! The directory with an authority's and a host's files. See the picture in [`crate::pki`].

use crate::error::Error;
use crate::pki::authority::{Authority, Issued};
use crate::pki::names::{CertificateName, check_names};
use crate::pki::{HOST_DAYS, PkiError};
use crate::tls::{CertificateFacts, Identity, IdentityFiles, provider, server_config};
use jiff::Timestamp;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use standin_durable::{FileLock, Files, Mode};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory of certificates and keys.
#[derive(Debug, Clone)]
pub struct PkiDir {
    path: PathBuf,
    files: Files,
}

/// What a host's certificate is now, to be shown to a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The names it is for, IP addresses among them.
    pub names: Vec<String>,
    /// SHA-256 of it in hexadecimal.
    pub fingerprint: String,
    /// When it expires.
    pub not_after: Timestamp,
    /// SHA-256 of the authority's certificate (ca.crt) in hexadecimal.
    pub authority: String,
}

impl PkiDir {
    /// A directory, which need not exist yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::over(Files::default(), path)
    }

    /// As [`PkiDir::new`], over another way to the file system.
    #[must_use]
    pub fn over(files: Files, path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), files }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The files of the host's identity.
    #[must_use]
    pub fn identity_files(&self) -> IdentityFiles {
        IdentityFiles {
            certificate: self.file("host.crt"),
            key: self.file("host.key"),
            trust: self.file("trusted.crt"),
        }
    }

    /// The host's identity, after an interrupted replacement was finished or undone.
    ///
    /// # Errors
    /// [`Error::Identity`] if a file is missing or cannot be used.
    pub fn identity(&self) -> Result<Identity, Error> {
        if self.path.is_dir() {
            self.recover().map_err(|error| Error::Identity { reason: error.to_string() })?;
        }
        Identity::with_provider(self.identity_files(), provider())
    }

    /// This host can issue certificates.
    #[must_use]
    pub fn has_authority(&self) -> bool {
        self.file("ca.key").exists()
    }

    /// This host's authority.
    ///
    /// # Errors
    /// [`PkiError::NoAuthority`] if it has none, or what is wrong with its files.
    pub fn authority(&self) -> Result<Authority, PkiError> {
        if !self.has_authority() {
            return Err(PkiError::NoAuthority { path: self.file("ca.key") });
        }
        Authority::read(&self.read("ca.crt")?, &self.read("ca.key")?, self.read_if_there("cross.crt")?)
    }

    /// What the host's certificate is now.
    ///
    /// # Errors
    /// [`PkiError::Io`] or [`PkiError::Unusable`] if there is none that can be read.
    pub fn summary(&self) -> Result<Summary, PkiError> {
        let facts = facts_of(&self.read("host.crt")?, "host.crt")?;
        let authority = facts_of(&self.read("ca.crt")?, "ca.crt")?;
        let names = facts.names.into_iter().filter(|name| !facts.addresses.contains(name));
        Ok(Summary {
            names: names.chain(facts.addresses.clone()).collect(),
            fingerprint: facts.fingerprint,
            not_after: facts.not_after,
            authority: authority.fingerprint,
        })
    }

    /// Makes an authority and a certificate for this host under `host_names`.
    ///
    /// # Errors
    /// [`PkiError::Exists`] if there is an authority or a certificate already and `force` is not given;
    /// [`PkiError::Name`], [`PkiError::Io`].
    pub fn init(&self, host_names: &[String], force: bool) -> Result<Summary, PkiError> {
        let names = check_names(host_names)?;
        let _lock = self.make_and_lock()?;
        let taken = ["ca.key", "ca.crt", "host.key", "host.crt"].map(|name| self.file(name));
        if let (false, Some(path)) = (force, taken.into_iter().find(|path| path.exists())) {
            return Err(PkiError::Exists { path });
        }
        for leftover in ["cross.crt", "former.crt"].map(|name| self.file(name)) {
            self.files.remove(&leftover)?;
        }
        let (authority, key) = Authority::generate(None)?;
        self.install("ca", &Issued { certificate: authority.certificate().to_owned(), key })?;
        self.publish("trusted.crt", authority.certificate())?;
        self.install("host", &authority.issue(&names, HOST_DAYS)?)?;
        self.summary()
    }

    /// Replaces the host's key and certificate by new ones for the same names, from this host's own authority.
    /// Connections that are up go on; [`Identity::reload`] takes the new ones for those to come.
    ///
    /// # Errors
    /// [`PkiError::NoAuthority`] on a host that enrolled elsewhere: it renews with [`crate::enroll::renew`].
    pub fn renew(&self) -> Result<Summary, PkiError> {
        let authority = self.authority()?;
        let names = check_names(&self.summary()?.names)?;
        let _lock = self.make_and_lock()?;
        self.install("host", &authority.issue(&names, HOST_DAYS)?)?;
        self.summary()
    }

    /// A key and a certificate for another host, for operators who carry files themselves.
    ///
    /// # Errors
    /// [`PkiError::Name`], [`PkiError::NoAuthority`].
    pub fn issue(&self, host_names: &[String], valid_days: u32) -> Result<Issued, PkiError> {
        let names: Vec<CertificateName> = check_names(host_names)?;
        self.authority()?.issue(&names, valid_days)
    }

    /// Makes a new authority beside the old one, which stays trusted. The old one signs the new one's key, and that
    /// goes with every certificate, so hosts that have not heard of the new authority accept them; they hear of it
    /// by renewing ([`crate::enroll::renew`]). When all have renewed, the old authority is removed from trusted.crt
    /// everywhere. Replication never pauses.
    ///
    /// # Errors
    /// [`PkiError::NoAuthority`], [`PkiError::Io`].
    pub fn rotate_authority(&self) -> Result<Summary, PkiError> {
        let names = check_names(&self.summary()?.names)?;
        let old = self.authority()?;
        let _lock = self.make_and_lock()?;
        let (authority, key) = Authority::generate(Some(&old))?;
        let trusted = format!("{}{}", authority.certificate(), self.read("trusted.crt")?);
        let former = format!("{}{}", old.certificate(), self.read_if_there("former.crt")?);
        self.publish("former.crt", &former)?;
        self.publish("trusted.crt", &trusted)?;
        // A crash before the next step leaves the old authority with the new one's cross certificate, which is of no
        // use to anybody and does no harm.
        self.publish("cross.crt", authority.cross())?;
        self.install("ca", &Issued { certificate: authority.certificate().to_owned(), key })?;
        self.install("host", &authority.issue(&names, HOST_DAYS)?)?;
        self.summary()
    }

    pub(crate) fn read_if_there(&self, name: &str) -> Result<String, PkiError> {
        if self.file(name).exists() { self.read(name) } else { Ok(String::new()) }
    }

    /// Every authority this directory has had.
    pub(crate) fn own_roots(&self) -> Result<RootCertStore, PkiError> {
        let pem = format!("{}{}", self.read("ca.crt")?, self.read_if_there("former.crt")?);
        roots_of(&certificates(&pem, "ca.crt")?, "ca.crt")
    }

    /// SHA-256 of the authority that this host's certificate is presented with: what a new host can pin.
    pub(crate) fn presented_authority(&self) -> Result<String, PkiError> {
        let chain = certificates(&self.read("host.crt")?, "host.crt")?;
        match chain.get(1..) {
            Some([.., authority]) => Ok(crate::tls::sha256_hex(authority)),
            _ => {
                Err(PkiError::unusable("host.crt", "the authority's certificate does not follow the host's"))
            }
        }
    }

    /// Trusts the authorities in `pem` beside those trusted already. Returns how many are new.
    ///
    /// # Errors
    /// [`PkiError::Unusable`] if there is none in it or one is not an authority.
    pub fn trust(&self, pem: &str) -> Result<usize, PkiError> {
        let _lock = self.make_and_lock()?;
        self.trust_locked(pem)
    }

    fn trust_locked(&self, pem: &str) -> Result<usize, PkiError> {
        let added = certificates(pem, "the authority to trust")?;
        roots_of(&added, "the authority to trust")?;
        let mut trusted =
            if self.file("trusted.crt").exists() { self.read("trusted.crt")? } else { String::new() };
        let known = if trusted.is_empty() { Vec::new() } else { certificates(&trusted, "trusted.crt")? };
        let mut fresh: Vec<_> = added.into_iter().filter(|der| !known.contains(der)).collect();
        fresh.dedup();
        for der in &fresh {
            trusted.push_str(&pem_of(der));
        }
        self.publish("trusted.crt", &trusted)?;
        Ok(fresh.len())
    }

    /// Finishes or undoes a replacement of a key and its certificate that was interrupted.
    ///
    /// # Errors
    /// [`PkiError::Io`].
    pub fn recover(&self) -> Result<(), PkiError> {
        let _lock = self.lock()?;
        self.files.recover_directory(&self.path)?;
        self.recover_locked("ca")?;
        self.recover_locked("host")
    }

    fn recover_locked(&self, pair: &str) -> Result<(), PkiError> {
        let (key, certificate) =
            (self.file(&format!("{pair}.key.new")), self.file(&format!("{pair}.crt.new")));
        if key.exists() {
            // The key was not renamed yet: the old pair is whole. The certificate goes first, because without
            // the key beside it it would count as one that has to be renamed.
            self.files.remove(&certificate)?;
            self.files.remove(&key)?;
        } else if certificate.exists() {
            self.files.rename_durably(&certificate, &self.file(&format!("{pair}.crt")))?;
        }
        Ok(())
    }

    /// Takes what an authority elsewhere issued for the key made here. Nothing is replaced unless certificate, key
    /// and authorities fit together.
    pub(crate) fn adopt(&self, issued: &Issued, authority: &str, trusted: &str) -> Result<Summary, PkiError> {
        let chain = certificates(&issued.certificate, "the issued certificate")?;
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes())
            .map_err(|error| PkiError::unusable("the new key", error))?;
        certificates(authority, "the authority")?;
        let roots = roots_of(&certificates(trusted, "the trusted authorities")?, "the trusted authorities")?;
        server_config(&provider(), &Arc::new(roots), chain, key)
            .map_err(|reason| PkiError::unusable("the issued certificate", reason))?;
        let _lock = self.make_and_lock()?;
        self.publish("trusted.crt", trusted)?;
        self.publish("ca.crt", authority)?;
        self.install("host", issued)?;
        self.summary()
    }

    /// Takes an authority that was another host's, and a certificate of it for this host. What this host trusted stays
    /// trusted.
    pub(crate) fn become_authority(
        &self,
        authority: &Authority,
        key: String,
        former: &str,
        trusted: &str,
        issued: &Issued,
    ) -> Result<Summary, PkiError> {
        let _lock = self.make_and_lock()?;
        self.trust_locked(&format!("{}{trusted}", authority.certificate()))?;
        if !former.is_empty() {
            self.publish("former.crt", former)?;
        }
        match authority.cross() {
            "" => self.files.remove(&self.file("cross.crt"))?,
            cross => self.publish("cross.crt", cross)?,
        }
        self.install("ca", &Issued { certificate: authority.certificate().to_owned(), key })?;
        self.install("host", issued)?;
        self.summary()
    }

    /// Reads a PEM file of the directory.
    pub(crate) fn read(&self, name: &str) -> Result<String, PkiError> {
        let path = self.file(name);
        std::fs::read_to_string(&path).map_err(PkiError::io("read", &path))
    }

    /// Makes the directory if need be, and waits until nobody else replaces files in it.
    pub(crate) fn make_and_lock(&self) -> Result<FileLock, PkiError> {
        self.files.make_directory(&self.path, Mode::Owner)?;
        self.lock()
    }

    fn lock(&self) -> Result<FileLock, PkiError> {
        Ok(FileLock::wait(&self.file("lock"))?)
    }

    /// Replaces a certificate file.
    fn publish(&self, name: &str, pem: &str) -> Result<(), PkiError> {
        Ok(self.files.replace(&self.file(name), pem.as_bytes(), Mode::Everybody)?)
    }

    /// The way to its files.
    pub(crate) const fn files(&self) -> &Files {
        &self.files
    }

    /// Replaces a key file.
    fn keep_secret(&self, name: &str, pem: &str) -> Result<(), PkiError> {
        Ok(self.files.replace(&self.file(name), pem.as_bytes(), Mode::Owner)?)
    }

    /// Replaces the key and the certificate of `pair` ("ca" or "host"); see [`PkiDir::recover`] for a crash in
    /// between.
    fn install(&self, pair: &str, issued: &Issued) -> Result<(), PkiError> {
        self.recover_locked(pair)?;
        let (key, certificate) = (format!("{pair}.key.new"), format!("{pair}.crt.new"));
        // Both are durable before the first name changes: after a loss of power the certificate must not be the
        // one that is missing.
        self.keep_secret(&key, &issued.key)?;
        self.publish(&certificate, &issued.certificate)?;
        self.files.rename_durably(&self.file(&key), &self.file(&format!("{pair}.key")))?;
        self.files.rename_durably(&self.file(&certificate), &self.file(&format!("{pair}.crt")))?;
        Ok(())
    }
}

/// Whether a text is certificates of authorities.
pub(super) fn check_certificates(pem: &str, what: &str) -> Result<(), PkiError> {
    roots_of(&certificates(pem, what)?, what).map(drop)
}

fn certificates(pem: &str, what: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| PkiError::unusable(what, error))?;
    if found.is_empty() { Err(PkiError::unusable(what, "there is no certificate in it")) } else { Ok(found) }
}

fn roots_of(certificates: &[CertificateDer<'static>], what: &str) -> Result<RootCertStore, PkiError> {
    let mut roots = RootCertStore::empty();
    for der in certificates {
        roots.add(der.clone()).map_err(|error| PkiError::unusable(what, error))?;
    }
    Ok(roots)
}

fn facts_of(pem: &str, what: &str) -> Result<CertificateFacts, PkiError> {
    let chain = certificates(pem, what)?;
    CertificateFacts::read(chain.first().map_or(&[][..], |leaf| leaf))
        .map_err(|reason| PkiError::unusable(what, reason))
}

fn pem_of(der: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        // Base64 is ASCII, so every cut is at a character.
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

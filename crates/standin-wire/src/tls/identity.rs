//! Who this host is: certificate, key, and the authorities it trusts, from PEM files that can be replaced while
//! connections live.
//!
//! [`Identity`] is cheap to clone and all clones see a [`Identity::reload`]. A connection keeps what it began
//! with; the next one takes the new files. If the new files cannot be used the old identity stays in force and
//! the error says why, so a rotation that went wrong does not stop replication.

use crate::error::Error;
use crate::tls::{
    ALPN_ENROLMENT, ALPN_REPLICATION, CertificateFacts, client_config, provider, server_config,
};
use jiff::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Where an identity is read from. All are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The host's certificate, followed by intermediate ones if there are any.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// One or more certificate authorities whose hosts are trusted.
    pub trust: PathBuf,
}

/// An identity as it was at one reading.
pub(crate) struct Loaded {
    pub server: Arc<ServerConfig>,
    pub client: Arc<ClientConfig>,
    /// A client that asks for its next certificate.
    pub renewal: Arc<ClientConfig>,
    pub facts: CertificateFacts,
}

/// The identity of this host.
#[derive(Clone)]
pub struct Identity {
    files: IdentityFiles,
    provider: Arc<CryptoProvider>,
    current: Arc<RwLock<Arc<Loaded>>>,
}

impl Identity {
    /// Reads an identity from PEM files, for example the operator's own.
    ///
    /// # Errors
    /// [`Error::Identity`], which names the file that is missing or cannot be used.
    pub fn from_files(
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        trust: impl Into<PathBuf>,
    ) -> Result<Self, Error> {
        let files = IdentityFiles { certificate: certificate.into(), key: key.into(), trust: trust.into() };
        Self::with_provider(files, provider())
    }

    pub(crate) fn with_provider(files: IdentityFiles, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let loaded = load(&files, &provider)?;
        Ok(Self { files, provider, current: Arc::new(RwLock::new(Arc::new(loaded))) })
    }

    /// Reads the files again. New connections use what they hold now; those that are up go on. Returns whether
    /// the certificate is another one.
    ///
    /// # Errors
    /// As [`Identity::from_files`]; the identity stays as it was.
    pub fn reload(&self) -> Result<bool, Error> {
        let loaded = Arc::new(load(&self.files, &self.provider)?);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let changed = current.facts.fingerprint != loaded.facts.fingerprint;
        *current = loaded;
        Ok(changed)
    }

    pub(crate) fn current(&self) -> Arc<Loaded> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where it is read from.
    #[must_use]
    pub const fn files(&self) -> &IdentityFiles {
        &self.files
    }

    /// The names in this host's certificate.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.current().facts.names.clone()
    }

    /// SHA-256 of this host's certificate in hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.current().facts.fingerprint.clone()
    }

    /// When this host's certificate expires.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.current().facts.not_after
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("files", &self.files).finish_non_exhaustive()
    }
}

fn unusable(path: &Path, reason: impl fmt::Display) -> Error {
    Error::Identity { reason: format!("{}: {reason}", path.display()) }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = std::fs::read(path).map_err(|error| unusable(path, error))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(path, format!("it is not PEM ({error})")))?;
    if certificates.is_empty() { Err(unusable(path, "it holds no certificate")) } else { Ok(certificates) }
}

fn load(files: &IdentityFiles, provider: &Arc<CryptoProvider>) -> Result<Loaded, Error> {
    let chain = read_certificates(&files.certificate)?;
    let key_text = std::fs::read(&files.key).map_err(|error| unusable(&files.key, error))?;
    let key = PrivateKeyDer::from_pem_slice(&key_text)
        .map_err(|error| unusable(&files.key, format!("it holds no private key ({error})")))?;
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(&files.trust)? {
        roots.add(certificate).map_err(|error| unusable(&files.trust, error))?;
    }
    let roots = Arc::new(roots);
    let facts = CertificateFacts::read(chain.first().map_or(&[][..], |leaf| leaf))
        .map_err(|reason| unusable(&files.certificate, reason))?;
    let client = |alpn| {
        client_config(provider, &roots, chain.clone(), key.clone_key(), alpn)
            .map(Arc::new)
            .map_err(|reason| unusable(&files.certificate, reason))
    };
    Ok(Loaded {
        client: client(ALPN_REPLICATION)?,
        renewal: client(ALPN_ENROLMENT)?,
        server: server_config(provider, &roots, chain.clone(), key.clone_key())
            .map(Arc::new)
            .map_err(|reason| unusable(&files.certificate, reason))?,
        facts,
    })
}

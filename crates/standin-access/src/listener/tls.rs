//! The server's certificate, and what is learnt of a client's.
//!
//! The files are looked at again when a connection comes and a minute has passed; connections that are up keep
//! what they began with. Files that cannot be used leave the certificate as it was, and the log says so.

use crate::auth::TlsFacts;
use crate::auth::certificate;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Where a server's identity is read from. All are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, followed by intermediate ones if there are any.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities of client certificates; without them no client is asked for one.
    pub client_trust: Option<PathBuf>,
}

/// Files that cannot be used.
#[derive(Debug, Error)]
#[error("the certificate for HTTPS cannot be used: {path}: {reason}")]
pub struct TlsError {
    path: PathBuf,
    reason: String,
}

struct Loaded {
    config: Arc<ServerConfig>,
    end_point: Option<Vec<u8>>,
}

/// The identity of a server. Shared by listeners.
pub struct TlsIdentity {
    files: TlsFiles,
    loaded: RwLock<Arc<Loaded>>,
    looked: Mutex<(Instant, Vec<Option<SystemTime>>)>,
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity").field("files", &self.files).finish_non_exhaustive()
    }
}

impl TlsIdentity {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`], which names the file.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let looked = Mutex::new((Instant::now(), stamps(&files)));
        let loaded = RwLock::new(Arc::new(read(&files)?));
        Ok(Self { files, loaded, looked })
    }

    /// Does the handshake.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> std::io::Result<(TlsStream<TcpStream>, TlsFacts)> {
        self.look();
        let loaded = Arc::clone(&self.loaded.read().unwrap_or_else(PoisonError::into_inner));
        let stream = TlsAcceptor::from(Arc::clone(&loaded.config)).accept(stream).await?;
        let client = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let certificate = client.map(|der| certificate::facts(der)).unwrap_or_default();
        Ok((stream, TlsFacts { end_point: loaded.end_point.clone(), certificate }))
    }

    fn look(&self) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.0.elapsed() < LOOK_EVERY {
            return;
        }
        let stamps = stamps(&self.files);
        let changed = stamps != looked.1;
        *looked = (Instant::now(), stamps);
        drop(looked);
        if changed {
            self.reload();
        }
    }

    /// Reads the files again. New connections use them.
    pub fn reload(&self) {
        match read(&self.files) {
            Ok(loaded) => {
                *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
                tracing::info!("the certificate of the management API was read again");
            }
            Err(error) => tracing::error!(%error, "the one in use stays"),
        }
    }
}

fn stamps(files: &TlsFiles) -> Vec<Option<SystemTime>> {
    let paths = [Some(&files.certificate), Some(&files.key), files.client_trust.as_ref()];
    let changed = |path: &PathBuf| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    paths.into_iter().map(|path| path.and_then(changed)).collect()
}

fn unusable(path: &Path, reason: impl fmt::Display) -> TlsError {
    TlsError { path: path.to_path_buf(), reason: reason.to_string() }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = std::fs::read(path).map_err(|error| unusable(path, error))?;
    let list = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let list = list.map_err(|error| unusable(path, format!("it is not PEM ({error})")))?;
    if list.is_empty() { Err(unusable(path, "it holds no certificate")) } else { Ok(list) }
}

fn read(files: &TlsFiles) -> Result<Loaded, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = certificates(&files.certificate)?;
    let key = std::fs::read(&files.key).map_err(|error| unusable(&files.key, error))?;
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|error| unusable(&files.key, format!("it holds no private key ({error})")))?;
    let end_point = chain.first().and_then(|leaf| certificate::end_point(leaf));
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&files.certificate, error))?;
    let builder = match &files.client_trust {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(|error| unusable(path, error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| unusable(path, error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config =
        builder.with_single_cert(chain, key).map_err(|error| unusable(&files.certificate, error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Loaded { config: Arc::new(config), end_point })
}

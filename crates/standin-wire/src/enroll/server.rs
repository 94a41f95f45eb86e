//! The side that signs.

use crate::enroll::{Answer, Ask, Denied, EnrollError, Registry};
use crate::error::Error;
use crate::frame::Frame;
use crate::link::{Ends, Settings};
use crate::pki::{CertificateName, HOST_DAYS, PkiDir, PkiError, check_names};
use crate::tls::{CertificateFacts, PeerIdentity, provider};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a refused host may take to read why.
const READ_WITHIN: Duration = Duration::from_secs(2);

/// A host that wants a certificate. It may be anybody: TLS has verified its certificate only if it presented one.
pub struct Session {
    ends: Ends,
    peer: Option<PeerIdentity>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("address", &self.address())
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) const fn new(ends: Ends, peer: Option<PeerIdentity>) -> Self {
        Self { ends, peer }
    }

    /// Where it comes from.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.ends.address()
    }

    /// Tells it why it gets nothing.
    pub async fn refuse(self, reason: &str) {
        self.ends.refuse(reason).await;
    }
}

/// What was issued, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whether it was the next certificate of a host that had one.
    pub renewed: bool,
    /// The names it is for.
    pub names: Vec<String>,
    /// SHA-256 of it in hexadecimal.
    pub fingerprint: String,
    /// When it expires.
    pub not_after: Timestamp,
    /// Who asked.
    pub address: SocketAddr,
}

/// Serves a host that wants a certificate: reads its request, decides, signs. Bounded in time and size.
///
/// # Errors
/// [`EnrollError::Denied`] if the request was not granted (the host was told), [`EnrollError::Pki`] if this host
/// cannot sign, [`EnrollError::Wire`] if the connection failed.
pub async fn serve(session: Session, dir: &PkiDir) -> Result<Report, EnrollError> {
    let Session { mut ends, peer } = session;
    let address = ends.address();
    let after = Settings::default().handshake_timeout;
    let slow = Error::Slow { what: "the request of a host that wants a certificate", after };
    let ask: Ask = match tokio::time::timeout(after, ends.receiver.next()).await.unwrap_or(Err(slow))? {
        Some(Frame::Control(ask)) => ask.parse()?,
        _ => return Err(Error::Frame { reason: "it asks for nothing".to_owned() }.into()),
    };
    let chain = if peer.is_some() { ends.chain().to_vec() } else { Vec::new() };
    let dir = dir.clone();
    let deciding = tokio::task::spawn_blocking(move || decide(&dir, &ask, &chain, Timestamp::now()));
    let decided = deciding.await.map_err(|error| PkiError::unusable("the request", error))?;
    let (renewed, answer) = match decided {
        Ok(granted) => granted,
        Err(error) => {
            ends.refuse(&sentence(&error)).await;
            return Err(error);
        }
    };
    let facts = first_facts(&answer.certificate)?;
    ends.sender.control(&answer).await?;
    // The goodbye of the other side says that it has the certificate; without it the answer is on its way anyway.
    if !matches!(tokio::time::timeout(READ_WITHIN, ends.receiver.next()).await, Ok(Ok(None))) {
        tracing::warn!(%address, "the host did not confirm that it has its certificate");
    }
    let CertificateFacts { names, fingerprint, not_after, .. } = facts;
    Ok(Report { renewed, names, fingerprint, not_after, address })
}

/// What the other host is told. Paths and errors of this host are not its business.
fn sentence(error: &EnrollError) -> String {
    match error {
        EnrollError::Denied(denied) => denied.to_string(),
        EnrollError::Pki(PkiError::NoAuthority { .. }) => {
            "this host has no certificate authority; ask the one that ran `standin pki init`".to_owned()
        }
        EnrollError::Pki(_) | EnrollError::Wire(_) | EnrollError::Token(_) => {
            "the request could not be handled; the log of this host says why".to_owned()
        }
    }
}

fn decide(
    dir: &PkiDir,
    ask: &Ask,
    chain: &[CertificateDer<'static>],
    now: Timestamp,
) -> Result<(bool, Answer), EnrollError> {
    let authority = dir.authority()?;
    let (renewed, request, names) = match ask {
        Ask::Enrol { id, names, request, proof } => {
            let request = decode(request)?;
            let names = Registry::new(dir.clone()).redeem(id, names, &request, proof, now)?;
            (false, request, names)
        }
        Ask::Renew { request } => (true, decode(request)?, names_to_renew(dir, chain)?),
    };
    let certificate = authority.sign(&request, &names, HOST_DAYS)?;
    let trusted = dir.read("trusted.crt")?;
    Ok((renewed, Answer { certificate, authority: authority.certificate().to_owned(), trusted }))
}

fn decode(request: &str) -> Result<Vec<u8>, EnrollError> {
    STANDARD.decode(request).map_err(|error| {
        Error::Frame { reason: format!("a certificate request is no base64: {error}") }.into()
    })
}

/// The names of the certificate that the host presented, if it is one that this host would honour.
///
/// TLS has verified it against every trusted authority, and an authority that is trusted for replication may be
/// somebody else's: it must not get certificates of ours for names it chose. So it is verified again against the
/// authorities that this directory has had.
fn names_to_renew(
    dir: &PkiDir,
    chain: &[CertificateDer<'static>],
) -> Result<Vec<CertificateName>, EnrollError> {
    let Some((leaf, intermediates)) = chain.split_first() else { return Err(Denied::NoCertificate.into()) };
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(dir.own_roots()?), provider())
        .build()
        .map_err(|error| PkiError::unusable("ca.crt", error))?;
    if verifier.verify_client_cert(leaf, intermediates, UnixTime::now()).is_err() {
        return Err(Denied::NotOurs.into());
    }
    let facts = CertificateFacts::read(leaf)
        .map_err(|reason| PkiError::unusable("the certificate to renew", reason))?;
    let mut names = facts.names;
    names.extend(facts.addresses);
    Ok(check_names(&names)?)
}

fn first_facts(pem: &str) -> Result<CertificateFacts, PkiError> {
    use rustls_pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| error.to_string())
        .and_then(|der| CertificateFacts::read(&der))
        .map_err(|reason| PkiError::unusable("the new certificate", reason))
}

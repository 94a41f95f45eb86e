//! TLS: who this host is, who the other one is, and what went wrong between them.
//!
//! TLS 1.3 only, no tickets and no resumption: every connection checks the certificates anew, so an expired or
//! replaced certificate has its effect at the next connection. Two protocols share a port and are told apart by
//! ALPN: [`ALPN_REPLICATION`] requires a client certificate, [`ALPN_ENROLMENT`] does not.
//!
//! `session.rs` is the handshake, which rustls does; `records.rs` what follows it.

mod fault;
mod identity;
mod peer;
mod records;
mod session;

pub use fault::TlsFault;
pub use identity::{Identity, IdentityFiles};
pub use peer::PeerIdentity;

pub(crate) use peer::{CertificateFacts, sha256_hex};
pub(crate) use records::{OpenError, Opened, Opener, RECORD, Sealer, Sink};
pub(crate) use session::{OutBuf, State, Tls};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, RootCertStore, ServerConfig, client, server, version};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;

/// Replication between two hosts that have certificates.
pub const ALPN_REPLICATION: &[u8] = b"standin/1";
/// A new host asks for its certificate, or an old one for its next.
pub const ALPN_ENROLMENT: &[u8] = b"standin-enroll/1";

/// AES-128 first: a fifth faster than AES-256 where it matters, and no weaker against anything known.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    })
}

/// The server's side of both protocols. A client certificate is verified if one is presented; whether one must be
/// is decided by ALPN after the handshake.
pub(crate) fn server_config(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, String> {
    let verifier = server::WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| format!("the trusted authorities cannot be used: {error}"))?;
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| format!("certificate and key cannot be used together: {error}"))?;
    config.alpn_protocols = vec![ALPN_REPLICATION.to_vec(), ALPN_ENROLMENT.to_vec()];
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = true;
    config.session_storage = Arc::new(server::NoServerSessionStorage {});
    Ok(config)
}

/// The client's side of replication, and of a renewal by a host that has a certificate.
pub(crate) fn client_config(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    alpn: &[u8],
) -> Result<ClientConfig, String> {
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(chain, key)
        .map_err(|error| format!("certificate and key cannot be used together: {error}"))?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = client::Resumption::disabled();
    config.enable_secret_extraction = true;
    Ok(config)
}

//! What a certificate says, for authorization, for logs and for the warning before it expires.

use jiff::Timestamp;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use std::net::SocketAddr;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Who is on the other side, proven by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its DNS names, then its common name if that is another: lower case, no doubles. What authorization entries
    /// are matched against.
    pub names: Vec<String>,
    /// SHA-256 of its certificate in hexadecimal.
    pub fingerprint: String,
    /// Where it connected from or was connected at.
    pub address: SocketAddr,
    /// When its certificate expires.
    pub not_after: Timestamp,
}

/// What is read from a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateFacts {
    pub names: Vec<String>,
    /// The IP addresses it is for, as text.
    pub addresses: Vec<String>,
    pub fingerprint: String,
    pub not_after: Timestamp,
    /// The public key with its algorithm, DER.
    pub public_key: Vec<u8>,
}

impl CertificateFacts {
    /// Reads a DER certificate. It says nothing of whether the certificate is to be trusted.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| format!("no certificate: {error}"))?;
        let mut names: Vec<String> = Vec::new();
        let mut addresses = Vec::new();
        let extension = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
        for name in extension.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(dns) => push_new(&mut names, dns),
                GeneralName::IPAddress(bytes) => addresses.extend(address_text(bytes)),
                _ => {}
            }
        }
        for name in certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok()) {
            push_new(&mut names, name);
        }
        let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp())
            .map_err(|error| error.to_string())?;
        let public_key = certificate.public_key().raw.to_vec();
        Ok(Self { names, addresses, fingerprint: sha256_hex(der), not_after, public_key })
    }

    pub fn at(self, address: SocketAddr) -> PeerIdentity {
        PeerIdentity { names: self.names, fingerprint: self.fingerprint, address, not_after: self.not_after }
    }
}

fn push_new(names: &mut Vec<String>, name: &str) {
    let name = name.to_ascii_lowercase();
    if !names.contains(&name) {
        names.push(name);
    }
}

fn address_text(bytes: &[u8]) -> Option<String> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(four).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| std::net::Ipv6Addr::from(sixteen).to_string())
}

/// SHA-256 in hexadecimal. Through the TLS provider, so that no second implementation is linked.
pub(crate) fn sha256_hex(data: &[u8]) -> String {
    use std::fmt::Write as _;
    let Some(suite) = TLS13_AES_128_GCM_SHA256.tls13() else { return String::new() };
    let hash = suite.common.hash_provider.hash(data);
    hash.as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::sha256_hex;

    #[test]
    fn the_fingerprint_is_sha256() {
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}

//! What a client certificate says of a user, and what a server certificate is bound to.

use crate::users::{CertificateMatch, normal_subject};
use aws_lc_rs::digest::{Algorithm, SHA256, SHA384, SHA512, digest};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The certificate in the ways the users' file can name it: fingerprint first, then subject. A certificate that
/// cannot be read, or has no subject, has its fingerprint only.
#[must_use]
pub fn facts(der: &[u8]) -> Vec<CertificateMatch> {
    let hash = digest(&SHA256, der);
    let fingerprint = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut facts = vec![CertificateMatch::Fingerprint(fingerprint)];
    if let Ok((_, certificate)) = X509Certificate::from_der(der) {
        let subject = normal_subject(&certificate.subject().to_string());
        if !subject.is_empty() {
            facts.push(CertificateMatch::Subject(subject));
        }
    }
    facts
}

/// The application data of the channel bindings `tls-server-end-point` (RFC 5929, section 4.1): the certificate's
/// hash by the algorithm it is signed with; SHA-256 where that is MD5 or SHA-1. `None` where the standard has no
/// answer, as for Ed25519.
#[must_use]
pub fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let algorithm = hash_of_signature(&certificate.signature_algorithm.algorithm.to_id_string())?;
    let mut data = b"tls-server-end-point:".to_vec();
    data.extend_from_slice(digest(algorithm, der).as_ref());
    Some(data)
}

fn hash_of_signature(oid: &str) -> Option<&'static Algorithm> {
    match oid {
        // RSA with MD5, SHA-1, SHA-256; ECDSA with SHA-1, SHA-256 (RFC 3279, 4055, 5758).
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Some(&SHA256),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(&SHA384),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(&SHA512),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "alice");
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_is_known_by_its_fingerprint_and_its_subject() {
        let der = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        let facts = facts(&der);
        assert!(matches!(&facts[0], CertificateMatch::Fingerprint(digits) if digits.len() == 64));
        let subject = CertificateMatch::parse(&facts[1].to_string()).unwrap();
        assert!(subject.to_string().contains("CN=alice"), "{subject}");
        assert_eq!(facts[1], subject);
    }

    #[test]
    fn channel_bindings_take_the_hash_of_the_signature() {
        let small = end_point(&certificate(&rcgen::PKCS_ECDSA_P256_SHA256)).unwrap();
        let large = end_point(&certificate(&rcgen::PKCS_ECDSA_P384_SHA384)).unwrap();
        let prefix = b"tls-server-end-point:".len();
        assert_eq!((small.len() - prefix, large.len() - prefix), (32, 48));
        assert_eq!(end_point(&certificate(&rcgen::PKCS_ED25519)), None);
        assert_eq!(end_point(b"nonsense"), None);
    }
}

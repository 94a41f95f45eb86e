//! Keys, the certificate authority, and the certificates it issues.
//!
//! ECDSA on P-256 throughout: small, fast to verify, known to every TLS stack. A certificate carries only what
//! this code puts into it; of a signing request nothing but the public key is taken, and only after its signature
//! has proven that the requester holds the private one.

use crate::pki::{AUTHORITY_DAYS, CertificateName, PkiError};
use crate::tls::{CertificateFacts, sha256_hex};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber, date_time_ymd,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use std::time::Duration;

/// Certificates begin a little in the past: clocks of hosts differ.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);
/// The longest common name that X.509 allows.
const MAX_COMMON_NAME: usize = 64;

/// A certificate authority that can sign.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    der: CertificateDer<'static>,
    /// This authority's key signed by the one before it, PEM, or nothing. It goes with every certificate issued, so
    /// that hosts which trust only the old authority accept those of the new one.
    cross: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

/// A certificate with a key that was made for it. Debug does not show the key.
#[derive(Clone)]
pub struct Issued {
    /// PEM: the certificate and the authority's, which stands last.
    pub certificate: String,
    /// PEM, PKCS#8.
    pub key: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

fn bad(what: &'static str) -> impl Fn(rcgen::Error) -> PkiError {
    move |error| PkiError::unusable(what, error)
}

impl Authority {
    /// Makes an authority that is valid for ten years, vouched for by the one `before` it, if there is one. Gives its
    /// key too, in PEM.
    pub(super) fn generate(before: Option<&Self>) -> Result<(Self, String), PkiError> {
        let key = KeyPair::generate().map_err(bad("a new key"))?;
        let mut params = CertificateParams::default();
        // The number tells authorities apart where several are trusted at once.
        params
            .distinguished_name
            .push(DnType::CommonName, format!("standin authority {:08x}", rand::random::<u32>()));
        // One level below it: the authority that replaces it.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial());
        set_validity(&mut params, days(AUTHORITY_DAYS));
        let certificate = params.self_signed(&key).map_err(bad("the new authority"))?;
        let cross = match before {
            None => String::new(),
            Some(before) => {
                let mut vouched = params.clone();
                vouched.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
                vouched.serial_number = Some(serial());
                vouched.use_authority_key_identifier_extension = true;
                vouched.signed_by(&key, &before.issuer).map_err(bad("the new authority"))?.pem()
            }
        };
        let key_pem = key.serialize_pem();
        let (certificate, der) = (certificate.pem(), certificate.der().clone());
        Ok((Self { issuer: Issuer::new(params, key), certificate, der, cross }, key_pem))
    }

    /// Reads an authority from PEM. `cross` may be empty.
    pub(super) fn read(certificate: &str, key: &str, cross: String) -> Result<Self, PkiError> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| PkiError::unusable("ca.crt", error))?;
        let key = KeyPair::from_pem(key).map_err(bad("ca.key"))?;
        let facts = CertificateFacts::read(&der).map_err(|reason| PkiError::unusable("ca.crt", reason))?;
        if key.subject_public_key_info() != facts.public_key {
            return Err(PkiError::unusable("ca.key", "it is not the key of ca.crt"));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(bad("ca.crt"))?;
        Ok(Self { issuer, certificate: certificate.to_owned(), der: der.into_owned(), cross })
    }

    /// What vouches for it to hosts that know only the authority before it, PEM.
    pub(super) fn cross(&self) -> &str {
        &self.cross
    }

    /// Its certificate in PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// SHA-256 of its certificate in hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        sha256_hex(&self.der)
    }

    /// Makes a key and a certificate for it.
    ///
    /// # Errors
    /// [`PkiError::Name`] or [`PkiError::Unusable`].
    pub fn issue(&self, names: &[CertificateName], valid_days: u32) -> Result<Issued, PkiError> {
        self.issue_for(names, days(valid_days))
    }

    pub(crate) fn issue_for(&self, names: &[CertificateName], valid: Duration) -> Result<Issued, PkiError> {
        let key = HostKey::generate()?;
        let certificate = self.sign_for(&key.request()?, names, valid)?;
        Ok(Issued { certificate, key: key.pem() })
    }

    /// Signs a request (DER). The certificate is for `names`, whatever the request says. Gives PEM: the certificate
    /// and the authority's own, which stands last.
    ///
    /// # Errors
    /// [`PkiError::Unusable`] if the request cannot be read or is not signed by the key in it.
    pub fn sign(
        &self,
        request: &[u8],
        names: &[CertificateName],
        valid_days: u32,
    ) -> Result<String, PkiError> {
        self.sign_for(request, names, days(valid_days))
    }

    fn sign_for(
        &self,
        request: &[u8],
        names: &[CertificateName],
        valid: Duration,
    ) -> Result<String, PkiError> {
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
            .map_err(bad("the certificate request"))?;
        let mut params = host_params(names)?;
        params.serial_number = Some(serial());
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, valid);
        let signed = CertificateSigningRequestParams { params, public_key: request.public_key }
            .signed_by(&self.issuer)
            .map_err(bad("the new certificate"))?;
        Ok(format!("{}{}{}", signed.pem(), self.cross, self.certificate))
    }
}

/// The private key of this host, before its certificate is there.
pub(crate) struct HostKey(KeyPair);

impl HostKey {
    pub fn generate() -> Result<Self, PkiError> {
        KeyPair::generate().map(Self).map_err(bad("a new key"))
    }

    pub fn pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// A signing request in DER. Nothing but the public key and the proof that this host has the private one: names
    /// are the authority's business.
    pub fn request(&self) -> Result<Vec<u8>, PkiError> {
        let request = CertificateParams::default()
            .serialize_request(&self.0)
            .map_err(bad("the certificate request"))?;
        Ok(request.der().to_vec())
    }
}

fn host_params(names: &[CertificateName]) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    for name in names {
        params.subject_alt_names.push(match name {
            CertificateName::Ip(address) => SanType::IpAddress(*address),
            CertificateName::Dns(name) => {
                SanType::DnsName(name.as_str().try_into().map_err(bad("a name of the certificate"))?)
            }
        });
    }
    if let Some(first) = names.iter().map(ToString::to_string).find(|name| name.len() <= MAX_COMMON_NAME) {
        params.distinguished_name.push(DnType::CommonName, first);
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn set_validity(params: &mut CertificateParams, valid: Duration) {
    let now = Duration::from_secs(u64::try_from(Timestamp::now().as_second()).unwrap_or(0));
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(CLOCK_SKEW);
    params.not_after = epoch + now + valid;
}

fn days(count: u32) -> Duration {
    Duration::from_secs(u64::from(count) * 24 * 3600)
}

/// 127 random bits: positive, and never the same twice.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

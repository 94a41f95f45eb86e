//! The certificates of replication: `GetSystemCertificates`, and the thumbprint that settings show.

use super::{Answer, Done, Tools};
use crate::make::Out;
use crate::world::Site;
use base64::Engine as _;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use standin_cim::Value;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Every certificate in the site's files; a file that cannot be read has none.
fn all(site: &Site) -> Vec<CertificateDer<'static>> {
    let mut found = Vec::new();
    for path in &site.certificates {
        match CertificateDer::pem_file_iter(path) {
            // The authority stands in the host's chain and among those it trusts.
            Ok(certificates) => {
                for certificate in certificates.flatten() {
                    if !found.contains(&certificate) {
                        found.push(certificate);
                    }
                }
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "a certificate cannot be read"),
        }
    }
    found
}

/// The thumbprint of this host's certificate, made anew only when the file has changed: clients that list all
/// settings ask for it all the time.
#[derive(Default)]
pub struct Thumbprint(Mutex<Option<(Stamp, Option<String>)>>);

/// When a file was changed, and its size.
type Stamp = (SystemTime, u64);

impl Thumbprint {
    /// As Windows shows it: SHA-1 of the certificate in capitals. `None` without a certificate.
    pub fn of(&self, site: &Site) -> Option<String> {
        let own = site.certificates.first()?;
        let meta = std::fs::metadata(own).ok()?;
        let stamp = (meta.modified().ok()?, meta.len());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((of, thumbprint)) if *of == stamp => thumbprint.clone(),
            _ => {
                let thumbprint = made(own);
                *known = Some((stamp, thumbprint.clone()));
                thumbprint
            }
        }
    }
}

fn made(own: &Path) -> Option<String> {
    let certificate = CertificateDer::pem_file_iter(own).ok()?.flatten().next()?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &certificate);
    let mut text = String::with_capacity(40);
    for byte in digest.as_ref() {
        // Writing into a String cannot fail.
        write!(text, "{byte:02X}").ok()?;
    }
    Some(text)
}

/// `GetSystemCertificates`: this host's certificate and those it trusts, each DER in base64.
pub fn get(tools: &Tools) -> Answer {
    let encoded: Vec<Value> = all(&tools.site)
        .iter()
        .map(|certificate| {
            Value::String(base64::engine::general_purpose::STANDARD.encode(certificate.as_ref()))
        })
        .collect();
    Ok(Done::with(Out::default().with("EncodedCertificates", encoded)))
}

//! The side that wants a certificate.

use crate::enroll::token::{hex, proof};
use crate::enroll::{Answer, Ask, EnrollError, Token, pin};
use crate::error::Error;
use crate::frame::Frame;
use crate::link::{Ends, Settings, handshake, open_socket};
use crate::pki::{HostKey, Issued, PkiDir, PkiError, Summary, check_names};
use crate::tls::{Tls, TlsFault};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::ServerName;

/// Enrols this host with a token and writes its directory. `names` are those it wants of the token's; empty takes
/// all of them.
///
/// # Errors
/// [`EnrollError::Pki`] if this host has an authority of its own (nothing is sent then) or its directory cannot be
/// written; [`EnrollError::Wire`] if the other host cannot be reached, is not the one of the token, or refuses, and
/// then says why.
pub async fn request(token: &Token, dir: &PkiDir, names: &[String]) -> Result<Summary, EnrollError> {
    if dir.has_authority() {
        return Err(PkiError::OwnAuthority { path: dir.file("ca.key") }.into());
    }
    let names: Vec<String> = if names.is_empty() {
        Vec::new()
    } else {
        check_names(names)?.iter().map(ToString::to_string).collect()
    };
    let key = HostKey::generate()?;
    let request = key.request()?;
    let ask = Ask::Enrol {
        id: token.id(),
        proof: hex(proof(&token.key(), &token.id(), &names, &request).as_bytes()),
        names,
        request: STANDARD.encode(&request),
    };
    let ends = reach(token).await?;
    let answer = exchange(ends, &ask).await?;
    install(dir, &key, answer).await
}

/// Gets this host's next certificate from the host that signed the present one, for the same names. `address` is
/// `host:port`. Connections that are up go on; [`crate::Identity::reload`] takes the new certificate for those to
/// come.
///
/// # Errors
/// [`EnrollError::Wire`] if the other host cannot be reached or refuses: it did not sign the present certificate, or
/// that has expired. [`EnrollError::Pki`] if the directory cannot be written.
pub async fn renew(address: &str, dir: &PkiDir) -> Result<Summary, EnrollError> {
    let identity = dir.identity()?;
    let key = HostKey::generate()?;
    let ask = Ask::Renew { request: STANDARD.encode(key.request()?) };
    let settings = Settings::default();
    let reaching = async {
        let (stream, name) = open_socket(address).await?;
        let tls = Tls::client(identity.current().renewal.clone(), name)
            .map_err(|error| tls_error(address, error))?;
        handshake(stream, tls, &settings).await
    };
    let answer = exchange(limited(&settings, reaching).await?, &ask).await?;
    install(dir, &key, answer).await
}

/// Tries the token's addresses in turn. Whoever answers with another authority ends it: that is no network trouble.
async fn reach(token: &Token) -> Result<Ends, Error> {
    let settings = Settings::default();
    let mut last = None;
    for address in token.addresses() {
        let reaching = async {
            let (stream, _) = open_socket(address).await?;
            let name = ServerName::try_from(token.host().to_owned())
                .map_err(|_| Error::Frame { reason: "the token names no host".to_owned() })?;
            let tls = pin::config(token.authority())
                .and_then(|config| Tls::client(config.into(), name))
                .map_err(|error| tls_error(address, error))?;
            handshake(stream, tls, &settings).await
        };
        match limited(&settings, reaching).await {
            Ok(ends) => return Ok(ends),
            Err(error @ Error::Tls { fault: TlsFault::WrongFingerprint, .. }) => return Err(error),
            Err(error) => {
                tracing::info!(%address, %error, "this address of the token does not answer");
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::Frame { reason: "the token has no address".to_owned() }))
}

async fn limited<T>(settings: &Settings, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let after = settings.handshake_timeout;
    let slow = Error::Slow { what: "reaching the host that signs", after };
    tokio::time::timeout(after, work).await.unwrap_or(Err(slow))
}

async fn exchange(ends: Ends, ask: &Ask) -> Result<Answer, EnrollError> {
    let Ends { mut sender, mut receiver, .. } = ends;
    let sent = sender.control(ask).await;
    let settings = Settings::default();
    let answer = match (limited(&settings, receiver.next()).await, sent) {
        (Ok(Some(Frame::Control(answer))), _) => answer.parse()?,
        (Ok(_), _) => return Err(Error::Closed { mid_frame: false }.into()),
        // It hung up before it read the request: what it said tells more than that it could not be written.
        (Err(error @ (Error::Refused { .. } | Error::Tls { .. })), _) | (Err(error), Ok(())) => {
            return Err(error.into());
        }
        (Err(_), Err(error)) => return Err(error.into()),
    };
    if let Err(error) = sender.close().await {
        tracing::debug!(%error, "the certificate is here, the connection was gone already");
    }
    Ok(answer)
}

async fn install(dir: &PkiDir, key: &HostKey, answer: Answer) -> Result<Summary, EnrollError> {
    let issued = Issued { certificate: answer.certificate, key: key.pem() };
    let dir = dir.clone();
    let installing =
        tokio::task::spawn_blocking(move || dir.adopt(&issued, &answer.authority, &answer.trusted));
    match installing.await {
        Ok(result) => Ok(result?),
        Err(error) => Err(PkiError::unusable("the issued certificate", error).into()),
    }
}

fn tls_error(peer: &str, error: rustls::Error) -> Error {
    Error::tls(peer, error)
}

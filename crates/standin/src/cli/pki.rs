//! `standin pki ...` and `standin enroll`: the verbs that work on the certificate files of this host. They need
//! no daemon; one that runs is told to take the files again.

use super::authority;
use super::reason::Local;
use crate::api::client::Client;
use crate::api::types::{Done, PeerAddress};
use crate::args::{Enroll, PkiInit, PkiVerb};
use crate::config::{Certificates, Config};
use crate::exit::Failure;
use crate::output::Style;
use crate::units;
use anyhow::Context;
use jiff::Timestamp;
use serde::Serialize;
use standin_durable::{Files, Mode};
use standin_model::Refusal;
use standin_model::reason::Text;
use standin_wire::enroll::{self, EnrollError, Registry, Token};
use standin_wire::pki::{PkiDir, PkiError, Summary};
use standin_wire::{Identity, IdentityFiles};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Beside the certificates: where this host enrolled, so that it knows where to renew.
const ENROLLED_WITH: &str = "enrolled_with";

/// This host's certificate, for people and programs.
#[derive(Debug, Serialize)]
pub(super) struct PkiView {
    /// The names it is for.
    pub(super) names: Vec<String>,
    /// SHA-256 of it.
    fingerprint: String,
    /// When it expires.
    not_after: Timestamp,
    /// SHA-256 of the authority; `null` with the operator's own certificates.
    authority_fingerprint: Option<String>,
    /// This host can let others in.
    has_authority: bool,
    /// The certificate's file.
    certificate: PathBuf,
}

/// A token for a new host.
#[derive(Debug, Serialize)]
struct TokenView {
    /// The token itself: a secret until it is used.
    token: String,
    /// Whom it is for.
    names: Vec<String>,
    /// Where the new host reaches this one.
    addresses: Vec<String>,
    /// When it can no longer be used.
    expires_at: Timestamp,
}

/// `standin pki`
pub(super) fn pki(verb: PkiVerb, config: &Config, socket: PathBuf, style: Style) -> Result<(), Failure> {
    match verb {
        PkiVerb::Init(init) => self::init(&init, config, style),
        PkiVerb::Show => style.print(&shown(config)?, show),
        PkiVerb::Renew { from } => block_on(renew(from, config, socket, style)),
        PkiVerb::Export(export) => authority::export(&export, config, style),
        PkiVerb::Import(import) => block_on(authority::import(import, config, socket, style)),
        PkiVerb::Trust { file } => block_on(authority::trust(&file, config, socket, style)),
    }
}

/// `standin enroll`
pub(super) fn enroll(args: Enroll, config: &Config, socket: PathBuf, style: Style) -> Result<(), Failure> {
    let dir = builtin(config)?;
    match (&args.new, &args.token) {
        (Some(_), _) => new_token(&args, config, dir, style),
        (None, Some(token)) => block_on(join(token, config, &dir, socket, style)),
        (None, None) => Err(Failure::Usage("give a token, or --new NAME to make one".to_owned())),
    }
}

fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("the asynchronous runtime cannot be started")?.block_on(work)
}

/// The built-in authority's directory, unless the operator's own certificates are configured.
pub(super) fn builtin(config: &Config) -> Result<PkiDir, Refusal> {
    match &config.certificates {
        Certificates::Builtin(path) => Ok(PkiDir::new(path)),
        Certificates::Own { certificate, .. } => {
            Err(Local::OwnCertificate { path: certificate.clone() }.into())
        }
    }
}

/// The names of this host unless they are given: the configured one, and the address it listens on if that is
/// one and not all of them.
pub(super) fn own_names(config: &Config) -> Vec<String> {
    let mut names = vec![config.host_name.clone()];
    if !config.listen.ip().is_unspecified() {
        names.push(config.listen.ip().to_string());
    }
    names
}

fn init(args: &PkiInit, config: &Config, style: Style) -> Result<(), Failure> {
    let dir = builtin(config)?;
    let names = if args.names.is_empty() { own_names(config) } else { args.names.clone() };
    let summary = dir.init(&names, args.force).map_err(|error| pki_failure(&error))?;
    style.print(&view(&dir, summary), |view| {
        format!(
            "this host has a certificate authority now, and a certificate for {}\nlet another host join with `standin enroll --new NAME`",
            view.names.join(", ")
        )
    })
}

pub(super) fn view(dir: &PkiDir, summary: Summary) -> PkiView {
    PkiView {
        names: summary.names,
        fingerprint: summary.fingerprint,
        not_after: summary.not_after,
        authority_fingerprint: Some(summary.authority),
        has_authority: dir.has_authority(),
        certificate: dir.identity_files().certificate,
    }
}

fn shown(config: &Config) -> Result<PkiView, Failure> {
    match &config.certificates {
        Certificates::Builtin(path) => {
            let dir = PkiDir::new(path);
            if !dir.identity_files().certificate.exists() {
                return Err(no_certificate(path).into());
            }
            let summary = dir.summary().map_err(|error| pki_failure(&error))?;
            Ok(view(&dir, summary))
        }
        Certificates::Own { certificate, key, trust } => {
            let files =
                IdentityFiles { certificate: certificate.clone(), key: key.clone(), trust: trust.clone() };
            let identity = Identity::from_files(&files.certificate, &files.key, &files.trust)
                .map_err(|error| anyhow::anyhow!("{error}. {}", error.remedy()))?;
            Ok(PkiView {
                names: identity.names(),
                fingerprint: identity.fingerprint(),
                not_after: identity.not_after(),
                authority_fingerprint: None,
                has_authority: false,
                certificate: files.certificate,
            })
        }
    }
}

fn no_certificate(path: &Path) -> Refusal {
    Local::NoCertificate { path: path.to_owned() }.into()
}

fn show(view: &PkiView) -> String {
    let now = Timestamp::now();
    let left = units::span(u64::try_from(view.not_after.as_second() - now.as_second()).unwrap_or(0));
    let validity = if view.not_after <= now {
        format!("EXPIRED since {}; renew it with `standin pki renew`", units::local(view.not_after))
    } else {
        format!("until {}, {left} left", units::local(view.not_after))
    };
    let mut text = format!(
        "names        {}\nvalid        {validity}\nfingerprint  {}",
        view.names.join(", "),
        view.fingerprint
    );
    if let Some(authority) = &view.authority_fingerprint {
        let whose = if view.has_authority { "on this host" } else { "on another host" };
        text.push_str(&format!("\nauthority    {authority}, {whose}"));
    }
    format!("{text}\nfile         {}", view.certificate.display())
}

async fn renew(from: Option<String>, config: &Config, socket: PathBuf, style: Style) -> Result<(), Failure> {
    let dir = builtin(config)?;
    let summary = if dir.has_authority() && from.is_none() {
        dir.renew().map_err(|error| pki_failure(&error))?
    } else {
        let address = match from {
            Some(from) => from.parse::<PeerAddress>()?.to_string(),
            None => remembered(&dir)?,
        };
        enroll::renew(&address, &dir).await.map_err(|error| enroll_failure(&error))?
    };
    tell_daemon(socket).await;
    style.print(&view(&dir, summary), |view| {
        format!(
            "the certificate for {} is valid until {}",
            view.names.join(", "),
            units::local(view.not_after)
        )
    })
}

/// Where this host enrolled.
fn remembered(dir: &PkiDir) -> Result<String, Refusal> {
    if !dir.identity_files().certificate.exists() {
        return Err(no_certificate(dir.path()));
    }
    let text = std::fs::read_to_string(dir.path().join(ENROLLED_WITH)).unwrap_or_default();
    text.trim()
        .parse::<PeerAddress>()
        .map(|address| address.to_string())
        .map_err(|_| Local::NotEnrolled.into())
}

fn new_token(args: &Enroll, config: &Config, dir: PkiDir, style: Style) -> Result<(), Failure> {
    let names: Vec<String> = args.new.iter().chain(&args.names).cloned().collect();
    let addresses = if args.addresses.is_empty() {
        let ip = config.listen.ip();
        let host = if ip.is_unspecified() { config.host_name.clone() } else { ip.to_string() };
        vec![PeerAddress { host, port: config.listen.port() }.to_string()]
    } else {
        let parse = |text: &String| text.parse::<PeerAddress>().map(|address| address.to_string());
        args.addresses.iter().map(parse).collect::<Result<_, _>>()?
    };
    if args.valid.is_zero() || args.valid.as_secs() > 7 * 86400 {
        return Err(Refusal::from(Local::TokenValidity).into());
    }
    let now = Timestamp::now();
    let token = Registry::new(dir)
        .create(&names, &addresses, args.valid, now)
        .map_err(|error| enroll_failure(&error))?;
    let expires_at = now.checked_add(args.valid).context("the token would be valid for ever")?;
    let view = TokenView { token: token.to_string(), names, addresses, expires_at };
    if !style.json {
        // Beside the result, so that `TOKEN=$(standin enroll --new NAME)` holds the token and nothing else.
        eprintln!(
            "On {}, within {}, run: standin enroll TOKEN\nIt reaches this host at {}. The daemon has to run here. The token works once and is a secret:",
            view.names.join(", "),
            units::span(args.valid.as_secs()),
            view.addresses.join(", ")
        );
    }
    style.print(&view, |view| view.token.clone())
}

async fn join(
    text: &str,
    config: &Config,
    dir: &PkiDir,
    socket: PathBuf,
    style: Style,
) -> Result<(), Failure> {
    let text = if text == "-" { read_token()? } else { text.to_owned() };
    let token = Token::parse(&text).map_err(|error| enroll_failure(&error.into()))?;
    let summary = enroll::request(&token, dir, &[]).await.map_err(|error| enroll_failure(&error))?;
    if let Some(address) = token.addresses().first() {
        remember(dir, address)?;
    }
    tell_daemon(socket).await;
    style.print(&view(dir, summary), |view| {
        format!(
            "{} has joined: its certificate for {} is valid until {}",
            config.host_name,
            view.names.join(", "),
            units::local(view.not_after)
        )
    })
}

fn read_token() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(64 << 10).read_to_string(&mut text);
    read.context("the token cannot be read from the standard input")?;
    Ok(text)
}

/// Durable like the certificates beside it.
fn remember(dir: &PkiDir, address: &str) -> Result<(), Failure> {
    let path = dir.path().join(ENROLLED_WITH);
    let noted = Files::default().replace(&path, format!("{address}\n").as_bytes(), Mode::Everybody);
    let context =
        "this host has enrolled, but where it did cannot be noted; `standin pki renew` will need --from";
    Ok(noted.context(context)?)
}

/// A daemon that runs takes the new files; one that does not will find them when it starts.
pub(super) async fn tell_daemon(socket: PathBuf) {
    match Client::new(socket).post::<Done>("/v1/host/reload").await {
        Ok(_) | Err(Failure::NoDaemon(_)) => {}
        Err(failure) => eprintln!(
            "the files are in place, but the running daemon did not take them: {failure}\nrestart it with `systemctl restart standin`"
        ),
    }
}

pub(super) fn pki_failure(error: &PkiError) -> Failure {
    let text = || Text::new(error.to_string(), error.remedy());
    let reason = match error {
        PkiError::Exists { .. } | PkiError::NoAuthority { .. } | PkiError::OwnAuthority { .. } => {
            Local::Authority(text())
        }
        PkiError::Name { .. } | PkiError::Passphrase { .. } => Local::CertificateInput(text()),
        _ => return Failure::Local(anyhow::anyhow!("{}. {}", chain(error), error.remedy())),
    };
    Refusal::from(reason).into()
}

fn enroll_failure(error: &EnrollError) -> Failure {
    let text = || Text::new(chain(error), error.remedy());
    let reason = match error {
        EnrollError::Pki(error) => return pki_failure(error),
        EnrollError::Token(_) => Local::Token(text()),
        EnrollError::Denied(_)
        | EnrollError::Wire(standin_wire::Error::Refused { .. } | standin_wire::Error::Tls { .. }) => {
            Local::EnrolmentRefused(text())
        }
        EnrollError::Wire(_) => Local::EnrolmentFailed(text()),
    };
    Refusal::from(reason).into()
}

/// An error with its reasons, none of them twice.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        let reason_text = reason.to_string();
        if !text.contains(&reason_text) {
            text.push_str(": ");
            text.push_str(&reason_text);
        }
        source = reason.source();
    }
    text
}

//! `standin pki export|import|trust`: the authority on another host, and authorities of others.

use super::pki::{builtin, own_names, pki_failure, tell_daemon, view};
use super::reason::Local;
use super::secret;
use crate::args::{PkiExport, PkiImport};
use crate::config::Config;
use crate::exit::Failure;
use crate::output::Style;
use anyhow::Context;
use serde::Serialize;
use standin_durable::{Files, Mode};
use standin_model::Refusal;
use standin_wire::pki::MAX_EXPORT;
use std::io::Read;
use std::path::{Path, PathBuf};

const PASSPHRASE: &str = "passphrase";
const FROM_FILE: &str = "--passphrase-file";

/// What was exported.
#[derive(Debug, Serialize)]
struct ExportView {
    /// The encrypted file.
    file: PathBuf,
    /// SHA-256 of the authority in it.
    authority_fingerprint: String,
}

/// What was trusted.
#[derive(Debug, Serialize)]
struct TrustView {
    /// Authorities that were not trusted before.
    added: usize,
}

/// `standin pki export`
pub(super) fn export(args: &PkiExport, config: &Config, style: Style) -> Result<(), Failure> {
    let dir = builtin(config)?;
    let authority = dir.authority().map_err(|error| pki_failure(&error))?.fingerprint();
    if args.file.exists() {
        return Err(taken(&args.file).into());
    }
    let passphrase = match &args.passphrase_file {
        Some(path) => secret::from_file(path, PASSPHRASE)?,
        None => secret::from_terminal(PASSPHRASE, "Passphrase of the export: ", true, FROM_FILE)?,
    };
    let text = dir.export(&passphrase).map_err(|error| pki_failure(&error))?;
    let made = Files::default().create(&args.file, text.as_bytes(), Mode::Owner);
    if let Err(error) = made {
        if error.exists() {
            return Err(taken(&args.file).into());
        }
        return Err(anyhow::Error::new(error).context("the export cannot be written").into());
    }
    let view = ExportView { file: args.file.clone(), authority_fingerprint: authority };
    style.print(&view, |view| {
        format!(
            "the authority {} is in {}, encrypted\nkeep it away from this host, and the passphrase away from it",
            view.authority_fingerprint,
            view.file.display()
        )
    })
}

fn taken(path: &Path) -> Refusal {
    Local::FileExists { path: path.to_owned() }.into()
}

/// `standin pki import`
pub(super) async fn import(
    args: PkiImport,
    config: &Config,
    socket: PathBuf,
    style: Style,
) -> Result<(), Failure> {
    let dir = builtin(config)?;
    let text = read(&args.file)?;
    let passphrase = match &args.passphrase_file {
        Some(path) => secret::from_file(path, PASSPHRASE)?,
        None => secret::from_terminal(PASSPHRASE, "Passphrase of the export: ", false, FROM_FILE)?,
    };
    let names = if args.names.is_empty() { own_names(config) } else { args.names };
    let summary = dir.import(&text, &passphrase, &names, args.force).map_err(|error| pki_failure(&error))?;
    tell_daemon(socket).await;
    style.print(&view(&dir, summary), |view| {
        format!(
            "this host has the certificate authority now, and a certificate for {}\nlet another host join with `standin \
             enroll --new NAME`; on hosts that joined before: `standin pki renew --from {}`",
            view.names.join(", "),
            config.host_name
        )
    })
}

/// `standin pki trust`
pub(super) async fn trust(
    file: &Path,
    config: &Config,
    socket: PathBuf,
    style: Style,
) -> Result<(), Failure> {
    let dir = builtin(config)?;
    let added = dir.trust(&read(file)?).map_err(|error| pki_failure(&error))?;
    tell_daemon(socket).await;
    style.print(&TrustView { added }, |view| match view.added {
        0 => "every authority in it was trusted already".to_owned(),
        1 => "hosts of one more authority are trusted".to_owned(),
        more => format!("hosts of {more} more authorities are trusted"),
    })
}

fn read(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    file.take(MAX_EXPORT as u64 + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(text)
}

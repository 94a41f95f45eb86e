//! The verbs that set a host up: `serve`, `pki`, `enroll`, `auth`, `peer`.

use crate::units::parse_duration;
use clap::{Args as ClapArgs, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

const SERVE_HELP: &str = "\
Configuration: one TOML file, every key optional; see packaging/standin.toml for all of them. The file is \
--config FILE, else $STANDIN_CONFIG, else /etc/standin/standin.toml if it exists.

SIGTERM and Ctrl-C end the daemon in order; running VMs go on, and so does replication after the next start.";

/// `standin serve`
#[derive(Debug, ClapArgs)]
#[command(after_help = SERVE_HELP)]
pub struct Serve {}

/// `standin pki`
#[derive(Debug, ClapArgs)]
pub struct Pki {
    /// What to do.
    #[command(subcommand)]
    pub verb: PkiVerb,
}

/// What to do with the certificates of this host.
#[derive(Debug, Subcommand)]
pub enum PkiVerb {
    /// Make a certificate authority and this host's certificate. On the first host only; others enroll
    Init(PkiInit),
    /// Whose certificates are here and how long they are valid
    Show,
    /// Replace this host's certificate by a fresh one; connections that are up go on
    Renew {
        /// The host that has the authority [default: the one this host enrolled with]
        #[arg(long, value_name = "HOST[:PORT]")]
        from: Option<String>,
    },
    /// Write this host's certificate authority into an encrypted file, for the day on which this host is gone
    #[command(after_help = EXPORT_HELP)]
    Export(PkiExport),
    /// Become the certificate authority that an encrypted file holds
    #[command(after_help = IMPORT_HELP)]
    Import(PkiImport),
    /// Trust the hosts of another certificate authority beside those trusted already
    Trust {
        /// Its certificate, PEM
        file: PathBuf,
    },
}

const EXPORT_HELP: &str = "\
Whoever has the file and its passphrase can let hosts in: keep the two apart, and both away from the hosts.
  standin pki export /media/usb/standin-authority.json
Without a terminal: --passphrase-file FILE takes the first line of it, `-` that of the standard input.";

const IMPORT_HELP: &str = "\
For the day on which the host that had the authority is gone. Certificates that it issued stay valid:
  standin pki import /media/usb/standin-authority.json";

/// `standin pki export`
#[derive(Debug, ClapArgs)]
pub struct PkiExport {
    /// The file to make
    pub file: PathBuf,
    /// Take the passphrase from the first line of this file instead of asking for it
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

/// `standin pki import`
#[derive(Debug, ClapArgs)]
pub struct PkiImport {
    /// The file that `standin pki export` made
    pub file: PathBuf,
    /// Take the passphrase from the first line of this file instead of asking for it
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Where this host has no certificate yet: a name by which others reach it; may be repeated [default: the
    /// configured host name]
    #[arg(long = "name", value_name = "HOST")]
    pub names: Vec<String>,
    /// Replace another authority that this host has
    #[arg(long)]
    pub force: bool,
}

/// `standin pki init`
#[derive(Debug, ClapArgs)]
pub struct PkiInit {
    /// A name by which other hosts reach this one; may be repeated [default: the configured host name]
    #[arg(long = "name", value_name = "HOST")]
    pub names: Vec<String>,
    /// Replace an authority that is already here. Every host has to enroll again then
    #[arg(long)]
    pub force: bool,
}

const ENROLL_HELP: &str = "\
Examples:
  standin enroll --new replica.example.org   on the host that has the authority: prints a token
  standin enroll TOKEN                       on the host that joins: fetches its certificate

The token works once and for a short time. It is a secret: whoever has it can join.";

/// `standin enroll`
#[derive(Debug, ClapArgs)]
#[command(after_help = ENROLL_HELP)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["token", "new"])))]
pub struct Enroll {
    /// The token that the other host printed; `-` reads it from the standard input
    pub token: Option<String>,
    /// Make a token for the host of this name
    #[arg(long, value_name = "NAME")]
    pub new: Option<String>,
    /// How long the token can be used
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_duration, conflicts_with = "token")]
    pub valid: Duration,
    /// Where the new host reaches this one, HOST[:PORT]; may be repeated [default: the configured host name]
    #[arg(long = "address", value_name = "HOST[:PORT]", conflicts_with = "token")]
    pub addresses: Vec<String>,
    /// A further name or address by which the new host will be reached; may be repeated
    #[arg(long = "name", value_name = "HOST", conflicts_with = "token")]
    pub names: Vec<String>,
}

/// `standin auth`
#[derive(Debug, ClapArgs)]
pub struct Auth {
    /// What to do.
    #[command(subcommand)]
    pub verb: AuthVerb,
}

/// What to do with the authorization entries of this host.
#[derive(Debug, Subcommand)]
pub enum AuthVerb {
    /// Let hosts replicate to this one
    Add(AuthAdd),
    /// All entries
    List,
    /// Remove an entry; replication that it admitted stops
    #[command(after_help = AUTH_REMOVE_HELP)]
    Remove {
        /// What `auth add` took, the id of the entry, or the beginning of that
        entry: String,
    },
}

/// `standin peer`
#[derive(Debug, ClapArgs)]
pub struct Peer {
    /// What to do.
    #[command(subcommand)]
    pub verb: PeerVerb,
}

/// What to do with the hosts that this one has met.
#[derive(Debug, Subcommand)]
pub enum PeerVerb {
    /// The hosts that this one has met, with their ids
    List,
    /// Say that a host has another name in its certificate now, or another id
    #[command(after_help = PEER_REBIND_HELP)]
    Rebind {
        /// The host's id, as `standin peer list` shows it
        host: String,
        /// The name in its certificate now; or the id that it has now, after it was set up anew
        name: String,
    },
}

const PEER_REBIND_HELP: &str = "\
A host has an id that outlives its certificates, and it counts only with the certificate that it was first seen with. \
After a host got a certificate with another name, say so here:
  standin peer rebind 6f2c1f0e-... primary2.example.org
After a host was set up anew it has another id; its replicas here stay, and go on with the host of this id:
  standin peer rebind 6f2c1f0e-... 0b7d4a55-...";

const AUTH_REMOVE_HELP: &str = "\
Examples:
  standin auth remove primary.example.org
  standin auth remove '*.example.org'
  standin auth remove 6f2c";

const AUTH_HELP: &str = "\
Examples:
  standin auth add primary.example.org
  standin auth add '*.example.org' --trust-group lab --storage /srv/replicas";

/// `standin auth add`
#[derive(Debug, ClapArgs)]
#[command(after_help = AUTH_HELP)]
pub struct AuthAdd {
    /// The name in the primary's certificate; its first label may be `*`, and `*` alone is any host
    pub pattern: String,
    /// Only hosts of the same group may send for a VM that one of them replicates
    #[arg(long, value_name = "G", default_value = "default")]
    pub trust_group: String,
    /// Where replicas admitted by this entry are stored [default: the configured replica_storage]
    #[arg(long, value_name = "DIR")]
    pub storage: Option<PathBuf>,
}

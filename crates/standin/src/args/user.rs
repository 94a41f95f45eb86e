//! The verb that says who may use the management API: `user`.

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use standin_cim::Role;

/// `standin user`
#[derive(Debug, ClapArgs)]
pub struct User {
    /// What to do.
    #[command(subcommand)]
    pub verb: UserVerb,
}

/// What to do with the users of this host. A running daemon takes changes within a second.
#[derive(Debug, Subcommand)]
pub enum UserVerb {
    /// Add a user
    Add(UserAdd),
    /// All users
    List,
    /// Give a user another password
    Passwd {
        /// Who
        name: String,
        /// How the password comes.
        #[command(flatten)]
        password: Password,
        /// Keep the hash that NTLM needs as well
        #[arg(long)]
        ntlm: bool,
        /// Forget the hash that NTLM needs [default: as it was]
        #[arg(long, conflicts_with = "ntlm")]
        no_ntlm: bool,
    },
    /// Remove a user; his connections end with their next request
    Remove {
        /// Who
        name: String,
    },
}

/// How a password comes.
#[derive(Debug, Clone, Copy, Default, ClapArgs)]
pub struct Password {
    /// Read the password from the first line of the standard input instead of asking for it
    #[arg(long)]
    pub password_stdin: bool,
}

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleArg {
    /// Read everything, change nothing
    Viewer,
    /// Also rehearse failovers and reset statistics
    Operator,
    /// Everything
    Administrator,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Operator => Self::Operator,
            RoleArg::Administrator => Self::Administrator,
        }
    }
}

const ADD_HELP: &str = "\
Examples:
  standin user add alice --role administrator              asks for the password
  standin user add winrm --role operator --ntlm            for clients that log in by NTLM
  standin user add backup --certificate 'CN=backup' --no-password

Names compare without regard to case, and without what clients put around them: HOST\\alice and
alice@example.org are alice.

NTLM needs a hash that is worth as much as the password to whoever reads it. It is kept for those users
only for whom --ntlm was given.";

/// `standin user add`
#[derive(Debug, ClapArgs)]
#[command(after_help = ADD_HELP)]
#[command(group(clap::ArgGroup::new("other_proof").multiple(true).args(["certificates", "principal"])))]
pub struct UserAdd {
    /// 1 to 64 letters, digits, `.`, `-`, `_`
    pub name: String,
    /// What he may do
    #[arg(long, value_enum, default_value_t = RoleArg::Viewer)]
    pub role: RoleArg,
    /// How the password comes.
    #[command(flatten)]
    pub password: Password,
    /// No password: he comes by certificate or Kerberos only
    #[arg(long, conflicts_with_all = ["password_stdin", "ntlm"], requires = "other_proof")]
    pub no_password: bool,
    /// Keep the hash that NTLM needs as well
    #[arg(long)]
    pub ntlm: bool,
    /// The SHA-256 of his client certificate, or the subject of it; may be repeated
    #[arg(long = "certificate", value_name = "FINGERPRINT")]
    pub certificates: Vec<String>,
    /// His Kerberos principal
    #[arg(long, value_name = "NAME@REALM")]
    pub principal: Option<String>,
}

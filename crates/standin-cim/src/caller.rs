//! Who asks. Made by whoever authenticated the request; every operation is done on behalf of a caller.

use std::net::SocketAddr;
use std::sync::Arc;

/// What a user may do. Each role may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads everything, changes nothing.
    Viewer,
    /// Also rehearses failovers and resets statistics.
    Operator,
    /// Everything.
    Administrator,
}

impl Role {
    /// Its name in the users' file and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Administrator => "administrator",
        }
    }
}

/// An authenticated user, and how he came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name of the user, as the audit log shows it.
    pub name: Arc<str>,
    /// What he may do.
    pub role: Role,
    /// Where he came from.
    pub from: SocketAddr,
    /// How he proved who he is: `basic`, `ntlm`, `kerberos`, `certificate`.
    pub proof: &'static str,
    /// The protocol he speaks: `ws-management` or `cim-xml`.
    pub protocol: &'static str,
}

impl Caller {
    /// Whether he may do what needs `role`.
    #[must_use]
    pub fn may(&self, role: Role) -> bool {
        self.role >= role
    }
}

//! Authentication: finds out who sent a request, or what to answer so that the client says it.
//!
//! | Proof | Header | State |
//! | --- | --- | --- |
//! | `basic` | `Basic` on every request | none |
//! | `certificate` | none, or the one of DSP0226 for certificates | of the TLS connection |
//! | `ntlm` | `Negotiate` or `NTLM` while logging in, none afterwards | of the TCP connection |
//! | `kerberos` | `Negotiate` or `Kerberos`, once, none afterwards | of the TCP connection |
//!
//! A user is looked up again for every request: one who was removed, or has another role or password, is asked
//! anew on a connection that is up. The reason of a refusal goes to the log and not to the client.

pub mod certificate;
mod der;
pub mod kerberos;
mod negotiate;
pub mod ntlm;
mod spnego;

use crate::settings::AccessSettings;
use crate::throttle::{Admission, Throttle};
use crate::users::{CertificateMatch, Directory, User, names};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use kerberos::KerberosError;
use negotiate::{Against, Negotiation, Step};
use standin_cim::Caller;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use negotiate::Sealer;

/// The `Authorization` of a client that is known by its certificate (DSP0226, secprofile/https/mutual).
const BY_CERTIFICATE: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual";

/// What is known of a connection before its first request.
#[derive(Debug, Clone)]
pub struct Channel {
    /// Where it comes from.
    pub from: SocketAddr,
    /// What TLS says; `None` on plain HTTP.
    pub tls: Option<TlsFacts>,
}

/// What TLS says of a connection.
#[derive(Debug, Clone, Default)]
pub struct TlsFacts {
    /// The application data of its channel bindings: `tls-server-end-point:` and the hash of the server's
    /// certificate (RFC 5929).
    pub end_point: Option<Vec<u8>>,
    /// The client's certificate, which the listener's authorities vouch for: its fingerprint, its subject.
    pub certificate: Vec<CertificateMatch>,
}

/// What a connection has proven so far.
#[derive(Default)]
pub struct ConnectionState {
    negotiation: Option<Negotiation>,
    established: Option<Established>,
}

/// A connection that is a user's.
struct Established {
    user: Arc<User>,
    proof: &'static str,
    sealer: Option<Sealer>,
}

impl ConnectionState {
    /// What this connection's messages are sealed with.
    pub(crate) fn sealer(&mut self) -> Option<&mut Sealer> {
        self.established.as_mut()?.sealer.as_mut()
    }

    /// A log-in of more than one step is under way.
    pub(crate) fn is_negotiating(&self) -> bool {
        self.negotiation.is_some()
    }
}

/// What to do with a request.
#[derive(Debug)]
pub enum Decision {
    /// It is a user's.
    Accepted {
        /// His.
        user: Arc<User>,
        /// How he proved it.
        proof: &'static str,
        /// The last message of the log-in, for `WWW-Authenticate`. `Some` on the request that completed it.
        completed: Option<Option<String>>,
    },
    /// Nobody's yet: 401 with these `WWW-Authenticate`.
    Challenge(Vec<String>),
    /// Too many failures: come again after this time.
    Later(Duration),
}

/// Finds out who sends requests. Shared by all listeners.
#[derive(Debug)]
pub struct Authenticator {
    directory: Directory,
    throttle: Throttle,
    names: ntlm::Names,
    allow_basic_over_http: bool,
    pub(crate) allow_unsealed_over_http: bool,
    negotiate: bool,
    kerberos: Option<kerberos::Acceptor>,
}

/// Whose password is asked for, and why it was refused.
struct Failure<'f> {
    user: &'f str,
    proof: &'static str,
    reason: &'f str,
}

impl Authenticator {
    /// An authenticator of these users. `host_name` is what NTLM's challenge calls this host.
    ///
    /// # Errors
    /// [`KerberosError`], when there is a keytab and it cannot be used.
    pub fn new(
        settings: &AccessSettings,
        directory: Directory,
        host_name: &str,
    ) -> Result<Self, KerberosError> {
        Ok(Self {
            directory,
            throttle: Throttle::default(),
            names: ntlm::Names::of_host(host_name),
            allow_basic_over_http: settings.allow_basic_over_http,
            allow_unsealed_over_http: settings.allow_unsealed_over_http,
            negotiate: settings.negotiate,
            kerberos: settings.keytab.as_deref().map(kerberos::Acceptor::open).transpose()?,
        })
    }

    /// The users.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Makes a caller of a user.
    #[must_use]
    pub fn caller(
        &self,
        user: &User,
        proof: &'static str,
        protocol: &'static str,
        from: SocketAddr,
    ) -> Caller {
        Caller { name: Arc::clone(&user.name), role: user.role, from, proof, protocol }
    }

    /// Decides on a request by its headers. May take seconds for an address or a user with many failures.
    pub async fn decide(
        &self,
        channel: &Channel,
        state: &mut ConnectionState,
        headers: &HeaderMap,
    ) -> Decision {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (header, second) = (given.next(), given.next());
        let Some(header) = header else {
            return self.without_header(channel, state);
        };
        // Two headers would let a proxy and this server see different users.
        let text = header.to_str().ok().filter(|_| second.is_none()).map(str::trim).unwrap_or_default();
        let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("Basic") {
            return self.basic(channel, rest).await;
        }
        if text == BY_CERTIFICATE {
            return self.by_certificate(channel).unwrap_or_else(|| self.challenge(channel));
        }
        let known =
            ["Negotiate", "NTLM", "Kerberos"].into_iter().find(|name| scheme.eq_ignore_ascii_case(name));
        match known.filter(|_| self.negotiate) {
            Some(scheme) => self.negotiated(channel, state, scheme, rest).await,
            None => self.challenge(channel),
        }
    }

    fn without_header(&self, channel: &Channel, state: &mut ConnectionState) -> Decision {
        if let Some(established) = &mut state.established {
            if let Some(user) = self.directory.still(&established.user) {
                established.user = Arc::clone(&user);
                return Decision::Accepted { user, proof: established.proof, completed: None };
            }
            state.established = None;
        }
        self.by_certificate(channel).unwrap_or_else(|| self.challenge(channel))
    }

    fn by_certificate(&self, channel: &Channel) -> Option<Decision> {
        let user = self.directory.by_certificate(&channel.tls.as_ref()?.certificate)?;
        Some(Decision::Accepted { user, proof: "certificate", completed: None })
    }

    /// What a client can prove itself by on this connection.
    fn challenge(&self, channel: &Channel) -> Decision {
        let mut offers = Vec::with_capacity(2);
        if self.negotiate {
            offers.push("Negotiate".to_owned());
            if self.kerberos.is_some() {
                offers.push("Kerberos".to_owned());
            }
        }
        if channel.tls.is_some() || self.allow_basic_over_http {
            offers.push("Basic realm=\"standin\", charset=\"UTF-8\"".to_owned());
        }
        Decision::Challenge(offers)
    }

    async fn basic(&self, channel: &Channel, credentials: &str) -> Decision {
        if channel.tls.is_none() && !self.allow_basic_over_http {
            tracing::warn!(
                from = %channel.from,
                "a password came over plain HTTP and was not looked at; use HTTPS, or set allow_basic_over_http"
            );
            return self.challenge(channel);
        }
        let Some((name, password)) = read_basic(credentials) else {
            let failure = Failure { user: "", proof: "basic", reason: "the header is malformed" };
            return self.refuse(channel, failure);
        };
        let accepted = |user| Decision::Accepted { user, proof: "basic", completed: None };
        if let Some(user) = self.directory.recall(&name, &password) {
            return accepted(user);
        }
        let folded = names::fold(&name);
        if let Some(refused) = self.wait(channel.from.ip(), &folded).await {
            return refused;
        }
        match self.directory.check(&name, &password).await {
            Ok(Some(user)) => {
                self.throttle.succeeded(&folded);
                accepted(user)
            }
            Ok(None) => {
                let reason = "the user is unknown or the password is wrong";
                self.refuse(channel, Failure { user: &folded, proof: "basic", reason })
            }
            Err(reason) => {
                tracing::error!(%reason, "a password could not be checked; the client is refused");
                self.challenge(channel)
            }
        }
    }

    async fn negotiated(
        &self,
        channel: &Channel,
        state: &mut ConnectionState,
        scheme: &'static str,
        token: &str,
    ) -> Decision {
        // A new log-in on this connection ends the one before, whatever becomes of it.
        state.established = None;
        let Ok(token) = STANDARD.decode(token) else {
            state.negotiation = None;
            return self.refuse(channel, Failure { user: "", proof: "negotiate", reason: "no base64" });
        };
        let negotiation = state.negotiation.take().unwrap_or_default();
        let claimed = negotiation.claims(&token).map(|name| names::fold(&name));
        let refused = match &claimed {
            Some(user) => self.wait(channel.from.ip(), user).await,
            None => None,
        };
        if let Some(refused) = refused {
            return refused;
        }
        let against = Against {
            channel,
            directory: &self.directory,
            names: &self.names,
            kerberos: self.kerberos.as_ref(),
        };
        match negotiation.step(&token, against) {
            Ok(Step::Continue { negotiation, reply }) => {
                state.negotiation = Some(negotiation);
                Decision::Challenge(vec![format!("{scheme} {}", STANDARD.encode(reply))])
            }
            Ok(Step::Done { user, proof, sealer, reply }) => {
                if let Some(name) = &claimed {
                    self.throttle.succeeded(name);
                }
                let completed = Some(reply.map(|reply| format!("{scheme} {}", STANDARD.encode(reply))));
                state.established = Some(Established { user: Arc::clone(&user), proof, sealer });
                Decision::Accepted { user, proof, completed }
            }
            Err(error) => {
                let user = claimed.as_deref().unwrap_or("");
                let reason = error.to_string();
                self.refuse(channel, Failure { user, proof: "negotiate", reason: &reason })
            }
        }
    }

    /// Waits where there were many failures.
    async fn wait(&self, from: IpAddr, user: &str) -> Option<Decision> {
        match self.throttle.admit(Instant::now(), from, user) {
            Admission::After(pause) if pause.is_zero() => None,
            Admission::After(pause) => {
                tokio::time::sleep(pause).await;
                None
            }
            Admission::Refused(pause) => {
                tracing::debug!(%from, user = %shown(user), "an attempt was not looked at: too many failures");
                Some(Decision::Later(pause))
            }
        }
    }

    fn refuse(&self, channel: &Channel, failure: Failure<'_>) -> Decision {
        let failures = self.throttle.failed(Instant::now(), channel.from.ip(), failure.user);
        tracing::warn!(
            from = %channel.from, user = %shown(failure.user), proof = failure.proof, reason = failure.reason,
            failures, "a log-in failed"
        );
        self.challenge(channel)
    }
}

/// A name from outside, fit for a line of a log.
fn shown(name: &str) -> String {
    name.chars().take(names::MAX_NAME).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Name and password of a Basic header. The standard's charset is UTF-8; older clients write Latin-1.
fn read_basic(credentials: &str) -> Option<(String, String)> {
    let bytes = STANDARD.decode(credentials).ok()?;
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => error.into_bytes().into_iter().map(char::from).collect(),
    };
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

#[cfg(test)]
#[path = "auth/tests.rs"]
mod tests;

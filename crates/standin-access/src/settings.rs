//! What the operator can set: the table `[management]` of the daemon's configuration.
//!
//! Without that table nothing listens. With it, and nothing in it, both protocols listen on this host only, and
//! nobody gets in until there is a user.

use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

/// `[management]`. Every key is optional; an unknown one is an error.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessSettings {
    /// The address of all four ports.
    pub listen: IpAddr,
    /// The port of WS-Management over HTTP; 0 for none.
    pub wsman_http: u16,
    /// The port of WS-Management over HTTPS; 0 for none.
    pub wsman_https: u16,
    /// The port of CIM-XML over HTTP; 0 for none.
    pub cimxml_http: u16,
    /// The port of CIM-XML over HTTPS; 0 for none.
    pub cimxml_https: u16,
    /// The certificate for HTTPS, PEM, with its intermediates; the host's own unless given.
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM.
    pub key: Option<PathBuf>,
    /// The authorities of client certificates, PEM; those that the host trusts unless given.
    pub client_trust: Option<PathBuf>,
    /// The users' file; `users.toml` in the data directory unless given.
    pub users: Option<PathBuf>,
    /// The audit log; `audit.log` in the data directory unless given.
    pub audit_log: Option<PathBuf>,
    /// The keys of this host's Kerberos service. Without it there is no Kerberos.
    pub keytab: Option<PathBuf>,
    /// Take passwords over HTTP, where anybody on the way reads them.
    pub allow_basic_over_http: bool,
    /// Take requests over HTTP that the client did not seal, where anybody on the way reads and changes them.
    pub allow_unsealed_over_http: bool,
    /// Offer NTLM and Kerberos.
    pub negotiate: bool,
    /// The most connections at once, over all ports.
    pub max_connections: usize,
    /// The most connections at once from one address.
    pub max_connections_per_address: usize,
    /// The longest request, in KiB.
    pub max_request_kib: usize,
}

impl Default for AccessSettings {
    fn default() -> Self {
        Self {
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            wsman_http: 5985,
            wsman_https: 5986,
            cimxml_http: 5988,
            cimxml_https: 5989,
            certificate: None,
            key: None,
            client_trust: None,
            users: None,
            audit_log: None,
            keytab: None,
            allow_basic_over_http: false,
            allow_unsealed_over_http: false,
            negotiate: true,
            max_connections: 512,
            max_connections_per_address: 128,
            max_request_kib: 1024,
        }
    }
}

impl AccessSettings {
    /// Checks what a type cannot say.
    ///
    /// # Errors
    /// A sentence that names the key and what is allowed.
    pub fn validate(&self) -> Result<(), String> {
        if self.certificate.is_some() != self.key.is_some() {
            return Err("[management] needs certificate and key together, or neither".to_owned());
        }
        if !(1..=65_536).contains(&self.max_connections) {
            return Err("[management] max_connections is 1 to 65536".to_owned());
        }
        if !(1..=self.max_connections).contains(&self.max_connections_per_address) {
            return Err("[management] max_connections_per_address is 1 to max_connections".to_owned());
        }
        if !(64..=16_384).contains(&self.max_request_kib) {
            return Err("[management] max_request_kib is 64 to 16384".to_owned());
        }
        Ok(())
    }

    /// The same settings, with paths as `absolute` makes them.
    #[must_use]
    pub fn with_paths(mut self, absolute: impl Fn(PathBuf) -> PathBuf) -> Self {
        for path in [
            &mut self.certificate,
            &mut self.key,
            &mut self.client_trust,
            &mut self.users,
            &mut self.audit_log,
            &mut self.keytab,
        ] {
            *path = path.take().map(&absolute);
        }
        self
    }

    /// The limits of its listeners.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            connections: self.max_connections,
            connections_per_address: self.max_connections_per_address,
            body: self.max_request_kib << 10,
            ..Limits::default()
        }
    }
}

/// The limits of listeners: what a client can take of memory and time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, over all listeners.
    pub connections: usize,
    /// Connections at once from one address (IPv6: one network of 64 bits), over all listeners.
    pub connections_per_address: usize,
    /// The longest body, in bytes.
    pub body: usize,
    /// All bodies over 16 KiB that are in memory at once, in bytes.
    pub bodies: usize,
    /// The longest head of a request, in bytes. Kerberos tickets with many groups are long.
    pub head: usize,
    /// How long the TLS handshake may take.
    pub handshake_time: Duration,
    /// How long the head of a request may take from its first byte, and the first byte from the connection.
    pub head_time: Duration,
    /// How long a body may take.
    pub body_time: Duration,
    /// How long a connection may stand still between requests, or while it takes a reply.
    pub idle_time: Duration,
    /// How long requests may go on when the listener is told to end.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            connections_per_address: 128,
            body: 1 << 20,
            bodies: 64 << 20,
            head: 64 << 10,
            handshake_time: Duration::from_secs(10),
            head_time: Duration::from_secs(15),
            body_time: Duration::from_secs(30),
            idle_time: Duration::from_secs(120),
            grace: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_table_listens_on_this_host_only_and_takes_no_password_in_the_clear() {
        let settings: AccessSettings = toml::from_str("").unwrap();
        assert_eq!(settings, AccessSettings::default());
        assert!(settings.listen.is_loopback());
        assert!(!settings.allow_basic_over_http && !settings.allow_unsealed_over_http);
        settings.validate().unwrap();
    }

    #[test]
    fn unknown_keys_and_impossible_values_are_refused() {
        assert!(toml::from_str::<AccessSettings>("lissten = '::'").is_err());
        for text in ["key = '/k'", "max_connections = 0", "max_request_kib = 1", "max_connections = 4"] {
            let settings: AccessSettings = toml::from_str(text).unwrap();
            assert!(settings.validate().unwrap_err().contains("[management]"), "{text}");
        }
    }
}

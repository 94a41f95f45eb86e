//! The daemon's configuration: one TOML file, every key optional, unknown keys refused.
//!
//! ```text
//! --config FILE, $STANDIN_CONFIG, /etc/standin/standin.toml, or nothing
//!      |
//!      v
//! keys::check   every key is one of ours; else the line and the nearest valid key
//!      v
//! file::File    the plain struct, serde
//!      v
//! Config        the rich one: defaults filled in, paths absolute, numbers within their ranges
//! ```
//!
//! Read by `serve`, by the verbs that work on files (`pki`, `enroll`), and by every other verb for the socket.
//! The commented sample is `packaging/standin.toml`; a test keeps it complete.

mod file;
mod keys;

use crate::units;
use file::File;
use standin_access::AccessSettings;
use standin_engine::vm::Policy;
use standin_hypervisor::NetworkMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// Where the configuration is looked for when neither `--config` nor `$STANDIN_CONFIG` names one.
pub const DEFAULT_PATH: &str = "/etc/standin/standin.toml";

/// The TCP port of replication and enrolment, unless configured. No well-known port, and below the range that
/// Linux hands out to outgoing connections (32768 and above), so that it is never taken by accident.
pub const DEFAULT_PORT: u16 = 28444;

/// The longest path of a unix socket on Linux, in bytes, without the closing zero.
pub const MAX_SOCKET_PATH: usize = 107;

/// Why a configuration was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "the configuration {path} cannot be read: {reason}; name another file with --config, or correct its permissions"
    )]
    Unreadable {
        /// Which file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// Something in it is wrong.
    #[error("the configuration {path}, line {line}: {message}")]
    Invalid {
        /// Which file.
        path: String,
        /// From 1.
        line: usize,
        /// What is wrong and what is allowed.
        message: String,
    },
    /// A value is out of range or contradicts another.
    #[error("the configuration {path}: {message}")]
    Value {
        /// Which file.
        path: String,
        /// Which key, what is wrong, what is allowed.
        message: String,
    },
}

/// How guests' CPUs are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvmUse {
    /// KVM where a probe guest really ran, emulation otherwise.
    #[default]
    Auto,
    /// Always emulation.
    Never,
    /// Always KVM; a VM that cannot have it does not start.
    Always,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people on a terminal, plain otherwise.
    #[default]
    Auto,
    /// Short time, colours if the terminal has them.
    Human,
    /// Full time in UTC, level, no colours.
    Plain,
}

/// Where the certificates come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificates {
    /// The built-in authority's directory, filled by `standin pki init` or `standin enroll`.
    Builtin(PathBuf),
    /// The operator's own PEM files.
    Own {
        /// This host's certificate, with its intermediates.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
        /// The authorities whose hosts are trusted.
        trust: PathBuf,
    },
}

/// Everything the daemon can be told. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where it was read from; `None` if there was no file.
    pub source: Option<PathBuf>,
    /// The name of this host in messages, tokens and certificates.
    pub host_name: String,
    /// Everything that must survive a restart, except replicas.
    pub data_dir: PathBuf,
    /// Sockets and what a reboot may remove.
    pub runtime_dir: PathBuf,
    /// The unix socket of the local API.
    pub socket: PathBuf,
    /// A group whose members may use the socket, besides root and the daemon's own user.
    pub socket_group: Option<String>,
    /// Where replication and enrolment listen.
    pub listen: SocketAddr,
    /// Who this host is and whom it trusts.
    pub certificates: Certificates,
    /// The directory of the built-in authority, also when the operator's own certificates are used.
    pub pki_dir: PathBuf,
    /// Where replicas are stored unless their authorization entry says otherwise.
    pub replica_storage: PathBuf,
    /// Where the old data of blocks is kept that a guest overwrites during a cycle.
    pub scratch_dir: PathBuf,
    /// A cycle is given up before less than this is free in `scratch_dir`. Bytes.
    pub scratch_reserve: u64,
    /// A `tracing` filter, as in `info,standin_wire=debug`.
    pub log_level: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// The most cycles and first copies that run at once.
    pub max_cycles: usize,
    /// The bound of background merging, in bytes a second over all replicas; 0 is unbounded.
    pub merge_bytes_per_s: u64,
    /// How long running cycles and requests may take to end when the daemon is stopped.
    pub shutdown_grace: Duration,
    /// The QEMU binary; `None` searches the usual name in `PATH`.
    pub qemu_binary: Option<PathBuf>,
    /// How guests' CPUs are run.
    pub kvm: KvmUse,
    /// When the monitoring window begins, in seconds after local midnight.
    pub monitoring_start: Duration,
    /// How long the monitoring window is: 1 h to 7 days.
    pub monitoring_interval: Duration,
    /// The management API; `None` when it is not configured, and then nothing listens for it.
    pub management: Option<AccessSettings>,
    /// How this host decides who may run a VM, where that is a choice.
    pub policy: Policy,
    /// Which network here stands for which of a primary's, for VMs that fail over to this host.
    pub network_map: NetworkMap,
}

impl Config {
    /// Reads the file that `explicit` names (from `--config` or `$STANDIN_CONFIG`), else the default file if it
    /// exists, else takes the defaults.
    ///
    /// # Errors
    /// A sentence that names the file, the line and what is allowed.
    pub fn load(explicit: Option<&Path>) -> Result<Self, ConfigError> {
        let path = explicit.unwrap_or(Path::new(DEFAULT_PATH));
        let shown = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && explicit.is_none() => {
                Self::complete(File::default(), None, "(defaults)")
            }
            Err(error) => Err(ConfigError::Unreadable { path: shown, reason: error.to_string() }),
        }
    }

    /// Reads a configuration from text; `path` is for messages and for relative paths in it.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        keys::check(text).map_err(|(line, message)| ConfigError::Invalid {
            path: shown.clone(),
            line,
            message,
        })?;
        let file: File = toml::from_str(text).map_err(|error| ConfigError::Invalid {
            path: shown.clone(),
            line: keys::line_of(text, error.span().map_or(0, |span| span.start)),
            message: keys::describe(text, &error),
        })?;
        Self::complete(file, Some(path), &shown)
    }

    fn complete(file: File, source: Option<&Path>, shown: &str) -> Result<Self, ConfigError> {
        let value = |message| ConfigError::Value { path: shown.to_owned(), message };
        let base = source.and_then(Path::parent).unwrap_or(Path::new("/"));
        let absolute =
            |path: PathBuf| std::path::absolute(base.join(path)).unwrap_or_else(|_| base.to_path_buf());
        let data_dir = absolute(file.data_dir.unwrap_or_else(|| "/var/lib/standin".into()));
        let runtime_dir = absolute(file.runtime_dir.unwrap_or_else(|| "/run/standin".into()));
        let under = |given: Option<PathBuf>, parent: &Path, name: &str| {
            given.map_or_else(|| parent.join(name), absolute)
        };
        let socket = under(file.socket, &runtime_dir, "standin.sock");
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(value(format!(
                "socket: {} is longer than the {MAX_SOCKET_PATH} bytes that a unix socket's path may have; choose a shorter one",
                socket.display()
            )));
        }
        let pki_dir = under(file.pki_dir, &data_dir, "pki");
        let certificates = file.tls.certificates(&pki_dir, absolute).map_err(value)?;
        let monitoring_interval =
            within("monitoring.interval", file.monitoring.interval, "12h", 3600, 604_800).map_err(value)?;
        let shutdown_grace =
            within("limits.shutdown_grace", file.limits.shutdown_grace, "10s", 0, 600).map_err(value)?;
        let network_map = file.network_map.iter().map(|(from, to)| (from.as_str(), to.as_str()));
        let network_map =
            NetworkMap::parse(network_map).map_err(|why| value(format!("network_map: {why}")))?;
        let management = file.management.map(|settings| settings.with_paths(absolute));
        if let Some(settings) = &management {
            settings.validate().map_err(value)?;
        }
        let max_cycles = file.limits.max_cycles.unwrap_or(4);
        if !(1..=1024).contains(&max_cycles) {
            return Err(value(format!("limits.max_cycles: {max_cycles} is out of range, use 1 to 1024")));
        }
        Ok(Self {
            source: source.map(Path::to_path_buf),
            host_name: host_name(file.host_name).map_err(value)?,
            socket,
            socket_group: file.socket_group.filter(|group| !group.is_empty()),
            listen: listen(file.listen.as_deref()).map_err(value)?,
            certificates,
            pki_dir,
            replica_storage: under(file.replica_storage, &data_dir, "replicas"),
            scratch_dir: under(file.scratch_dir, &data_dir, "scratch"),
            scratch_reserve: size("limits.scratch_reserve", file.limits.scratch_reserve, "1GiB")
                .map_err(value)?,
            log_level: file.log.level.unwrap_or_else(|| "info".to_owned()),
            log_format: file.log.format.unwrap_or_default(),
            max_cycles,
            merge_bytes_per_s: size("limits.merge_rate", file.limits.merge_rate, "64MiB").map_err(value)?,
            shutdown_grace,
            qemu_binary: file.qemu.binary.map(absolute),
            kvm: file.qemu.kvm.unwrap_or_default(),
            monitoring_start: clock(file.monitoring.start.as_deref().unwrap_or("09:00")).map_err(value)?,
            monitoring_interval,
            management,
            policy: file.fence.policy().map_err(value)?,
            network_map,
            data_dir,
            runtime_dir,
        })
    }
}

impl Config {
    /// The users of the management API.
    #[must_use]
    pub fn users_file(&self) -> PathBuf {
        let given = self.management.as_ref().and_then(|settings| settings.users.clone());
        given.unwrap_or_else(|| self.data_dir.join("users.toml"))
    }

    /// The audit log of the management API.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        let given = self.management.as_ref().and_then(|settings| settings.audit_log.clone());
        given.unwrap_or_else(|| self.data_dir.join("audit.log"))
    }
}

fn within(key: &str, given: Option<String>, default: &str, low: u64, high: u64) -> Result<Duration, String> {
    let text = given.as_deref().unwrap_or(default);
    let duration = units::parse_duration(text).map_err(|error| format!("{key}: {error}"))?;
    if (low..=high).contains(&duration.as_secs()) {
        return Ok(duration);
    }
    Err(format!("{key}: {text} is out of range, use {} to {}", units::span(low), units::span(high)))
}

fn size(key: &str, given: Option<String>, default: &str) -> Result<u64, String> {
    units::parse_size(given.as_deref().unwrap_or(default)).map_err(|error| format!("{key}: {error}"))
}

/// `HH:MM` as the time since midnight.
fn clock(text: &str) -> Result<Duration, String> {
    let parsed = text.split_once(':').and_then(|(hours, minutes)| {
        let (hours, minutes) = (hours.parse::<u64>().ok()?, minutes.parse::<u64>().ok()?);
        (hours < 24 && minutes < 60).then_some(Duration::from_secs(hours * 3600 + minutes * 60))
    });
    parsed.ok_or_else(|| format!("monitoring.start: {text:?} is no time of day, write HH:MM as in 09:00"))
}

fn listen(given: Option<&str>) -> Result<SocketAddr, String> {
    let Some(text) = given else {
        return Ok(SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT)));
    };
    let with_port = text.parse::<SocketAddr>().ok();
    let without = || text.parse().ok().map(|ip| SocketAddr::new(ip, DEFAULT_PORT));
    with_port.or_else(without).ok_or_else(|| {
        format!("listen: {text:?} is no address, write an IP address and a port as in 0.0.0.0:{DEFAULT_PORT} or [::]:{DEFAULT_PORT}")
    })
}

/// The configured name or the system's, checked: it appears in tokens, certificates and messages of peers.
fn host_name(given: Option<String>) -> Result<String, String> {
    let name = given.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    let sound = !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        });
    if sound {
        return Ok(name);
    }
    let shown: String = name.chars().take(64).collect();
    Err(format!("host_name: {shown:?} is no host name; use labels of letters, digits and '-' joined by dots"))
}

#[cfg(test)]
mod tests;

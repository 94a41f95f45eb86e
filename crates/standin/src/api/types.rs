//! What travels over the local API besides the views of `standin-model`, and the checked forms that the
//! service gets. Requests are plain and strict about unknown fields; `TryFrom` makes the rich form.

use super::reason::Request;
use crate::config::DEFAULT_PORT;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use standin_engine::vm::Asserts;
use standin_model::fence::Assertion;
use standin_model::network::NetworkChange;
use standin_model::retention::Policy;
use standin_model::settings::RelationshipSettings;
use standin_model::view::{JobView, VmView};
use standin_model::{DiskName, HostId, NameError, Refusal, ReturnCode, VmId, VmName};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A name that cannot be used, as a refusal.
pub(crate) fn refused_name(error: &NameError) -> Refusal {
    Request::VmName { error: error.to_string() }.into()
}

/// A VM as people name it: by its name or its UUID. The service finds out which VM that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmRef {
    /// By UUID.
    Id(VmId),
    /// By name.
    Name(VmName),
}

impl FromStr for VmRef {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Self, Refusal> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        VmName::new(text).map(Self::Name).map_err(|error| refused_name(&error))
    }
}

impl fmt::Display for VmRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A peer host: a DNS name or an IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// A DNS name, or an IP address without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl FromStr for PeerAddress {
    type Err = Refusal;

    /// Reads `HOST`, `HOST:PORT`, `ADDRESS`, `ADDRESS:PORT` or `[V6ADDRESS]:PORT`.
    fn from_str(text: &str) -> Result<Self, Refusal> {
        let refuse = || Refusal::from(Request::Address { text: text.to_owned() });
        if let Ok(ip) = text.parse::<std::net::IpAddr>() {
            return Ok(Self { host: ip.to_string(), port: DEFAULT_PORT });
        }
        if let Ok(address) = text.parse::<std::net::SocketAddr>() {
            if address.port() == 0 {
                return Err(refuse());
            }
            return Ok(Self { host: address.ip().to_string(), port: address.port() });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| refuse())?),
            None => (text, DEFAULT_PORT),
        };
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        };
        if port == 0 || host.len() > 253 || !host.trim_end_matches('.').split('.').all(label) {
            return Err(refuse());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

/// `HOST:PORT`, with brackets around an IPv6 address.
impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}", self.host, self.port)
    }
}

/// Body of `POST /v1/vms/{vm}/network`: all of it is done, or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRequest {
    /// One for each card that changes.
    pub changes: Vec<NetworkChange>,
}

/// Body of `POST /v1/vms/{vm}/replicate`. What is left out is the daemon's default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicateRequest {
    /// The replica host, `HOST` or `HOST:PORT`.
    pub to: String,
    /// Start the first copy at once.
    #[serde(default = "yes")]
    pub start: bool,
    /// Seconds from cut to cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_s: Option<u32>,
    /// Hourly points beyond the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<u32>,
    /// Seconds for which every point is kept, besides the hourly ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_all_for_s: Option<u64>,
    /// Hours between application-consistent points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application_consistent_hours: Option<u32>,
    /// Compress blocks on the wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<bool>,
    /// Bytes per bit of the dirty bitmaps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granularity: Option<u64>,
    /// The disks that replicate; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<String>,
}

fn yes() -> bool {
    true
}

/// A checked [`ReplicateRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicateOrder {
    /// The replica host.
    pub to: PeerAddress,
    /// Start the first copy at once.
    pub start: bool,
    /// All within their ranges.
    pub settings: RelationshipSettings,
}

impl ReplicateRequest {
    /// Fills in `defaults` and checks everything that can be checked without the VM.
    ///
    /// # Errors
    /// [`ReturnCode::InvalidParameter`] with what is allowed.
    pub fn into_order(self, defaults: &RelationshipSettings) -> Result<ReplicateOrder, Refusal> {
        let granularity = self.granularity.unwrap_or(u64::from(defaults.granularity));
        let settings = RelationshipSettings {
            interval_s: self.interval_s.unwrap_or(defaults.interval_s),
            history: self.history.unwrap_or(defaults.history),
            application_consistent_hours: self
                .application_consistent_hours
                .unwrap_or(defaults.application_consistent_hours),
            retention: match self.keep_all_for_s {
                None => defaults.retention.clone(),
                Some(span) => Some(Policy::keep_all_for(span, self.history.unwrap_or(defaults.history))),
            },
            compression: self.compression.unwrap_or(defaults.compression),
            // What does not fit is out of range in any case; `validate` says so.
            granularity: u32::try_from(granularity).unwrap_or(u32::MAX),
            disks: disk_names(self.disks)?,
            ..defaults.clone()
        };
        settings.validate()?;
        Ok(ReplicateOrder { to: self.to.parse()?, start: self.start, settings })
    }
}

/// The names of disks, checked.
///
/// # Errors
/// [`ReturnCode::InvalidParameter`] for one that cannot be used.
pub(super) fn disk_names(names: Vec<String>) -> Result<Vec<DiskName>, Refusal> {
    let names: Result<Vec<_>, _> = names.into_iter().map(DiskName::new).collect();
    names.map_err(|error| Request::DiskName { error: error.to_string() }.into())
}

/// Body of `POST /v1/vms/{vm}/stop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StopRequest {
    /// Pull the plug in place of asking the guest.
    pub force: bool,
    /// How long the guest may take. Seconds.
    pub timeout_s: u64,
}

impl Default for StopRequest {
    fn default() -> Self {
        Self { force: false, timeout_s: 60 }
    }
}

/// Body of `POST /v1/vms/{vm}/start`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StartRequest {
    /// The host that the VM was taken from is down: counts while it does not answer.
    pub yes: bool,
    /// Start it against what other hosts say, or do not say.
    pub force: bool,
}

impl StartRequest {
    /// What is asserted by it.
    #[must_use]
    pub fn asserted(self) -> Option<Assertion> {
        match (self.force, self.yes) {
            (true, _) => Some(Assertion::Forced),
            (false, true) => Some(Assertion::Silent),
            (false, false) => None,
        }
    }
}

/// Answer to `POST /v1/vms/{vm}/start`: the VM, and the job where the start waits for a host that is silent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StartView {
    /// The VM.
    #[serde(flatten)]
    pub vm: VmView,
    /// Waits, and starts the VM when it may.
    pub job: Option<JobView>,
}

/// Body of `POST /v1/vms/{vm}/failover/keep`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepRequest {
    /// The copy of this host is kept; else that of the other one.
    pub here: bool,
}

/// Body of `POST /v1/adopt`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdoptRequest {
    /// The absolute path of its QMP socket.
    pub qmp: PathBuf,
    /// What to call it; QEMU's own name for it if absent.
    #[serde(default)]
    pub name: Option<VmName>,
    /// Adopt it although another host may run the same VM.
    #[serde(default)]
    pub force: bool,
}

/// Body of `POST /v1/authorizations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthRequest {
    /// A host name, or one whose first label is `*`, or `*`.
    pub pattern: String,
    /// Hosts of one group may send for each other's VMs.
    pub trust_group: String,
    /// The absolute path where its replicas go; the configured place if absent.
    #[serde(default)]
    pub storage: Option<PathBuf>,
}

/// Body of `POST /v1/vms/{vm}/points`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PointRequest {
    /// Freeze the guest by its agent at the cut.
    pub application_consistent: bool,
}

/// Body of `POST /v1/vms/{vm}/points/pin`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    /// A point's id, an unambiguous beginning of it, or its epoch.
    pub point: String,
    /// Retention does not drop it; else it may again.
    pub pinned: bool,
}

/// Body of `POST /v1/vms/{vm}/failover`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FailoverRequest {
    /// A point's id, an unambiguous beginning of it, its epoch, or `latest`; absent is `latest`.
    pub point: Option<String>,
    /// Start the VM on it.
    pub start: bool,
    /// The primary is down: counts while it does not answer.
    pub yes: bool,
    /// The primary is fenced off, whatever it answers.
    pub force: bool,
}

impl FailoverRequest {
    /// What is asserted by it.
    #[must_use]
    pub fn asserts(&self) -> Asserts {
        match (self.force, self.yes) {
            (true, _) => Asserts::Forced,
            (false, true) => Asserts::Down,
            (false, false) => Asserts::Nothing,
        }
    }
}

/// Query of `GET /v1/vms/{vm}/failover`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PreflightQuery {
    /// As in [`FailoverRequest`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub point: Option<String>,
}

/// Body of `POST /v1/store/check`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckRequest {
    /// One VM; all replicas if absent.
    pub vm: Option<String>,
}

/// Body of `POST /v1/store/repair`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairRequest {
    /// The VM.
    pub vm: String,
}

/// Body of `POST /v1/store/adopt` and `POST /v1/store/remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryRequest {
    /// A directory of a replica, absolute.
    pub directory: PathBuf,
}

/// Body of `POST /v1/connection-test`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionTestRequest {
    /// The host, `HOST` or `HOST:PORT`.
    pub to: String,
}

/// Query of `GET /v1/jobs/{id}/watch`: answer as soon as the job differs from this, or after `timeout_s`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchQuery {
    /// The percentage that the client has seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_percent: Option<u8>,
    /// The bytes that the client has seen. A percent of a large disk is minutes of work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_bytes: Option<u64>,
    /// The state code that the client has seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_state: Option<u16>,
    /// Answer after this many seconds in any case; 20 if absent, 60 at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

/// What became of a request: done at once, or a job that goes on. `return_code` is 0 or 4096.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// [`ReturnCode::Completed`] or [`ReturnCode::JobStarted`].
    pub return_code: ReturnCode,
    /// The job, if one was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobView>,
    /// Of `replicate`: the replica was there, with so many recovery points, and is compared instead of copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found_points: Option<u64>,
}

impl Outcome {
    /// Done, nothing goes on.
    #[must_use]
    pub fn completed() -> Self {
        Self { return_code: ReturnCode::Completed, job: None, found_points: None }
    }

    /// Goes on as `job`.
    #[must_use]
    pub fn started(job: JobView) -> Self {
        Self { return_code: ReturnCode::JobStarted, job: Some(job), found_points: None }
    }
}

/// Done, with nothing else to say. `return_code` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// [`ReturnCode::Completed`].
    pub return_code: ReturnCode,
}

impl Default for Done {
    fn default() -> Self {
        Self { return_code: ReturnCode::Completed }
    }
}

/// A refusal as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The code of the model.
    pub return_code: ReturnCode,
    /// The stable name of the reason: `docs/reasons.md` lists them. Absent where a release refused that knew no names.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What happened.
    pub message: String,
    /// What to do now.
    pub remedy: String,
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let reason = refusal.named().unwrap_or_default();
        Self { return_code: refusal.code, reason, message: refusal.message, remedy: refusal.remedy }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::told(problem.return_code, problem.reason, problem.message, problem.remedy)
    }
}

/// A host that this one has met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
    /// Its id, which outlives its certificates.
    pub id: HostId,
    /// The names of the certificate that the id is bound to.
    pub names: Vec<String>,
    /// Where it can be reached (`host:port`), what has worked first.
    pub addresses: Vec<String>,
    /// Name and release of its software.
    pub software: String,
    /// There is a link with it now.
    pub connected: bool,
    /// When a link with it last came up.
    pub last_seen: Timestamp,
}

/// Body of `POST /v1/peers/{id}/rebind`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebindRequest {
    /// The name in the host's certificate now; or the id that the host has now, after it was set up anew.
    pub name: String,
}

/// Facts of this host and its daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    /// The configured name of this host.
    pub host_name: String,
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Since when it runs.
    pub started_at: Timestamp,
    /// Where replication listens.
    pub listen: String,
    /// `kvm`, or `tcg` with the reason.
    pub accelerator: String,
    /// The version of QEMU, if it was found.
    pub qemu_version: Option<String>,
    /// Where its state is kept.
    pub data_dir: PathBuf,
    /// Where replicas are stored by default.
    pub replica_storage: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(to: &str) -> ReplicateRequest {
        serde_json::from_value(serde_json::json!({ "to": to })).unwrap()
    }

    #[test]
    fn a_vm_is_a_uuid_or_a_usable_name() {
        let id = VmId::random();
        assert_eq!(id.to_string().parse::<VmRef>().unwrap(), VmRef::Id(id));
        assert_eq!("web-1".parse::<VmRef>().unwrap().to_string(), "web-1");
        for bad in ["", "../x", "a b", "a\u{7}", &"x".repeat(300)] {
            let refusal = bad.parse::<VmRef>().expect_err(bad);
            assert_eq!(refusal.code, ReturnCode::InvalidParameter);
        }
    }

    #[test]
    fn peers_are_read_with_and_without_port() {
        for (text, shown) in [
            ("replica", "replica:28444"),
            ("replica.example.org:7000", "replica.example.org:7000"),
            ("10.0.0.2", "10.0.0.2:28444"),
            ("10.0.0.2:7000", "10.0.0.2:7000"),
            ("::1", "[::1]:28444"),
            ("[fe80::2]:7000", "[fe80::2]:7000"),
        ] {
            assert_eq!(text.parse::<PeerAddress>().expect(text).to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            ":1",
            "a:",
            "a:0",
            "127.0.0.1:0",
            "[::1]:0",
            "a:70000",
            "a b",
            "http://a",
            "a/b",
            "-a",
            "a..b",
            "a:1:2",
            "a\n",
            &"x".repeat(300),
        ] {
            assert!(bad.parse::<PeerAddress>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_bare_request_takes_the_defaults_and_starts() {
        let defaults = RelationshipSettings { scratch_reserve: 7, ..RelationshipSettings::default() };
        let order = request("b").into_order(&defaults).unwrap();
        assert!(order.start);
        assert_eq!(order.settings, defaults);
    }

    #[test]
    fn settings_out_of_range_are_refused_before_anything_happens() {
        let defaults = RelationshipSettings::default();
        for wrong in [
            ReplicateRequest { interval_s: Some(0), ..request("b") },
            ReplicateRequest { interval_s: Some(90_000), ..request("b") },
            ReplicateRequest { history: Some(25), ..request("b") },
            ReplicateRequest { granularity: Some(1000), ..request("b") },
            ReplicateRequest { granularity: Some((1 << 32) + 65536), ..request("b") },
            ReplicateRequest { application_consistent_hours: Some(1), ..request("b") },
            ReplicateRequest { disks: vec!["a/b".into()], ..request("b") },
            ReplicateRequest { disks: vec!["a".into(), "a".into()], ..request("b") },
            request("a b"),
        ] {
            let refusal = wrong.clone().into_order(&defaults).expect_err("accepted");
            assert_eq!(refusal.code, ReturnCode::InvalidParameter, "{wrong:?}");
            assert!(!refusal.remedy.is_empty(), "{wrong:?}");
        }
    }

    #[test]
    fn unknown_fields_of_a_request_are_refused() {
        let text = r#"{"to":"b","intervall_s":5}"#;
        let error = serde_json::from_str::<ReplicateRequest>(text).expect_err("accepted");
        assert!(error.to_string().contains("intervall_s"), "{error}");
    }
}

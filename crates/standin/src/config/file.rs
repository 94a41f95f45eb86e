//! The configuration file as it is written: every key optional, nothing checked but its type.

use super::{Certificates, KvmUse, LogFormat};
use crate::api::types::PeerAddress;
use serde::Deserialize;
use standin_access::AccessSettings;
use standin_engine::vm::{Policy, WhenBothRun};
use standin_model::fence::{OverRunning, WhenSilent};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub host_name: Option<String>,
    pub data_dir: Option<PathBuf>,
    pub runtime_dir: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    pub socket_group: Option<String>,
    pub listen: Option<String>,
    pub pki_dir: Option<PathBuf>,
    pub replica_storage: Option<PathBuf>,
    pub scratch_dir: Option<PathBuf>,
    pub tls: Tls,
    pub log: Log,
    pub limits: Limits,
    pub qemu: Qemu,
    pub fence: Fence,
    pub monitoring: Monitoring,
    pub management: Option<AccessSettings>,
    pub network_map: BTreeMap<String, String>,
}

/// `[tls]`: the operator's own certificates.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tls {
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub trust: Option<PathBuf>,
}

impl Tls {
    /// All three files, or none and then the built-in authority.
    pub fn certificates(
        self,
        pki: &Path,
        absolute: impl Fn(PathBuf) -> PathBuf,
    ) -> Result<Certificates, String> {
        match (self.certificate, self.key, self.trust) {
            (None, None, None) => Ok(Certificates::Builtin(pki.to_path_buf())),
            (Some(certificate), Some(key), Some(trust)) => Ok(Certificates::Own {
                certificate: absolute(certificate),
                key: absolute(key),
                trust: absolute(trust),
            }),
            (certificate, key, trust) => {
                let given = [("certificate", certificate), ("key", key), ("trust", trust)];
                let missing: Vec<_> =
                    given.iter().filter(|(_, path)| path.is_none()).map(|(name, _)| *name).collect();
                Err(format!(
                    "[tls] needs certificate, key and trust together; add {}, or leave all three out to use the built-in authority",
                    missing.join(" and ")
                ))
            }
        }
    }
}

/// `[log]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    pub level: Option<String>,
    pub format: Option<LogFormat>,
}

/// `[limits]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    pub max_cycles: Option<usize>,
    pub merge_rate: Option<String>,
    pub scratch_reserve: Option<String>,
    pub shutdown_grace: Option<String>,
}

/// `[qemu]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Qemu {
    pub binary: Option<PathBuf>,
    pub kvm: Option<KvmUse>,
}

/// `[fence]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Fence {
    pub when_peer_is_silent: Option<String>,
    pub start_over_running_primary: Option<String>,
    pub when_both_run: Option<String>,
    pub witness: Option<String>,
    pub fence_command: Vec<String>,
}

impl Fence {
    /// The policy that the keys describe.
    pub fn policy(self) -> Result<Policy, String> {
        let chosen = |key: &str, given: Option<String>, choices: &str| {
            format!("fence.{key}: {:?} is unknown, use {choices}", given.unwrap_or_default())
        };
        let when_silent = match self.when_peer_is_silent.as_deref() {
            None => WhenSilent::default(),
            Some(text) => {
                crate::units::when_silent(text).map_err(|why| format!("fence.when_peer_is_silent: {why}"))?
            }
        };
        let over_running = match self.start_over_running_primary.as_deref() {
            None | Some("refuse") => OverRunning::Refuse,
            Some("pause") => OverRunning::Pause,
            _ => {
                let given = self.start_over_running_primary;
                return Err(chosen("start_over_running_primary", given, "refuse or pause"));
            }
        };
        let both_run = match self.when_both_run.as_deref() {
            None | Some("pause") => WhenBothRun::Pause,
            Some("power-off") => WhenBothRun::PowerOff,
            Some("leave") => WhenBothRun::Leave,
            _ => return Err(chosen("when_both_run", self.when_both_run, "pause, power-off or leave")),
        };
        let fence_command = self.fence_command;
        if fence_command.first().is_some_and(|program| !Path::new(program).is_absolute()) {
            return Err("fence.fence_command: write the absolute path of the program first".to_owned());
        }
        let witness = self.witness.map(|text| text.parse::<PeerAddress>()).transpose();
        let witness =
            witness.map_err(|refusal| format!("fence.witness: {}. {}", refusal.message, refusal.remedy))?;
        let witness = witness.map(|address| address.to_string());
        Ok(Policy { when_silent, over_running, both_run, witness, fence_command, ..Policy::default() })
    }
}

/// `[monitoring]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Monitoring {
    pub start: Option<String>,
    pub interval: Option<String>,
}

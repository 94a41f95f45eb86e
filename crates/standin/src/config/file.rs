//! The configuration file as it is written: every key optional, nothing checked but its type.

use super::{Certificates, KvmUse, LogFormat};
use serde::Deserialize;
use standin_access::AccessSettings;
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

/// `[monitoring]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Monitoring {
    pub start: Option<String>,
    pub interval: Option<String>,
}

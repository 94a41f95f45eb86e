//! Why the settings of the service cannot be changed so.

use crate::reason::{Reason, Text};
use crate::reasons;

reasons! {
    /// Why the settings of the service cannot be changed so.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Service {
        /// The service is to admit primaries by Kerberos alone, which standin does not have between hosts.
        KerberosAlone => "kerberos_alone", NotSupported;
        /// The recovery server is to be enabled without a way of authentication.
        NoAuthentication => "no_authentication", InvalidParameter;
        /// The port of replication is to change while the daemon runs.
        PortFixed { now: u16, wanted: u16 } => "replication_port_fixed", NotSupported;
        /// The window of the statistics is shorter than an hour or longer than a week.
        MonitoringInterval { seconds: u32 } => "monitoring_interval_out_of_range", InvalidParameter;
    }
}

impl Reason for Service {
    fn text(&self) -> Text {
        match self {
            Self::KerberosAlone => Text::new(
                "hosts authenticate each other by certificates; Kerberos alone would admit no primary",
                "Use certificates (AllowedAuthenticationType 2), or both (3).",
            ),
            Self::NoAuthentication => Text::new(
                "a host that takes in replicas needs a way of authentication",
                "Use certificates (AllowedAuthenticationType 2), or disable the recovery server.",
            ),
            Self::PortFixed { now, wanted } => Text::new(
                format!(
                    "the port of replication is {now} and cannot be changed to {wanted} while the daemon runs"
                ),
                "Set `listen` in the daemon's configuration and restart it.",
            ),
            Self::MonitoringInterval { seconds } => Text::new(
                format!("a monitoring interval of {seconds} s is out of range"),
                "Use 3600 s (an hour) to 604800 s (a week).",
            ),
        }
    }
}

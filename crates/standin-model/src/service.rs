//! Settings of the replication service of a host: `Msvm_ReplicationServiceSettingData`. Kept by the engine, changed
//! by `ModifyServiceSettings`.

use crate::coded::coded;
pub(crate) mod reason;

use crate::codes::Refusal;
use crate::stats::Window;
use serde::{Deserialize, Serialize};

coded! {
    /// `AllowedAuthenticationType`: how primaries may prove who they are.
    pub enum AllowedAuthentication {
        /// None was chosen.
        Undefined = 0, "None";
        /// Kerberos. standin's hosts authenticate each other by certificates, so this alone would admit nobody.
        Kerberos = 1, "Kerberos authentication";
        /// Certificates.
        Certificate = 2, "Certificate based authentication";
        /// Either.
        Both = 3, "Certificate based authentication and kerberos authentication";
    }
}

/// Settings of the replication service of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSettings {
    /// `RecoveryServerEnabled`: this host takes in replicas. When it does not, no primary is admitted, whatever the
    /// authorization entries say. On by default: the entries, of which there are none at first, decide.
    pub recovery_server_enabled: bool,
    /// `AllowedAuthenticationType`.
    pub authentication: AllowedAuthentication,
    /// `HttpsPort`: the TCP port on which primaries reach this host, by mutual TLS. Set in the daemon's configuration.
    pub https_port: u16,
    /// `MonitoringStartTime` and `MonitoringInterval`: where the windows of the statistics lie.
    pub monitoring: Window,
}

impl ServiceSettings {
    /// What holds until somebody changes it.
    #[must_use]
    pub fn new(https_port: u16, monitoring: Window) -> Self {
        Self {
            recovery_server_enabled: true,
            authentication: AllowedAuthentication::Certificate,
            https_port,
            monitoring,
        }
    }

    /// Checks every value, and that `self` may take the place of `before`.
    ///
    /// # Errors
    /// [`crate::ReturnCode::InvalidParameter`] for a value out of range, [`crate::ReturnCode::NotSupported`] for what standin does
    /// not have.
    pub fn may_replace(&self, before: &Self) -> Result<(), Refusal> {
        self.monitoring.validate()?;
        match self.authentication {
            AllowedAuthentication::Kerberos => {
                return Err(reason::Service::KerberosAlone.into());
            }
            AllowedAuthentication::Undefined if self.recovery_server_enabled => {
                return Err(reason::Service::NoAuthentication.into());
            }
            _ => {}
        }
        if self.https_port == before.https_port {
            return Ok(());
        }
        Err(reason::Service::PortFixed { now: before.https_port, wanted: self.https_port }.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coded::check_coded;
    use crate::codes::ReturnCode;

    fn settings() -> ServiceSettings {
        ServiceSettings::new(28444, Window::default())
    }

    #[test]
    fn authentication_has_its_numbers_and_words() {
        check_coded!(AllowedAuthentication);
        assert_eq!(AllowedAuthentication::from_code(3), Some(AllowedAuthentication::Both));
        assert_eq!(AllowedAuthentication::from_code(4), None);
    }

    #[test]
    fn what_standin_has_may_be_chosen_and_nothing_else() {
        let before = settings();
        assert_eq!(before.may_replace(&before), Ok(()));
        let off = ServiceSettings {
            recovery_server_enabled: false,
            authentication: AllowedAuthentication::Undefined,
            ..before
        };
        assert_eq!(off.may_replace(&before), Ok(()));
        let code = |changed: ServiceSettings| changed.may_replace(&before).map_err(|refusal| refusal.code);
        let kerberos = ServiceSettings { authentication: AllowedAuthentication::Kerberos, ..before };
        assert_eq!(code(kerberos), Err(ReturnCode::NotSupported));
        let nobody = ServiceSettings { recovery_server_enabled: true, ..off };
        assert_eq!(code(nobody), Err(ReturnCode::InvalidParameter));
        assert_eq!(code(ServiceSettings { https_port: 443, ..before }), Err(ReturnCode::NotSupported));
        for (length_s, fits) in [(3599, false), (3600, true), (604_800, true), (604_801, false)] {
            let window = Window { length_s, ..Window::default() };
            assert_eq!(code(ServiceSettings { monitoring: window, ..before }).is_ok(), fits, "{length_s}");
        }
    }
}

//! Requests that change a relationship in place, and the name of a VM. Plain and strict about unknown fields, as those of
//! [`super::types`].

use super::reason::Request;
use super::types::{PeerAddress, disk_names};
use serde::{Deserialize, Serialize};
use standin_engine::Modification;
use standin_model::fence::WhenSilent;
use standin_model::settings::SettingsChange;
use standin_model::{Refusal, VmName};

/// Body of `POST /v1/vms/{vm}/settings`, on the primary but where it says otherwise: what is left out stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SettingsRequest {
    /// Where the same replica is found now, `HOST` or `HOST:PORT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Seconds from cut to cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_s: Option<u32>,
    /// Hourly points beyond the latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<u32>,
    /// Seconds for which every point is kept, besides the hourly ones; 0 for no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_all_for_s: Option<u64>,
    /// Hours between application-consistent points; 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application_consistent_hours: Option<u32>,
    /// Longest time the guest may stay frozen for such a point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze_deadline_s: Option<u32>,
    /// Compress blocks on the wire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<bool>,
    /// Resynchronize without being asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_resync: Option<bool>,
    /// Bytes that stay free where the old data of overwritten blocks is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scratch_reserve: Option<u64>,
    /// What this host does at a start of the VM when another host that could run it does not answer: `refuse`,
    /// `start-after 2m`, or `default` for what the host is configured to. On either side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when_peer_is_silent: Option<String>,
    /// Bytes per bit of the dirty bitmaps. Refused unless it is as it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granularity: Option<u64>,
    /// The disks that replicate. Refused unless they are as they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disks: Option<Vec<String>>,
}

impl SettingsRequest {
    /// Checks everything that can be checked without the relationship.
    ///
    /// # Errors
    /// [`standin_model::ReturnCode::InvalidParameter`] with what is allowed.
    pub fn into_modification(self) -> Result<Modification, Refusal> {
        if self == Self::default() {
            return Err(Request::NoChange.into());
        }
        let peer: Option<PeerAddress> = self.to.as_deref().map(str::parse).transpose()?;
        Ok(Modification {
            peer: peer.map(|peer| peer.to_string()),
            settings: SettingsChange {
                interval_s: self.interval_s,
                history: self.history,
                keep_all_for_s: self.keep_all_for_s,
                application_consistent_hours: self.application_consistent_hours,
                freeze_deadline_s: self.freeze_deadline_s,
                compression: self.compression,
                auto_resync: self.auto_resync,
                auto_resync_window: None,
                scratch_reserve: self.scratch_reserve,
                // What does not fit is out of range in any case; `validate` says so.
                granularity: self.granularity.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX)),
                disks: self.disks.map(disk_names).transpose()?,
            },
            when_silent: self.when_peer_is_silent.as_deref().map(when_silent).transpose()?,
        })
    }
}

/// `None` for what the host is configured to.
fn when_silent(text: &str) -> Result<Option<WhenSilent>, Refusal> {
    if text == "default" {
        return Ok(None);
    }
    crate::units::when_silent(text).map(Some).map_err(|why| Request::WhenSilent { why }.into())
}

/// Body of `POST /v1/vms/{vm}/rename`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenameRequest {
    /// The new name.
    pub name: VmName,
}

#[cfg(test)]
mod tests {
    use super::*;
    use standin_model::ReturnCode;

    #[test]
    fn a_change_of_settings_names_what_changes_and_nothing_else() {
        let request =
            SettingsRequest { to: Some("b".into()), history: Some(3), ..SettingsRequest::default() };
        let wanted = request.into_modification().unwrap();
        assert_eq!(wanted.peer.as_deref(), Some("b:28444"));
        assert_eq!(wanted.settings, SettingsChange { history: Some(3), ..SettingsChange::default() });
        assert_eq!(wanted.when_silent, None);
        let two = WhenSilent::StartAfter(std::time::Duration::from_secs(120));
        for (text, when) in
            [("default", None), ("refuse", Some(WhenSilent::Refuse)), ("start-after 2m", Some(two))]
        {
            let request =
                SettingsRequest { when_peer_is_silent: Some(text.into()), ..SettingsRequest::default() };
            assert_eq!(request.into_modification().unwrap().when_silent, Some(when), "{text}");
        }
        for wrong in [
            SettingsRequest::default(),
            SettingsRequest { to: Some("a b".into()), ..SettingsRequest::default() },
            SettingsRequest { when_peer_is_silent: Some("start-after".into()), ..SettingsRequest::default() },
            SettingsRequest { disks: Some(vec!["a/b".into()]), ..SettingsRequest::default() },
        ] {
            let refusal = wrong.into_modification().expect_err("accepted");
            assert_eq!(refusal.code, ReturnCode::InvalidParameter);
        }
    }
}

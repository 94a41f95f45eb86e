//! Settings of this host's replication service while the daemon runs: read by admission and by the statistics, changed
//! by the management interfaces. What was set here outlives a restart and wins over the configuration file; what was
//! never set follows the file.

use crate::records::{self, ServiceRecord, Tables};
use crate::tasks::to_its_end;
use jiff::Timestamp;
use standin_model::Refusal;
use standin_model::service::{AllowedAuthentication, ServiceSettings};
use standin_model::stats::{Monitor, Window};
use standin_state::StateError;
use std::sync::{Arc, PoisonError, RwLock};

/// The one record of its table.
const KEY: &str = "settings";

/// The settings of the service, shared by all that follow them.
pub struct Service {
    current: RwLock<ServiceSettings>,
    tables: Tables,
    changing: tokio::sync::Mutex<()>,
}

impl Service {
    /// What was set before, over what is configured.
    ///
    /// # Errors
    /// When the state store cannot be read.
    pub async fn load(tables: Tables, port: u16, configured: Window) -> Result<Arc<Self>, StateError> {
        let mut settings = ServiceSettings::new(port, configured);
        if let Some((kept, _)) = tables.service.get(KEY).await? {
            settings.recovery_server_enabled = kept.recovery_server_enabled;
            settings.authentication = kept.authentication;
            settings.monitoring = kept.monitoring.unwrap_or(configured);
        }
        Ok(Arc::new(Self { current: RwLock::new(settings), tables, changing: tokio::sync::Mutex::default() }))
    }

    /// As they are now.
    #[must_use]
    pub fn get(&self) -> ServiceSettings {
        *self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes them, durably. Gives what they were.
    ///
    /// # Errors
    /// 32773 or 32770 for values that cannot be, 32768 when they cannot be kept; nothing changed then.
    pub async fn set(self: &Arc<Self>, settings: ServiceSettings) -> Result<ServiceSettings, Refusal> {
        let service = Arc::clone(self);
        to_its_end(async move { service.change(settings).await }).await
    }

    async fn change(&self, settings: ServiceSettings) -> Result<ServiceSettings, Refusal> {
        let _one_at_a_time = self.changing.lock().await;
        let before = self.get();
        settings.may_replace(&before)?;
        let kept = records::get(&self.tables.service, KEY).await?.and_then(|kept| kept.monitoring);
        let moved = settings.monitoring != before.monitoring;
        let record = ServiceRecord {
            recovery_server_enabled: settings.recovery_server_enabled,
            authentication: settings.authentication,
            monitoring: if moved { Some(settings.monitoring) } else { kept },
        };
        records::put(&self.tables.service, KEY, &record).await?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = settings;
        Ok(before)
    }

    /// Whether this host takes in replicas at all.
    ///
    /// # Errors
    /// 32769 when it does not.
    pub fn admits(&self) -> Result<(), Refusal> {
        let settings = self.get();
        let by_certificate = matches!(
            settings.authentication,
            AllowedAuthentication::Certificate | AllowedAuthentication::Both
        );
        if settings.recovery_server_enabled && by_certificate {
            return Ok(());
        }
        Err(crate::replica::reason::admission::Entry::RecoveryServerDisabled.into())
    }

    /// Lays the windows of statistics where they are to lie now, and ends the one that is over. Call it before
    /// counting and before showing.
    pub fn roll(&self, monitor: &mut Monitor, now: Timestamp) {
        monitor.window = self.get().monitoring;
        monitor.roll(now);
    }
}

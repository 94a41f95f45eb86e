//! Builds the service that the local API serves: the engine with its hypervisor, store and links.

use crate::api::Service;
use crate::config::Config;
use anyhow::{Result, bail};
use std::sync::Arc;

/// Opens everything the daemon needs and starts it.
///
/// # Errors
/// Why it cannot start, in a sentence with what to do: the port is in use, the certificates are missing.
pub async fn build_service(config: Config) -> Result<Arc<dyn Service>> {
    bail!("{}: the engine is not linked into this build; use a build that has it", config.host_name)
}

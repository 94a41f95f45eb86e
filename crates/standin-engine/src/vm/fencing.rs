//! Turning another host off before its VM is started here: rule 2, where a `fence_command` is configured.

use super::registry::Vms;
use async_trait::async_trait;
use standin_model::VmId;
use std::io;
use std::process::Stdio;
use std::time::Duration;

/// How long `fence_command` may take.
const WITHIN: Duration = Duration::from_secs(120);

/// What turns a host off: a power switch, a management controller, the lock of a shared storage.
#[async_trait]
pub trait Fencing: Send + Sync {
    /// Runs a program with its arguments. `true`: it says that the host is off, or can do nothing any more.
    ///
    /// # Errors
    /// When it cannot be run.
    async fn turn_off(&self, program: &str, arguments: &[String]) -> io::Result<bool>;
}

/// Programs of this host, as configured; exit status 0 says that the host is off.
#[derive(Debug, Default)]
pub struct FenceCommand;

#[async_trait]
impl Fencing for FenceCommand {
    async fn turn_off(&self, program: &str, arguments: &[String]) -> io::Result<bool> {
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        Ok(command.status().await?.success())
    }
}

impl Vms {
    /// Runs `fence_command`; `None` where none is configured.
    pub(super) async fn run_fence_command(&self, vm: VmId, host: &str) -> Option<bool> {
        let (program, arguments) = self.policy().fence_command.split_first()?;
        let filled: Vec<String> = arguments
            .iter()
            .map(|argument| argument.replace("{host}", host).replace("{vm}", &vm.to_string()))
            .collect();
        let running = self.context.fencing.turn_off(program, &filled);
        match tokio::time::timeout(WITHIN, running).await {
            Ok(Ok(is_off)) => {
                tracing::warn!(%vm, %host, is_off, "fence_command was run");
                Some(is_off)
            }
            Ok(Err(error)) => {
                tracing::error!(%vm, %host, %error, program, "fence_command could not be run");
                Some(false)
            }
            Err(_) => {
                tracing::error!(%vm, %host, program, "fence_command did not end in {} s", WITHIN.as_secs());
                Some(false)
            }
        }
    }
}

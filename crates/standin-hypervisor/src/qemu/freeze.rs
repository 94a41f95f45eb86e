//! A frozen guest around a cut. While a guest may be frozen a marker file is there, so that a daemon that dies in
//! between finds it and thaws; without it a guest that somebody else froze is left alone. The agent's own task
//! writes and removes it.

use super::Shared;
use super::machine::{Machine, Origin, Vm};
use super::store::Store;
use crate::agent::{self, Agent, AgentTimeouts, FrozenGuard};
use crate::error::Error;
use crate::qmp::{Qmp, json};
use serde_json::{Value, json as value};
use standin_model::VmId;
use std::path::PathBuf;
use std::time::Duration;

/// The channel's name that qemu-guest-agent listens on.
const PORT: &str = "org.qemu.guest_agent.0";

/// A guest that is frozen now.
#[derive(Debug)]
pub(crate) struct Frozen {
    guard: FrozenGuard,
}

/// Freezes the guest for at most `deadline`.
pub(crate) async fn freeze(
    shared: &Shared,
    vm: &Vm,
    machine: &Machine,
    deadline: Duration,
) -> Result<Frozen, Error> {
    let socket = agent_socket(shared, vm, machine).await?;
    let agent = Agent::connect(&socket, AgentTimeouts::default()).await?;
    let guard = agent.with_marker(shared.store.frozen_marker(vm.id)).freeze(deadline).await?;
    Ok(Frozen { guard })
}

impl Frozen {
    /// After the cut: whether the guest was frozen at it. Thaws in any case.
    ///
    /// # Errors
    /// The reason why the cut is not one of a frozen guest.
    pub async fn finish(self) -> Result<(), Error> {
        let held = self.guard.still_frozen().await;
        let count = self.guard.frozen_count();
        let thawed = self.guard.thaw().await;
        if let Err(error @ Error::Timeout { .. }) = &thawed {
            // The agent's own task goes on until it is confirmed.
            tracing::error!(%error, "the guest may still be frozen");
        }
        match (held?, thawed) {
            (true, Err(error @ Error::Agent(_))) => Err(error),
            (true, _) => {
                tracing::debug!(count, "the guest was frozen at the cut");
                Ok(())
            }
            (false, _) => Err(Error::Agent("the guest was not frozen any more at the cut".to_owned())),
        }
    }
}

/// Thaws, in the background, a guest that an earlier process may have left frozen.
pub(crate) fn thaw_left_over(store: &Store, vm: VmId) {
    // The task ends by itself, and nobody has to wait for it.
    drop(agent::thaw_left_over(&store.frozen_marker(vm)));
}

/// The socket of the guest's agent.
///
/// # Errors
/// [`Error::Unsupported`] when the VM has no channel for one.
pub(crate) async fn agent_socket(shared: &Shared, vm: &Vm, machine: &Machine) -> Result<PathBuf, Error> {
    let found = match vm.origin {
        Origin::Owned if vm.definition().guest_agent => Some(shared.store.agent_socket(vm.id)),
        Origin::Owned => None,
        Origin::Adopted { .. } => adopted_socket(&machine.qmp).await?,
    };
    found.ok_or_else(|| Error::Unsupported {
        feature: "the guest agent".to_owned(),
        detail: "the VM has no channel for the guest agent; set guest_agent = true in its definition and \
                 restart it"
            .to_owned(),
    })
}

/// The socket behind the agent's port of a VM that somebody else configured.
async fn adopted_socket(qmp: &Qmp) -> Result<Option<PathBuf>, Error> {
    let chardevs = qmp.execute("query-chardev", Value::Null).await?;
    for folder in ["/machine/peripheral", "/machine/peripheral-anon"] {
        let devices = qmp.execute("qom-list", value!({ "path": folder })).await?;
        for device in
            json::items(&devices).iter().filter(|d| json::text(d, "type") == "child<virtserialport>")
        {
            let path = format!("{folder}/{}", json::text(device, "name"));
            let get = |property: &'static str| {
                qmp.execute("qom-get", value!({ "path": path, "property": property }))
            };
            if get("name").await?.as_str() != Some(PORT) {
                continue;
            }
            let label = get("chardev").await?;
            let chardev =
                json::items(&chardevs).iter().find(|c| Some(json::text(c, "label")) == label.as_str());
            let address = chardev.map(|chardev| json::text(chardev, "filename")).unwrap_or_default();
            let path = address.strip_prefix("disconnected:").unwrap_or(address).strip_prefix("unix:");
            return Ok(path.and_then(|path| path.split(",server").next()).map(PathBuf::from));
        }
    }
    Ok(None)
}

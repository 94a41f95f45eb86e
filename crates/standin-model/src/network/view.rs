//! The JSON of `standin network` and of the local API. The rules of [`crate::view`] hold here too.

use super::{AdapterId, AdapterSettings, MacAddress};
use crate::ids::VmId;
use crate::names::VmName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How settings reach the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApplyWay {
    /// The agent in the guest writes them, and they are read back.
    GuestAgent,
    /// A disk that cloud-init reads when the guest boots. The guest does not answer, so nothing is read back.
    CloudInit,
}

/// How far settings are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApplyState {
    /// The VM is to be started, or its agent to answer.
    Pending,
    /// The guest has them: read back.
    Applied,
    /// They were handed to the guest, which cannot be asked.
    Offered,
    /// They did not reach the guest; the message says why and what to do.
    Failed,
}

/// What became of the settings at the failover that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedNetwork {
    /// How far.
    pub state: ApplyState,
    /// By which way; `null` before it is known.
    pub way: Option<ApplyWay>,
    /// A sentence for people: what was done, or why not and what to do.
    pub message: String,
    /// When this became so.
    pub at: Timestamp,
}

/// Where settings were set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SettingsOrigin {
    /// On this host.
    Here,
    /// On the primary; they came with the replication.
    Primary,
}

/// `standin network VM`: the cards of a VM and what they get at a failover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkView {
    /// Name of the VM.
    pub vm: VmName,
    /// Identity of the VM.
    pub id: VmId,
    /// Its cards, in the order of its definition; after them those that have settings and are no longer there.
    pub adapters: Vec<AdapterView>,
    /// What became of the settings at the failover that is in force; `null` without one or without settings.
    pub applied: Option<AppliedNetwork>,
}

/// One card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterView {
    /// Its name in the VM's definition.
    pub name: String,
    /// Its stable id.
    pub id: AdapterId,
    /// Its hardware address; `null` for a card that the VM no longer has.
    pub mac: Option<MacAddress>,
    /// The network that it is connected to where the VM runs now: a bridge, a tap, `user` or `none`.
    pub network: Option<String>,
    /// The network that it gets at a failover to this host; `null` on the primary.
    pub failover_network: Option<String>,
    /// What it gets; `null` when the guest keeps what it has.
    pub settings: Option<AdapterSettings>,
    /// Where that was set; `null` without settings.
    pub origin: Option<SettingsOrigin>,
}

//! Who may run a VM, as one host knows it, and what a failover would meet.

use super::ErrorView;
use crate::fence::{Place, Role};
use crate::ids::{Epoch, PointId, VmId};
use crate::names::VmName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Part of `standin status`: what this host does at a start of the VM, and what it knows of the hosts that share it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceView {
    /// What this host does when another host that could run the VM does not answer: `refuse`, or `start-after 2m`.
    pub when_peer_is_silent: String,
    /// That was set for this VM; else it is what the host is configured to.
    pub set_for_vm: bool,
    /// The hosts that share the VM, or ever shared it, by name.
    pub hosts: Vec<FenceHostView>,
    /// The witness that this host names.
    pub witness: Option<WitnessView>,
}

/// A third host that answers for a silent one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessView {
    /// Where it is, `host:port`.
    pub address: String,
    /// It has answered since this host's daemon started.
    pub answers: bool,
    /// The hosts for which it can answer: they name it too, by the same records.
    pub counts_for: Vec<String>,
    /// It knows that the VM lives here; `null` where it need not.
    pub knows: Option<bool>,
}

/// A host that shares a VM with this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceHostView {
    /// Its name.
    pub host: String,
    /// `replica`: it received the VM from here. `source`: it sent the VM here.
    pub role: Role,
    /// There is a link with it now.
    pub connected: bool,
    /// What it does when this host does not answer, as it last told; `null` when it never told.
    pub when_peer_is_silent: Option<String>,
    /// Until when that is known to hold: now while there is a link.
    pub heard_at: Option<Timestamp>,
}

/// `standin failover --dry-run`: what a failover would meet. Nothing is changed by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreflightView {
    /// Name of the VM on this host.
    pub vm: VmName,
    /// Identity of the VM.
    pub id: VmId,
    /// The point it would go to.
    pub point: PointId,
    /// The number of its cut.
    pub epoch: Epoch,
    /// The instant of its cut.
    pub point_at: Timestamp,
    /// The host that the VM would be taken from, and what it told.
    pub primary: FenceHostView,
    /// What that host says of the VM just now: `silent` when it does not answer.
    pub primary_says: Place,
    /// Why the VM would not be started without an assertion (`--yes`, `--force`) and what to do; `null` when it would be.
    pub refusal: Option<ErrorView>,
}

//! What a failover would meet, for whoever is about to decide.
//!
//! Called by the local API.

use super::Engine;
use crate::replica::failover::{self, Preflight};
use standin_model::fence::Role;
use standin_model::view::{ErrorView, FenceHostView, PreflightView};
use standin_model::{PointId, Refusal, VmId};

impl Engine {
    /// Asks the host that a failover would take the VM from, and says what that, and the start of the VM here, would meet.
    /// Nothing is changed by it.
    ///
    /// # Errors
    /// 32775 in the wrong state, 32779 for an unknown point, 32774 while a job works on the VM.
    pub async fn preflight(&self, vm: VmId, point: Option<PointId>) -> Result<PreflightView, Refusal> {
        let replica = self.replica(vm).await?;
        let Preflight { point, from, says, refusal } = failover::preflight(&replica, point).await?;
        let unknown = || FenceHostView {
            host: from.known.name.clone(),
            role: Role::Source,
            connected: self.peers().contact(from.host).connected,
            when_peer_is_silent: None,
            heard_at: None,
        };
        let known = self.vms.record(vm);
        Ok(PreflightView {
            vm: from.name.clone(),
            id: vm,
            point: point.id,
            epoch: point.epoch,
            point_at: point.created_at,
            primary: known.map_or_else(unknown, |record| {
                self.fence_host(&record, from.host, &from.known.name, Role::Source)
            }),
            primary_says: says,
            refusal: refusal.map(|refusal| ErrorView::new(refusal, None)),
        })
    }
}

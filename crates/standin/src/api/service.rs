//! What the local API needs of the engine. The handlers check names, ids and ranges first; an implementation
//! gets checked values only, and answers with views or with a refusal that says what to do.
//!
//! # Implementations
//!
//! | Where | What |
//! | --- | --- |
//! | `service_impl` of this crate | the engine |
//! | the integration tests of this crate | a script, to prove the API and the command line alone |

use super::types::{
    AdoptRequest, AuthRequest, HostView, KeepRequest, Outcome, PeerAddress, PeerView, ReplicateOrder,
    StartRequest, StartView, VmRef,
};
use async_trait::async_trait;
use standin_engine::Modification;
use standin_engine::replica::failover::Failover;
use standin_hypervisor::definition::VmDefinition;
use standin_model::network::{NetworkChange, NetworkView};
use standin_model::view::{
    AuthView, CheckView, DirectoryView, JobView, PointView, PreflightView, RepairView, SettingsView,
    StatusView, VmView,
};
use standin_model::{AuthId, HostId, JobId, PointId, Refusal, VmName};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;

/// What an operation returns.
pub type Result<T> = std::result::Result<T, Refusal>;

/// The operations of a host. Every method may run beside every other. A method that changes something is never
/// dropped before it ends: the server runs it in a task of its own.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Facts of this host and its daemon.
    async fn host_info(&self) -> Result<HostView>;

    /// Takes certificates from their files again: new connections use them, those that are up go on.
    async fn reload(&self) -> Result<()>;

    /// Every VM that is defined or adopted, and every replica.
    async fn list_vms(&self) -> Result<Vec<VmView>>;

    /// One VM.
    async fn show_vm(&self, vm: &VmRef) -> Result<VmView>;

    /// Makes a VM known, or replaces the definition of one that is off. The definition is valid and its paths
    /// are absolute; its UUID is that of the VM of this name, if there is one and the client gave none.
    async fn define_vm(&self, definition: VmDefinition) -> Result<VmView>;

    /// Starts a VM that is off; refused where another host runs it.
    async fn start_vm(&self, vm: &VmRef, request: StartRequest) -> Result<StartView>;

    /// Asks the guest to shut down and waits for `timeout` at most, or pulls the plug with `force`.
    async fn stop_vm(&self, vm: &VmRef, force: bool, timeout: Duration) -> Result<VmView>;

    /// Makes a running QEMU known by its QMP socket. The path is absolute.
    async fn adopt_vm(&self, request: AdoptRequest) -> Result<VmView>;

    /// Forgets a VM that is off and does not replicate.
    async fn remove_vm(&self, vm: &VmRef) -> Result<()>;

    /// Lets hosts replicate to this one. The storage path is absolute.
    async fn auth_add(&self, request: AuthRequest) -> Result<AuthView>;

    /// All authorization entries.
    async fn auth_list(&self) -> Result<Vec<AuthView>>;

    /// Removes an entry, which stops the replication that it admitted.
    async fn auth_remove(&self, id: AuthId) -> Result<()>;

    /// The hosts that this one has met.
    async fn peers(&self) -> Result<Vec<PeerView>>;

    /// Binds a host's id to another certificate, or says which id the host has now.
    async fn rebind_peer(&self, host: HostId, name: String) -> Result<()>;

    /// Whether this host could replicate to `peer`: address, port, certificates, version, authorization.
    async fn test_connection(&self, peer: &PeerAddress) -> Result<()>;

    /// Makes a relationship, and starts the first copy unless told otherwise.
    async fn replicate(&self, vm: &VmRef, order: ReplicateOrder) -> Result<Outcome>;

    /// Ends a relationship on this side. Disks stay.
    async fn unreplicate(&self, vm: &VmRef) -> Result<Outcome>;

    /// The replication of every VM, or of one.
    async fn status(&self, vm: Option<&VmRef>) -> Result<Vec<StatusView>>;

    /// The recovery points of a VM. Any order.
    async fn points(&self, vm: &VmRef) -> Result<Vec<PointView>>;

    /// Keeps a recovery point from retention, or lets it go. Answers with the points, in any order.
    async fn pin_point(&self, vm: &VmRef, point: PointId, pinned: bool) -> Result<Vec<PointView>>;

    /// Pauses replication.
    async fn suspend(&self, vm: &VmRef) -> Result<Outcome>;

    /// Goes on with replication; also starts a first copy that was not started.
    async fn resume(&self, vm: &VmRef) -> Result<Outcome>;

    /// Makes a recovery point now.
    async fn take_point(&self, vm: &VmRef, application_consistent: bool) -> Result<Outcome>;

    /// Fails over to a point, `None` for the latest, and starts the VM if asked.
    async fn failover(&self, vm: &VmRef, failover: Failover) -> Result<Outcome>;

    /// What a failover to a point, `None` for the latest, would meet. Changes nothing.
    async fn preflight(&self, vm: &VmRef, point: Option<PointId>) -> Result<PreflightView>;

    /// Two hosts hold a VM by the same number: the copy of this host is kept, or that of the other.
    async fn keep_copy(&self, vm: &VmRef, request: KeepRequest) -> Result<Outcome>;

    /// Forgets who may run a VM that no relationship of this host has any more.
    async fn forget_claim(&self, vm: &VmRef) -> Result<()>;

    /// Undoes a failover that is not committed.
    async fn revert_failover(&self, vm: &VmRef) -> Result<Outcome>;

    /// Keeps a failover for good.
    async fn commit_failover(&self, vm: &VmRef) -> Result<Outcome>;

    /// The network cards of a VM and what each gets at a failover.
    async fn network(&self, vm: &VmRef) -> Result<NetworkView>;

    /// Changes what network cards get at a failover: all of it or nothing.
    async fn set_network(&self, vm: &VmRef, changes: Vec<NetworkChange>) -> Result<NetworkView>;

    /// What was agreed of a VM's replication, on either side.
    async fn settings(&self, vm: &VmRef) -> Result<SettingsView>;

    /// Changes what was agreed, or where the replica is, on the primary: all of it or nothing.
    async fn modify(&self, vm: &VmRef, wanted: Modification) -> Result<SettingsView>;

    /// Gives a VM another name on this host.
    async fn rename(&self, vm: &VmRef, name: VmName) -> Result<StatusView>;

    /// Compares and sends what differs.
    async fn resync(&self, vm: &VmRef) -> Result<Outcome>;

    /// Verifies the stored digests of one replica, or of all.
    async fn store_check(&self, vm: Option<&VmRef>) -> Result<Outcome>;

    /// What a check that has ended found, while its job is remembered.
    async fn store_check_result(&self, job: JobId) -> Result<Vec<CheckView>>;

    /// Every directory of a replica in the storage locations.
    async fn store_list(&self) -> Result<Vec<DirectoryView>>;

    /// Builds the manifest of a replica again, and proves its points.
    async fn store_repair(&self, vm: &VmRef) -> Result<Outcome>;

    /// What a repair that has ended found, while its job is remembered.
    async fn store_repair_result(&self, job: JobId) -> Result<RepairView>;

    /// Makes a directory that was kept a replica again. The path is absolute.
    async fn store_adopt(&self, directory: PathBuf) -> Result<DirectoryView>;

    /// Deletes a directory that nothing uses. The path is absolute.
    async fn store_remove(&self, directory: PathBuf) -> Result<()>;

    /// Running jobs and those that ended in the last five minutes. Any order.
    async fn jobs(&self) -> Result<Vec<JobView>>;

    /// One job.
    async fn job(&self, id: JobId) -> Result<JobView>;

    /// A job's progress from now on. The sender may be dropped once the job has ended.
    async fn watch_job(&self, id: JobId) -> Result<watch::Receiver<JobView>>;

    /// Asks a job to end; answers at once with how it stands.
    async fn cancel_job(&self, id: JobId) -> Result<JobView>;

    /// Ends everything in order: no new cycles, running ones are stopped at a safe place. VMs go on. Called
    /// once; it is given up after the configured grace.
    async fn shutdown(&self);
}

//! What operators and API clients ask of a host, as they ask it.

use super::step::{Host, Says, What};
use super::world::{DISK, NAME};
use standin_engine::replica::failover::Failover;
use standin_engine::vm::Asserts;
use standin_engine::{Command, Enable, Engine};
use standin_hypervisor::fake::FakeHypervisor;
use standin_hypervisor::{DiskDefinition, DiskFormat, VmDefinition};
use standin_model::auth::AuthorizationEntry;
use standin_model::fence::{Assertion, WhenSilent};
use standin_model::retention::{Policy, Tier};
use standin_model::settings::RelationshipSettings;
use standin_model::{AuthId, DiskName, HostId, JobId, Refusal, VmId, VmName};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often a host gets another name at most.
pub const RENAMED_MOST: u32 = 2;

/// How long every point is kept, in cycles: long enough for some to choose from, short enough for expiry and merging to be
/// at work all the time.
pub const KEPT_CYCLES: u32 = 20;

/// Where a QEMU that somebody started by hand listens.
const SOCKET: &str = "/run/other/qmp.sock";

fn asserted(says: Says) -> Option<Assertion> {
    match says {
        Says::Nothing => None,
        Says::Silent => Some(Assertion::Silent),
        Says::Force => Some(Assertion::Forced),
    }
}

/// Where an order goes, and what it is about.
#[derive(Clone)]
pub struct Order {
    pub engine: Arc<Engine>,
    pub fake: Arc<FakeHypervisor>,
    pub vm: VmId,
    pub interval_s: u32,
    pub replicas_dir: PathBuf,
    /// Who the hosts are: their ids, and the names in their certificates.
    pub hosts: BTreeMap<Host, (HostId, String)>,
}

pub type Answer = Result<Option<JobId>, Refusal>;

impl Order {
    fn settings(&self) -> RelationshipSettings {
        let tiers = vec![Tier { keep_for_s: (KEPT_CYCLES * self.interval_s).into(), every_s: 0 }];
        RelationshipSettings {
            interval_s: self.interval_s,
            retention: Some(Policy { tiers }),
            ..RelationshipSettings::default()
        }
    }

    /// A VM of the same id and name, over a disk of its own.
    fn definition(&self) -> VmDefinition {
        let file = self.replicas_dir.with_file_name("own.raw");
        std::fs::write(&file, vec![0; usize::try_from(DISK.1).expect("a small disk")]).expect("a disk");
        let mut definition = VmDefinition::new(VmName::new(NAME).expect("a name"), 64);
        definition.uuid = self.vm;
        definition.disks =
            vec![DiskDefinition::new(DiskName::new(DISK.0).expect("a name"), file, DiskFormat::Raw)];
        definition
    }

    fn certificate(&self, of: Host) -> String {
        self.hosts.get(&of).map(|(_, certificate)| certificate.clone()).unwrap_or_default()
    }

    pub fn entry(&self, of: Host) -> AuthorizationEntry {
        AuthorizationEntry {
            id: AuthId::random(),
            allowed_primary: self.certificate(of),
            trust_group: "one".to_owned(),
            storage_location: self.replicas_dir.clone(),
        }
    }

    /// Carries an order out.
    pub async fn carry_out(self, what: What) -> Answer {
        let (engine, vm) = (&self.engine, self.vm);
        let vms = engine.vm_tasks();
        match what {
            What::Replicate { to, .. } => {
                let enable = Enable { peer: to.address(), settings: self.settings(), start: true };
                engine.enable(vm, enable).await.map(|enabled| enabled.job)
            }
            What::Unreplicate { .. } => engine.remove(vm).await.map(|()| None),
            What::VmStart { says, .. } | What::VmResume { says, .. } => {
                engine.start_vm(vm, asserted(says)).await
            }
            What::VmStop { .. } => vms.shutdown(vm, Duration::from_secs(60)).await.map(|()| None),
            What::VmKill { .. } => vms.power_off(vm).await.map(|()| None),
            What::VmPause { .. } => vms.pause(vm).await.map(|()| None),
            What::VmRemove { .. } => engine.remove_vm(vm).await.map(|()| None),
            What::Suspend { .. } => engine.suspend(vm).await.map(|()| None),
            What::GoOn { .. } => engine.resume(vm).await,
            What::Point { .. } => engine.ask(vm, Command::Point { application: false }).await,
            What::Failover { start, says, .. } => {
                let asserts = match says {
                    Says::Nothing => Asserts::Nothing,
                    Says::Silent => Asserts::Down,
                    Says::Force => Asserts::Forced,
                };
                engine.failover(vm, Failover { point: None, start, asserts }).await.map(Some)
            }
            What::InitiateFailover { .. } => {
                let failover = Failover { point: None, start: false, asserts: Asserts::IfSilent };
                engine.failover(vm, failover).await.map(Some)
            }
            What::Revert { .. } => engine.revert(vm).await.map(Some),
            What::Commit { .. } => engine.commit(vm).await.map(Some),
            What::AuthAdd { of, .. } => engine.replicas().add_entry(self.entry(of)).await.map(|_| None),
            What::AuthRemove { of, .. } => {
                let entries = engine.replicas().entries();
                let names: Vec<String> = (0..=RENAMED_MOST).map(|n| of.certificate(n)).collect();
                for entry in entries.iter().filter(|entry| names.contains(&entry.allowed_primary)) {
                    engine.replicas().remove_entry(entry.id).await?;
                }
                Ok(None)
            }
            What::Resync { .. } => engine.ask(vm, Command::Resynchronize).await,
            What::Recovery { enabled, .. } => {
                let mut settings = engine.service_settings();
                settings.recovery_server_enabled = enabled;
                engine.modify_service_settings(settings).await.map(|()| None)
            }
            What::Resolve { keep, .. } => engine.keep_copy(vm, keep).await,
            What::Forget { .. } => vms.forget(vm).await.map(|()| None),
            What::StartAfter { seconds, .. } => {
                let after = |seconds: u32| WhenSilent::StartAfter(Duration::from_secs(seconds.into()));
                vms.set_when_silent(vm, seconds.map(after)).await.map(|()| None)
            }
            What::Define { .. } => vms.define(self.definition()).await.map(|_| None),
            What::Adopt { says, .. } => {
                self.fake.add_foreign_as(vm, SOCKET, NAME, &[DISK]);
                engine.adopt_vm(SOCKET.into(), None, asserted(says)).await.map(|_| None)
            }
            What::Rebind { of, .. } => {
                let Some((id, certificate)) = self.hosts.get(&of).cloned() else { return Ok(None) };
                engine.peers().rebind(id, vec![certificate]).await.map(|()| None)
            }
            other => unreachable!("{other:?} is no order"),
        }
    }
}

//! Who may run a VM, in the view of the VM on this host: the claim, what is amiss with it, and what each host does when the
//! other one is silent.

use crate::engine::Engine;
use crate::vm::{AlarmKind, VmRecord};
use standin_model::fence::{Assertion, Fence, KnownHost, Reason, Role};
use standin_model::health::{Health, HealthIssue};
use standin_model::state::{ReplicationMode, ReplicationState};
use standin_model::view::{FenceHostView, FenceView, StatusView, WitnessView};
use standin_model::{HostId, Refusal, VmId};

impl Engine {
    /// The claim on the VM, and what is amiss with it, in the view of the VM on this host.
    pub(crate) fn with_fence(&self, mut view: StatusView) -> StatusView {
        let Some(record) = self.vms.record(view.id) else { return view };
        view.generation = record.fence.claim.number;
        let host = |host: HostId| record.fence.hosts.get(&host).map(|known| known.name.clone());
        let mut issues = Vec::new();
        if let Some(alarm) = &record.alarm {
            let name = host(alarm.host).unwrap_or_else(|| alarm.host.to_string());
            let mut issue = alarm.issue(view.vm.as_str(), &name, record.fence.claim);
            if alarm.kind == AlarmKind::BothRanLower {
                issue.remedy.push_str(&self.how_to_save(record.vm));
            }
            issues.push(issue);
        }
        issues.extend(self.lost_relationship(view.id).map(|host| without_its_record(&view, &host)));
        if view.mode != ReplicationMode::Replica && record.alarm.is_none() {
            issues.extend(lives_elsewhere(&view, &record.fence, self.vms.me()));
        }
        if let Some(how) = record.fence.asserted.filter(|_| record.fence.held_by(self.vms.me())) {
            issues.push(unconfirmed(how, view.vm.as_str()));
        }
        issues.extend(unwitnessed(&record.unwitnessed(self.vms.me()), view.vm.as_str()));
        for issue in issues.into_iter().rev() {
            if issue.severity > view.health {
                view.health = issue.severity;
                view.health_code = issue.severity.code();
            }
            view.health_issues.insert(0, issue);
        }
        view.fence = Some(self.fence_view(&record));
        view
    }

    /// The host that a VM replicated to, where this host's claim knows of a relationship and its database does not.
    pub(crate) fn lost_relationship(&self, vm: VmId) -> Option<KnownHost> {
        let record = self.vms.record(vm).filter(|record| !record.tombstone)?;
        if self.role(vm).0 != ReplicationMode::None || !record.fence.held_by(self.vms.me()) {
            return None;
        }
        record.fence.hosts.into_values().find(|known| known.role == Role::Replica)
    }

    /// How what only this host's copy has is saved. Of a failover's, a recovery point is made when somebody decides; any
    /// other copy is in its disks alone.
    fn how_to_save(&self, vm: VmId) -> String {
        if self
            .replicas()
            .find(vm)
            .is_some_and(|replica| replica.snapshot().state == ReplicationState::Recovered)
        {
            return String::new();
        }
        let Some(info) = self.inventory().get(vm) else { return String::new() };
        let copies = info.disks.iter().map(|disk| {
            format!(
                "`qemu-img convert -O qcow2 {} /BACKUP/{}-{}.qcow2`",
                disk.path.display(),
                info.name,
                disk.name
            )
        });
        let copies: Vec<_> = copies.collect();
        format!(
            " Nothing of standin writes to its disks meanwhile. When it is off, they are saved by {}.",
            copies.join(", ")
        )
    }

    fn fence_view(&self, record: &VmRecord) -> FenceView {
        let mut hosts: Vec<_> = record
            .fence
            .hosts
            .iter()
            .map(|(host, known)| self.fence_host(record, *host, &known.name, known.role))
            .collect();
        hosts.sort_by(|a, b| a.host.cmp(&b.host));
        FenceView {
            when_peer_is_silent: self.vms.stance(record.vm).when_silent.to_string(),
            set_for_vm: record.when_silent.is_some(),
            hosts,
            witness: self.witness_view(record),
        }
    }

    fn witness_view(&self, record: &VmRecord) -> Option<WitnessView> {
        let (address, answers) = self.vms.witness()?;
        let named = |host: &HostId| record.stances.get(host).and_then(|told| told.stance.witness);
        let counts = |host: &HostId| answers.is_some() && named(host) == answers;
        let hosts = record.fence.hosts.iter().filter(|(host, _)| counts(host));
        let me = self.vms.me();
        let must_know =
            record.fence.claim.holder == me && record.promised.iter().any(|promised| promised == address);
        Some(WitnessView {
            address: address.to_owned(),
            answers: answers.is_some(),
            counts_for: hosts.map(|(_, known)| known.name.clone()).collect(),
            knows: must_know.then(|| !record.unwitnessed(me).iter().any(|deaf| deaf == address)),
        })
    }

    /// A host that shares a VM, with what it told last.
    pub(crate) fn fence_host(
        &self,
        record: &VmRecord,
        host: HostId,
        name: &str,
        role: Role,
    ) -> FenceHostView {
        let (told, contact) = (record.stances.get(&host), self.peers().contact(host));
        FenceHostView {
            host: name.to_owned(),
            role,
            connected: contact.connected,
            when_peer_is_silent: told.map(|told| told.stance.when_silent.to_string()),
            heard_at: told.and_then(|told| contact.until.max(Some(told.at))),
        }
    }
}

/// Another host holds the VM: said also where the relationship is gone, or that host's last word was about something else,
/// as that this one is not authorised any more.
fn lives_elsewhere(view: &StatusView, fence: &Fence, me: HostId) -> Option<HealthIssue> {
    let claim = fence.claim;
    let name = fence.hosts.get(&claim.holder).map_or("another host", |known| known.name.as_str());
    let Refusal { message, remedy, .. } = Reason::LivesElsewhere(claim).refusal(view.vm.as_str(), name);
    let severity = match view.mode {
        ReplicationMode::Primary => Health::Critical,
        _ => Health::Warning,
    };
    (claim.holder != me).then_some(HealthIssue { severity, message, remedy })
}

/// A witness that would tell the host that the VM came from that it may start it.
fn unwitnessed(deaf: &[String], vm: &str) -> Option<HealthIssue> {
    let witness = deaf.first()?;
    Some(HealthIssue {
        severity: Health::Warning,
        message: format!("the witness {witness} does not know that VM {vm} lives here"),
        remedy: "Connect the witness; it is told as soon as it answers. Until then, the host that the VM came from may start \
                 it on the witness's word."
            .to_owned(),
    })
}

/// A VM that was replicated looks like one that never was when the database is lost.
fn without_its_record(view: &StatusView, host: &KnownHost) -> HealthIssue {
    let (vm, name) = (&view.vm, &host.name);
    let to = host.addresses.first().unwrap_or(name);
    HealthIssue {
        severity: Health::Critical,
        message: format!(
            "VM {vm} replicated to {name}, and this host has lost the record of it: nothing is sent any more"
        ),
        remedy: format!(
            "`standin replicate {vm} --to {to}` goes on with the replica that is there, and every recovery point stays. To \
             end the replication instead: `standin unreplicate {vm}`."
        ),
    }
}

/// A start that no other host confirmed.
fn unconfirmed(how: Assertion, vm: &str) -> HealthIssue {
    let why = match how {
        Assertion::Silent => "somebody asserted that the other host is down",
        Assertion::Forced => "somebody forced it",
        Assertion::Waited => "the time to wait for a silent host was over",
    };
    HealthIssue {
        severity: Health::Warning,
        message: format!("VM {vm} was started without a confirmation of the other hosts: {why}"),
        remedy: "Make sure that it runs nowhere else. This ends when the other host confirms it.".to_owned(),
    }
}

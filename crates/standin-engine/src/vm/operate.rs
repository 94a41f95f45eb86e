//! What only ever makes a VM stop, or known: shutdown, power off, pause, definitions.

use super::alarm::AlarmKind;
use super::reason::Vm;
use super::registry::{Start, Vms, WhenBothRun};
use super::task::{Request, Task};
use crate::engine::hypervisor_refusal;
use standin_hypervisor::{PowerState, VmDefinition};
use standin_model::{Refusal, VmId, VmName};
use std::path::PathBuf;
use std::time::Duration;

impl Vms {
    /// Makes a new VM known, or replaces the definition of one that is off.
    ///
    /// # Errors
    /// The hypervisor's reason; nothing changed then.
    pub async fn define(&self, definition: VmDefinition) -> Result<VmId, Refusal> {
        let vm = definition.uuid;
        let definition = Box::new(definition);
        self.ask(vm, |answer| Request::Define { definition, replace: true, answer }).await??;
        Ok(vm)
    }

    /// Makes a VM known that this host does not know: a failover defines, it never redefines.
    ///
    /// # Errors
    /// 32774 when there is a VM of that id; the hypervisor's reason.
    pub async fn define_new(&self, definition: VmDefinition) -> Result<(), Refusal> {
        let vm = definition.uuid;
        let definition = Box::new(definition);
        self.ask(vm, |answer| Request::Define { definition, replace: false, answer }).await?
    }

    /// Forgets a VM that is off, or an adopted one. Its disks stay, and so does its fence.
    ///
    /// # Errors
    /// The hypervisor's reason.
    pub async fn undefine(&self, vm: VmId) -> Result<(), Refusal> {
        self.ask(vm, |answer| Request::Undefine { answer }).await?
    }

    /// Ends a VM at once.
    ///
    /// # Errors
    /// The hypervisor's reason.
    pub async fn power_off(&self, vm: VmId) -> Result<(), Refusal> {
        self.ask(vm, |answer| Request::PowerOff { answer }).await?
    }

    /// Stops a VM's CPUs.
    ///
    /// # Errors
    /// The hypervisor's reason.
    pub async fn pause(&self, vm: VmId) -> Result<(), Refusal> {
        self.ask(vm, |answer| Request::Pause { answer }).await?
    }

    /// Asks the guest to shut down and waits at most `deadline`. Not within the task: other hosts are answered meanwhile,
    /// and what it does can only make the VM stop.
    ///
    /// # Errors
    /// 32772 when it still runs then; the hypervisor's reason.
    pub async fn shutdown(&self, vm: VmId, deadline: Duration) -> Result<(), Refusal> {
        let done = self.context.hypervisor.shutdown(vm, deadline).await;
        self.context.inventory.refresh(vm).await;
        done.map_err(|error| hypervisor_refusal(&error))
    }

    /// Makes a running QEMU known, unless the VM lives elsewhere, or `free` refuses the name that it has.
    ///
    /// # Errors
    /// The hypervisor's reason, the fence's, or that of the name; it is not known then.
    pub async fn adopt(
        &self,
        qmp: PathBuf,
        name: Option<VmName>,
        start: Start,
        free: impl Fn(VmId, &VmName) -> Result<(), Refusal>,
    ) -> Result<VmId, Refusal> {
        let adopted = self.context.hypervisor.adopt(qmp, name).await;
        let vm = adopted.map_err(|error| hypervisor_refusal(&error))?;
        let known = self.context.hypervisor.inspect(vm).await.map_err(|error| hypervisor_refusal(&error))?;
        if let Err(taken) = free(vm, &known.name) {
            self.undefine(vm).await?;
            return Err(taken);
        }
        self.context.inventory.refresh(vm).await;
        let words = self.words(vm, start.asserted).await;
        self.ask(vm, |answer| Request::Adopted { start, words, answer }).await??;
        Ok(vm)
    }
}

impl Task {
    pub(super) async fn define(&mut self, definition: VmDefinition, replace: bool) -> Result<(), Refusal> {
        if !replace {
            if let Some(known) = self.inspect().await? {
                return Err(Vm::Exists { vm: known.name, id: known.id }.into());
            }
        }
        let hypervisor = &self.context.hypervisor;
        let done = match replace {
            true => hypervisor.define(definition).await,
            false => hypervisor.define_new(definition).await,
        };
        self.context.inventory.refresh(self.vm).await;
        done.map(|_| ()).map_err(|error| hypervisor_refusal(&error))
    }

    pub(super) async fn undefine(&mut self) -> Result<(), Refusal> {
        let done = self.context.hypervisor.undefine(self.vm).await;
        self.context.inventory.refresh(self.vm).await;
        done.map_err(|error| hypervisor_refusal(&error))
    }

    pub(super) async fn power_off(&mut self) -> Result<(), Refusal> {
        let done = self.context.hypervisor.power_off(self.vm).await;
        self.context.inventory.refresh(self.vm).await;
        done.map_err(|error| hypervisor_refusal(&error))
    }

    pub(super) async fn pause(&mut self) -> Result<(), Refusal> {
        let done = self.context.hypervisor.pause(self.vm).await;
        self.context.inventory.refresh(self.vm).await;
        done.map_err(|error| hypervisor_refusal(&error))
    }

    /// What is done about a meeting here, in a word for people; `None` when nothing is.
    pub(super) async fn act_on(&mut self, kind: AlarmKind) -> Option<String> {
        let both_run = self.context.policy.both_run;
        if kind != AlarmKind::BothRanLower || both_run == WhenBothRun::Leave {
            return None;
        }
        // Nothing reads its disks while it is stopped: a cut would let it go on.
        if let Err(refusal) = self.stop_sending().await {
            tracing::error!(%refusal, "the copy of a VM with the lower claim could not be stopped");
            return None;
        }
        let (done, word) = match both_run {
            WhenBothRun::PowerOff => (self.power_off().await, "powered off"),
            _ => (self.pause().await, "paused"),
        };
        match done {
            Ok(()) => Some(word.to_owned()),
            Err(refusal) => {
                tracing::error!(%refusal, "the copy of a VM with the lower claim could not be stopped");
                None
            }
        }
    }

    /// Stops the CPUs for a host that takes the VM over, where that was asked for.
    pub(super) async fn pause_for_another(&mut self) -> Result<(), Refusal> {
        match self.inspect().await? {
            Some(info) if info.power == PowerState::Running => self.pause().await,
            _ => Ok(()),
        }
    }
}

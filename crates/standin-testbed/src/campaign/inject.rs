//! Carrying out one step: the fault begins, lasts, and ends. When [`inject`] returns nothing is broken any more;
//! whatever is wrong from then on is standin's.

use super::ledger::{self, Point};
use super::rot;
use super::trace::Trace;
use super::witness::Witness;
use super::world::{SCRATCH_RESERVE_MIB, World};
use crate::faults::{Fault, Step};
use crate::netns::Slowness;
use crate::process;
use anyhow::{Context, Result, ensure};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A cycle has certainly begun by then.
const A_CYCLE: Duration = Duration::from_millis(4500);

/// What a step needs.
pub struct Scene<'a> {
    /// Everything that can be broken.
    pub world: &'a mut World,
    /// Who watches the guest.
    pub witness: &'a Witness,
    /// Where it is told.
    pub trace: &'a Trace,
    /// Points and what they hold.
    pub ledger: &'a mut ledger::Ledger,
}

impl Scene<'_> {
    /// Carries out one step.
    ///
    /// # Errors
    /// When the harness cannot do it, or standin does not let it: a daemon that does not start again, say.
    pub fn inject(&mut self, step: &Step) -> Result<()> {
        match step.fault {
            Fault::KillPrimary => {
                self.world.a.kill()?;
                sleep(step.lasts);
                self.world.a.start()
            }
            Fault::KillReplica => {
                self.world.b.kill()?;
                sleep(step.lasts);
                self.world.b.start()
            }
            Fault::KillQemu => self.kill_qemu(step),
            Fault::CutLink => {
                // Some last longer than any timeout of a connection.
                let times = if step.choice % 4 == 0 { 6 } else { 1 };
                self.world.network.cut(1)?;
                sleep(step.lasts * times);
                self.world.network.join(1)
            }
            Fault::SlowLink => {
                self.slow(200_000 + step.choice % 1_500_000)?;
                sleep(step.lasts * 2 + A_CYCLE);
                self.world.network.unslow(1)
            }
            Fault::ReplicaDiskFull => self.fill_storage(step),
            Fault::ScratchFull => self.fill_scratch(step),
            Fault::FlipStoredBit => rot::flip_and_heal(self, step),
            Fault::FlipWireBit => self.flip_wire_bit(step),
        }
    }

    fn slow(&self, bits_per_s: u64) -> Result<()> {
        self.world.network.slow(1, Slowness { bits_per_s, queue_ms: 300 })
    }

    fn kill_qemu(&mut self, step: &Step) -> Result<()> {
        self.witness.look_away();
        let pids = self.world.a.vm_pids();
        ensure!(pids.len() == 1, "{} QEMU processes of one VM: {pids:?}", pids.len());
        pids.into_iter().try_for_each(process::kill)?;
        sleep(step.lasts);
        self.world.restart_vm().context("start the VM after its QEMU was killed")?;
        self.witness.look_again();
        Ok(())
    }

    /// Either before a cycle can begin, or under one: a slow link holds it open.
    fn hold_cycle_open(&self, step: &Step) -> Result<bool> {
        let under_a_cycle = step.choice % 2 == 0;
        if under_a_cycle {
            self.slow(300_000)?;
            sleep(A_CYCLE);
        }
        Ok(under_a_cycle)
    }

    fn fill_storage(&mut self, step: &Step) -> Result<()> {
        let under_a_cycle = self.hold_cycle_open(step)?;
        self.world.storage.fill((step.choice >> 8) % (512 << 10))?;
        sleep(step.lasts + A_CYCLE);
        self.world.storage.release()?;
        if under_a_cycle { self.world.network.unslow(1) } else { Ok(()) }
    }

    fn fill_scratch(&mut self, step: &Step) -> Result<()> {
        let under_a_cycle = self.hold_cycle_open(step)?;
        // Nothing at all, or just enough for a cut to be tried.
        let reserve = SCRATCH_RESERVE_MIB << 20;
        let free = if step.choice % 3 == 0 { reserve + (64 << 10) } else { 0 };
        self.world.scratch.fill(free)?;
        sleep(step.lasts + A_CYCLE);
        self.world.scratch.release()?;
        if under_a_cycle { self.world.network.unslow(1) } else { Ok(()) }
    }

    fn flip_wire_bit(&mut self, step: &Step) -> Result<()> {
        let before = self.world.proxy.flipped()?;
        self.world.proxy.flip_after(step.choice % 300_000)?;
        let until = Instant::now() + Duration::from_secs(30);
        while self.world.proxy.flipped()? == before {
            ensure!(Instant::now() < until, "nothing passed the proxy whose bit could be flipped");
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Waits until the replica lists a point that was cut after `since`.
    ///
    /// # Errors
    /// When it does not by the deadline; with what the primary says.
    pub fn wait_new_point(&self, since: jiff::Timestamp, deadline: Duration) -> Result<Vec<Point>> {
        let until = Instant::now() + deadline;
        loop {
            let listed = ledger::list(self.world);
            if let Ok(points) = &listed {
                if points.last().is_some_and(|point| point.created_at > since) {
                    return listed;
                }
            }
            if Instant::now() > until {
                let newest = listed.map(|points| points.last().cloned());
                anyhow::bail!(
                    "replication has not gone on by itself {deadline:?} after the fault ended; newest point \
                     {newest:?}; the primary says {:?}",
                    self.world.status()
                );
            }
            sleep(Duration::from_millis(200));
        }
    }
}

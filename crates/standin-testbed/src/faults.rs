//! Seeded campaigns of faults: what goes wrong, when, and for how long. Pure: a harness carries a plan out.
//! Equal seeds give equal plans, so a campaign that failed is run again by its seed.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// SIGKILL of the primary's daemon; it is started again afterwards.
    KillPrimary,
    /// SIGKILL of the replica's daemon; it is started again afterwards.
    KillReplica,
    /// SIGKILL of the VM's QEMU; the VM is started again afterwards.
    KillQemu,
    /// No packet passes between the hosts for a while.
    CutLink,
    /// The link is slow, late and lossy for a while.
    SlowLink,
    /// The file system of the replica's disks is full for a while.
    ReplicaDiskFull,
    /// The file system of the scratch images is full for a while.
    ScratchFull,
    /// One bit of a stored layer is flipped: a scrub must find it.
    FlipStoredBit,
    /// One bit on the wire is flipped.
    FlipWireBit,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 9] = [
        Self::KillPrimary,
        Self::KillReplica,
        Self::KillQemu,
        Self::CutLink,
        Self::SlowLink,
        Self::ReplicaDiskFull,
        Self::ScratchFull,
        Self::FlipStoredBit,
        Self::FlipWireBit,
    ];

    /// The faults after which no recovery point may be damaged. A flipped stored bit damages some, and must be
    /// found; so it comes alone, in a campaign of its own or as its last step.
    pub const HARMLESS: [Self; 8] = [
        Self::KillPrimary,
        Self::KillReplica,
        Self::KillQemu,
        Self::CutLink,
        Self::SlowLink,
        Self::ReplicaDiskFull,
        Self::ScratchFull,
        Self::FlipWireBit,
    ];
}

/// One step of a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Undisturbed time before the fault: it falls anywhere in a cycle.
    pub after: Duration,
    /// What goes wrong.
    pub fault: Fault,
    /// How long it lasts, for the faults that last; how long until the restart, for a kill.
    pub lasts: Duration,
    /// For whatever else the harness has to choose in this step: which file, which byte.
    pub choice: u64,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (after, lasts) = (self.after.as_millis(), self.lasts.as_millis());
        write!(f, "after {after} ms {:?} for {lasts} ms (choice {:#x})", self.fault, self.choice)
    }
}

/// A plan of faults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Campaign {
    /// From which it was made.
    pub seed: u64,
    /// In order.
    pub steps: Vec<Step>,
}

impl Campaign {
    /// `steps` steps out of all faults that harm no recovery point.
    #[must_use]
    pub fn generate(seed: u64, steps: usize) -> Self {
        Self::of(seed, steps, &Fault::HARMLESS)
    }

    /// `steps` steps out of `faults`; none if that is empty. As long as there are enough steps every fault comes
    /// before any comes twice, so that a short campaign has seen them all.
    #[must_use]
    pub fn of(seed: u64, steps: usize, faults: &[Fault]) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut left: Vec<Fault> = Vec::new();
        let mut plan = Vec::new();
        for _ in 0..steps {
            if left.is_empty() {
                left.extend(faults);
            }
            let Some(fault) = left.choose(&mut random).copied() else { break };
            left.retain(|other| *other != fault);
            plan.push(Step {
                after: Duration::from_millis(random.random_range(0..6000)),
                fault,
                lasts: Duration::from_millis(random.random_range(100..5000)),
                choice: random.random(),
            });
        }
        Self { seed, steps: plan }
    }
}

/// Flips one bit of a file in place, chosen by `choice`; gives the byte's offset.
///
/// # Errors
/// When the file is empty or cannot be written.
pub fn flip_stored_bit(path: &Path, choice: u64) -> std::io::Result<u64> {
    let file = File::options().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let offset = choice.checked_rem(length).ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    byte[0] ^= 1 << (choice >> 61);
    file.write_all_at(&byte, offset)?;
    file.sync_all()?;
    Ok(offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_seed_replays_the_same_campaign_and_another_seed_another() {
        assert_eq!(Campaign::generate(7, 50), Campaign::generate(7, 50));
        assert_ne!(Campaign::generate(7, 50).steps, Campaign::generate(8, 50).steps);
        let longer = Campaign::generate(7, 60);
        assert_eq!(longer.steps[..50], Campaign::generate(7, 50).steps, "a longer one begins alike");
    }

    #[test]
    fn every_fault_comes_before_any_comes_twice() {
        for seed in 0..20 {
            let campaign = Campaign::of(seed, Fault::ALL.len(), &Fault::ALL);
            let seen: HashSet<Fault> = campaign.steps.iter().map(|step| step.fault).collect();
            assert_eq!(seen.len(), Fault::ALL.len());
        }
        assert!(Campaign::of(1, 5, &[]).steps.is_empty());
        assert!(Campaign::generate(3, 40).steps.iter().all(|step| step.fault != Fault::FlipStoredBit));
    }

    #[test]
    fn exactly_one_bit_of_the_file_is_flipped() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let before: Vec<u8> = (0..=255).cycle().take(5000).collect();
        std::fs::write(file.path(), &before).unwrap();
        for choice in [0, 4999, u64::MAX, 0x2000_0000_0000_1234] {
            std::fs::write(file.path(), &before).unwrap();
            let offset = flip_stored_bit(file.path(), choice).unwrap();
            let after = std::fs::read(file.path()).unwrap();
            let flipped: u32 = before.iter().zip(&after).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!(flipped, 1);
            assert_ne!(after[usize::try_from(offset).unwrap()], before[usize::try_from(offset).unwrap()]);
        }
        std::fs::write(file.path(), []).unwrap();
        assert!(flip_stored_bit(file.path(), 9).is_err());
    }
}

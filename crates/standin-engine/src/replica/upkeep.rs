//! Keeps a replica's chain short in the background: drops points that retention does not want, and merges
//! layers, one bounded piece at a time, with a bounded share of the disk's time.

use super::layer::{blocking, refusal_of};
use super::vm::ReplicaVm;
use crate::spans;
use standin_store::{MergeBudget, MergeOutcome};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument as _;

/// How often it looks without being woken: points also age while nothing arrives.
const IDLE: Duration = Duration::from_secs(60);
/// How long it waits for more after it was woken.
const GATHER: Duration = Duration::from_secs(5);
/// Bytes of one piece of merging.
const PIECE: u64 = 32 << 20;
/// At most this part of the time is spent merging, whatever the bound on bytes.
const SHARE: u32 = 4;

/// Wakes and, when dropped, ends the upkeep of a replica.
pub struct Handle {
    wake: Arc<Notify>,
    _stop: DropGuard,
}

impl Handle {
    /// A layer was sealed.
    pub fn wake(&self) {
        self.wake.notify_one();
    }
}

/// Starts the upkeep of a replica.
#[must_use]
pub fn start(vm: Arc<ReplicaVm>, shutdown: CancellationToken) -> Handle {
    let wake = Arc::new(Notify::new());
    let stop = shutdown.child_token();
    let handle = Handle { wake: Arc::clone(&wake), _stop: stop.clone().drop_guard() };
    let record = vm.snapshot();
    let span = spans::receiver(record.id(), &record.name);
    let work = async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = wake.notified() => {}
                () = tokio::time::sleep(IDLE) => {}
            }
            // Several seals share a round: at a short interval each would cost more than the cycle itself.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(GATHER) => {}
            }
            if let Err(refusal) = vm.apply_retention().await {
                tracing::warn!(vm = %vm.snapshot().name, %refusal, "retention could not be applied");
                continue;
            }
            merge(&vm, &stop).await;
        }
    };
    tokio::spawn(work.instrument(span));
    handle
}

/// Merges until there is nothing more to do.
async fn merge(vm: &ReplicaVm, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        let store = vm.store().clone();
        let begun = std::time::Instant::now();
        let budget = MergeBudget { max_bytes: PIECE };
        let step = blocking(move || store.merge_step(&budget).map_err(|error| refusal_of(&error))).await;
        match step {
            Ok(MergeOutcome::Idle) => return,
            Ok(outcome) => {
                let bytes = if let MergeOutcome::Progress { copied } = outcome { copied } else { 0 };
                let rate = vm.shared.merge_bytes_per_s;
                let by_rate = bytes
                    .saturating_mul(1_000_000)
                    .checked_div(rate)
                    .map_or(Duration::ZERO, Duration::from_micros);
                let pause = by_rate.max(begun.elapsed() * (SHARE - 1));
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
            Err(refusal) => {
                tracing::warn!(vm = %vm.snapshot().name, %refusal, "layers could not be merged; it is tried again");
                return;
            }
        }
    }
}

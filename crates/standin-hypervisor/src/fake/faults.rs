//! What can go wrong, switched on by tests.
//!
//! Every operation counts its calls and passes a gate. A gate can refuse calls and can hold them, from the
//! n-th call on; both can be changed while calls wait there. Nothing here sleeps: a held call waits for
//! [`Faults::release`], and a test waits for a held call by [`Faults::stalled`].

use crate::error::Error;
use std::collections::BTreeMap;
use tokio::sync::watch;

/// An operation that can fail or stall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// `list` and `inspect`.
    Inspect,
    /// `define`, `undefine` and `adopt`.
    Define,
    /// `start`.
    Start,
    /// `shutdown` and `power_off`.
    Stop,
    /// `marks`.
    Marks,
    /// `retain_marks`.
    RetainMarks,
    /// `clean`.
    Clean,
    /// `live`.
    Live,
    /// `cut`.
    Cut,
    /// `View::close`. One that fails leaves its things behind, for `clean`.
    Close,
    /// `DiskReader::read`.
    Read,
    /// `DiskReader::dirty` and `DiskReader::allocation`.
    Status,
    /// `flatten`.
    Flatten,
    /// `configure_network`.
    Network,
}

/// One gate. Calls are numbered from 0.
#[derive(Debug, Default, Clone)]
struct Gate {
    calls: u64,
    waiting: u64,
    fail_from: u64,
    fail_until: u64,
    stall_from: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    gates: BTreeMap<Op, Gate>,
    freeze_failures: u64,
    fail_view_at_read: Option<u64>,
    deaf_to_shutdown: bool,
    silent_agents: bool,
}

/// The switches. All off in the beginning.
#[derive(Debug)]
pub struct Faults {
    state: watch::Sender<State>,
}

impl Default for Faults {
    fn default() -> Self {
        Self { state: watch::Sender::new(State::default()) }
    }
}

impl Faults {
    /// The next call of `op` fails, the one after works again.
    pub fn fail_next(&self, op: Op) {
        self.fail(op, 0, 1);
    }

    /// After `after` more calls of `op` that work, `times` fail; `u64::MAX` is until [`Faults::heal`].
    pub fn fail(&self, op: Op, after: u64, times: u64) {
        self.gate(op, |gate| {
            gate.fail_from = gate.calls.saturating_add(after);
            gate.fail_until = gate.fail_from.saturating_add(times);
        });
    }

    /// `op` works again. Calls that are held stay held.
    pub fn heal(&self, op: Op) {
        self.gate(op, |gate| gate.fail_until = 0);
    }

    /// After `after` more calls of `op` go through, all later ones are held until [`Faults::release`].
    pub fn stall(&self, op: Op, after: u64) {
        self.gate(op, |gate| gate.stall_from = Some(gate.calls.saturating_add(after)));
    }

    /// Lets the held calls of `op` go on and holds no more.
    pub fn release(&self, op: Op) {
        self.gate(op, |gate| gate.stall_from = None);
    }

    /// Returns as soon as at least one call of `op` is held.
    pub async fn stalled(&self, op: Op) {
        let mut state = self.state.subscribe();
        // An error would mean that `self` is gone, which it is not.
        let _ = state.wait_for(|state| state.gates.get(&op).is_some_and(|gate| gate.waiting > 0)).await;
    }

    /// Calls of `op` so far, those that failed or wait included.
    #[must_use]
    pub fn calls(&self, op: Op) -> u64 {
        self.state.borrow().gates.get(&op).map_or(0, |gate| gate.calls)
    }

    /// The next `times` freezes by the guest agent fail. The cuts are crash-consistent then.
    pub fn fail_freezes(&self, times: u64) {
        self.state.send_modify(|state| state.freeze_failures = times);
    }

    /// Guests' agents do not answer to network settings: a caller waits out its patience.
    pub fn silence_agents(&self, silent: bool) {
        self.state.send_modify(|state| state.silent_agents = silent);
    }

    pub(super) fn agents_are_silent(&self) -> bool {
        self.state.borrow().silent_agents
    }

    /// After `reads` more reads, the view that is read fails as one whose scratch is full: its failure watch
    /// says so, and this and every later read of it is an error. Once.
    pub fn fail_view_after_reads(&self, reads: u64) {
        let at = self.calls(Op::Read).saturating_add(reads);
        self.state.send_modify(|state| state.fail_view_at_read = Some(at));
    }

    /// Guests do not listen to the power button: `shutdown` waits for its deadline and times out.
    pub fn ignore_shutdown(&self, deaf: bool) {
        self.state.send_modify(|state| state.deaf_to_shutdown = deaf);
    }

    /// All switches off, all held calls go on. Counts stay.
    pub fn clear(&self) {
        self.state.send_modify(|state| {
            state.freeze_failures = 0;
            state.fail_view_at_read = None;
            state.deaf_to_shutdown = false;
            for gate in state.gates.values_mut() {
                gate.fail_until = 0;
                gate.stall_from = None;
            }
        });
    }

    /// Counts a call of `op`, holds it and refuses it as the switches say.
    pub(super) async fn pass(&self, op: Op) -> Result<(), Error> {
        let mut call = 0;
        self.gate(op, |gate| {
            call = gate.calls;
            gate.calls += 1;
        });
        if self.held(op, call) {
            let _waiting = Waiting::new(self, op);
            let mut state = self.state.subscribe();
            // An error would mean that `self` is gone, which it is not.
            let _ = state.wait_for(|state| !is_held(state, op, call)).await;
        }
        let refused = self
            .state
            .borrow()
            .gates
            .get(&op)
            .is_some_and(|gate| gate.fail_from <= call && call < gate.fail_until);
        if refused { Err(injected(op)) } else { Ok(()) }
    }

    /// Takes one freeze failure, if one is left.
    pub(super) fn take_freeze_failure(&self) -> bool {
        let mut fails = false;
        self.state.send_modify(|state| {
            fails = state.freeze_failures > 0;
            state.freeze_failures = state.freeze_failures.saturating_sub(1);
        });
        fails
    }

    /// Whether the read that was just counted is the one at which its view fails.
    pub(super) fn take_view_failure(&self) -> bool {
        let reads = self.calls(Op::Read);
        let due = self.state.borrow().fail_view_at_read.is_some_and(|at| reads > at);
        if due {
            self.state.send_modify(|state| state.fail_view_at_read = None);
        }
        due
    }

    pub(super) fn deaf_to_shutdown(&self) -> bool {
        self.state.borrow().deaf_to_shutdown
    }

    fn held(&self, op: Op, call: u64) -> bool {
        is_held(&self.state.borrow(), op, call)
    }

    fn gate(&self, op: Op, change: impl FnOnce(&mut Gate)) {
        self.state.send_modify(|state| change(state.gates.entry(op).or_default()));
    }
}

fn is_held(state: &State, op: Op, call: u64) -> bool {
    state.gates.get(&op).and_then(|gate| gate.stall_from).is_some_and(|from| call >= from)
}

/// A call that waits at a gate; also one that is given up while it waits is counted off again.
struct Waiting<'a> {
    faults: &'a Faults,
    op: Op,
}

impl<'a> Waiting<'a> {
    fn new(faults: &'a Faults, op: Op) -> Self {
        faults.gate(op, |gate| gate.waiting += 1);
        Self { faults, op }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.faults.gate(self.op, |gate| gate.waiting -= 1);
    }
}

/// What a switched-on fault answers. The same variants as the QEMU driver gives for the operation.
fn injected(op: Op) -> Error {
    let detail = "switched on by the test".to_owned();
    match op {
        Op::Read | Op::Status => Error::Read { context: format!("{op:?} of a fake disk"), detail },
        _ => Error::Qmp { command: format!("{op:?}"), class: "GenericError".into(), desc: detail },
    }
}

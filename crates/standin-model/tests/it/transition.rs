use standin_model::{Event, ReplicationState as S, ReturnCode, Side, after_restart, transition};
use std::collections::BTreeMap;

/// The whole table: what is not here must be refused. Numbers are those of the states; `B` is each of the
/// states that a failover can begin in.
const PRIMARY: &str = "
    0: Create=1
    1: StartInitial=2 Remove=0
    2: InitialDone=3 InitialCancelled=1 Suspend=7 ResumeInitial=2 TransportFailed=2 RetryExhausted=8
       RetrySucceeded=2 BitmapsLost=2 PeerFailedOver=8 Remove=0
    3: Suspend=7 TransportFailed=3 RetryExhausted=8 RetrySucceeded=3 BitmapsLost=9 PeerFailedOver=8
       PrepareFailover=4 BecomeReplica=2 DiskUpdateStarted=15 Remove=0
    4: CancelPrepared=3 ReversePlanned=3 PeerFailedOver=4 Remove=0
    5: Remove=0
    6: Remove=0
    7: Resume=3 ResumeInitial=2 Suspend=7 TransportFailed=7 RetryExhausted=7 BitmapsLost=7 PeerFailedOver=8
       StartResync=10 BecomeReplica=2 Remove=0
    8: ResumeFromCritical=3 ResumeInitial=2 RetrySucceeded=3 Suspend=7 TransportFailed=8 RetryExhausted=8
       BitmapsLost=9 PeerFailedOver=8 BecomeReplica=2 Remove=0
    9: StartResync=10 ResyncCancelled=9 BitmapsLost=9 PeerFailedOver=9 RetryExhausted=9 TransportFailed=9
       BecomeReplica=2 Remove=0
    10: ResyncDone=3 ResyncSuspend=11 ResyncCancelled=9 BitmapsLost=9 PeerFailedOver=9 RetryExhausted=8
       TransportFailed=10 RetrySucceeded=10 Remove=0
    11: Resume=10 ResyncCancelled=9 BitmapsLost=9 PeerFailedOver=9 RetryExhausted=11 TransportFailed=11
       BecomeReplica=2 Remove=0
    12:
    13: Remove=0
    14: Remove=0
    15: DiskUpdateDone=3 DiskUpdateFailed=16 Remove=0
    16: DiskUpdateStarted=15 ResumeFromCritical=15 Remove=0
    17: Remove=0
    18: Remove=0
    19: Remove=0
    20: Remove=0
    21: Remove=0";

const REPLICA: &str = "
    0: Create=2
    1: Remove=0
    2: StartInitial=2 InitialCancelled=2 InitialDone=3 ResumeInitial=2 Suspend=7 TransportFailed=2
       RetryExhausted=8 RetrySucceeded=2 StartFailover=12 Remove=0
    3: Suspend=7 TransportFailed=3 RetryExhausted=8 RetrySucceeded=3 StartFailover=12 DiskUpdateStarted=15
       Remove=0
    4: Remove=0
    5: Revert=B Commit=6 ReversePlanned=3 ReverseUnplanned=1 Remove=0
    6: ReversePlanned=3 ReverseUnplanned=1 BecomePrimary=0 Remove=0
    7: Resume=3 ResumeInitial=2 Suspend=7 TransportFailed=7 RetryExhausted=7 StartFailover=12 Remove=0
    8: ResumeFromCritical=3 ResumeInitial=2 RetrySucceeded=3 Suspend=7 TransportFailed=8 RetryExhausted=8
       StartFailover=12 Remove=0
    9: Remove=0
    10: Remove=0
    11: Remove=0
    12: FailoverDone=5 FailoverFailed=B
    13: Remove=0
    14: Remove=0
    15: DiskUpdateDone=3 DiskUpdateFailed=16 Remove=0
    16: DiskUpdateStarted=15 ResumeFromCritical=15 Remove=0
    17: Remove=0
    18: Remove=0
    19: Remove=0
    20: Remove=0
    21: Remove=0";

/// States that a failover can begin in.
const BEFORE: [u16; 4] = [2, 3, 7, 8];

/// Every event, those that carry a state once with every state. The match fails to compile when an event is
/// added, as a reminder to add it to the list.
fn events() -> Vec<Event> {
    use Event::*;
    match Create {
        Create | StartInitial | InitialDone | InitialCancelled | Suspend | Resume | ResumeInitial => {}
        ResumeFromCritical | TransportFailed | RetryExhausted | RetrySucceeded | BitmapsLost => {}
        PeerFailedOver | StartResync | ResyncDone | ResyncSuspend | ResyncCancelled | StartFailover => {}
        FailoverDone | FailoverFailed { .. } | Revert { .. } | Commit | PrepareFailover | CancelPrepared => {}
        ReversePlanned | ReverseUnplanned | BecomeReplica | BecomePrimary => {}
        DiskUpdateStarted | DiskUpdateDone | DiskUpdateFailed | Remove => {}
    }
    let mut all = vec![
        Create,
        StartInitial,
        InitialDone,
        InitialCancelled,
        Suspend,
        Resume,
        ResumeInitial,
        ResumeFromCritical,
        TransportFailed,
        RetryExhausted,
        RetrySucceeded,
        BitmapsLost,
        PeerFailedOver,
        StartResync,
        ResyncDone,
        ResyncSuspend,
        ResyncCancelled,
        StartFailover,
        FailoverDone,
        Commit,
        PrepareFailover,
        CancelPrepared,
        ReversePlanned,
        ReverseUnplanned,
        BecomeReplica,
        BecomePrimary,
        DiskUpdateStarted,
        DiskUpdateDone,
        DiskUpdateFailed,
        Remove,
    ];
    for before in S::ALL.iter().copied() {
        all.push(FailoverFailed { before });
        all.push(Revert { before });
    }
    all
}

/// Name of an event in the tables, and the state it carries.
fn named(event: Event) -> (String, Option<u16>) {
    match event {
        Event::FailoverFailed { before } => ("FailoverFailed".to_owned(), Some(before.code())),
        Event::Revert { before } => ("Revert".to_owned(), Some(before.code())),
        other => (format!("{other:?}"), None),
    }
}

fn parse(table: &str) -> BTreeMap<(u16, String), String> {
    let mut steps = BTreeMap::new();
    let mut state = 0;
    for word in table.split_whitespace() {
        match word.split_once('=') {
            None => state = word.trim_end_matches(':').parse().expect("a state"),
            Some((event, next)) => {
                let before = steps.insert((state, event.to_owned()), next.to_owned());
                assert_eq!(before, None, "{event} is twice in state {state}");
            }
        }
    }
    steps
}

#[test]
fn every_side_state_and_event_does_what_the_table_says() {
    for side in Side::ALL {
        let table = parse(if side == Side::Primary { PRIMARY } else { REPLICA });
        let mut used = 0;
        for state in S::ALL.iter().copied() {
            for event in events() {
                let (name, before) = named(event);
                let expected = table.get(&(state.code(), name)).and_then(|next| match next.as_str() {
                    "B" => before.filter(|code| BEFORE.contains(code)),
                    code => Some(code.parse().expect("a state")),
                });
                let found = transition(side, state, event).map(S::code);
                used += usize::from(expected.is_some());
                assert_eq!(found.as_ref().ok().copied(), expected, "{side}, {state}, {event}");
                if let Err(refusal) = found {
                    assert_eq!(refusal.code, ReturnCode::InvalidState);
                    assert!(refusal.message.contains(state.name()) && !refusal.remedy.is_empty());
                }
            }
        }
        // No line of the table names an event that does not exist.
        let with_before = table.values().filter(|next| *next == "B").count();
        assert_eq!(used, table.len() + with_before * (BEFORE.len() - 1));
    }
}

#[test]
fn a_restart_leaves_no_transient_state_and_says_why_it_left_one() {
    for state in S::ALL.iter().copied() {
        for before in [None, Some(S::Replicating), Some(S::Committed)] {
            let (next, reason) = after_restart(state, before);
            assert!(!next.is_transient(), "{state} became {next}");
            assert_eq!(reason.is_some(), state != next, "{state}");
            assert_eq!(state.is_transient(), state != next, "{state}");
        }
    }
}

#[test]
fn a_restart_during_a_failover_leads_back_to_where_it_began() {
    for before in S::ALL.iter().copied() {
        let (next, _) = after_restart(S::FailoverInProgress, Some(before));
        assert_eq!(next, if BEFORE.contains(&before.code()) { before } else { S::Critical });
    }
}

fn walk(side: Side, from: S, events: &[Event]) -> S {
    events.iter().fold(from, |state, event| {
        transition(side, state, *event).unwrap_or_else(|refusal| panic!("{refusal}"))
    })
}

#[test]
fn the_flows_of_the_model_end_where_it_says() {
    use Event::*;
    let before = S::Replicating;
    let first_copy = [Create, StartInitial, InitialDone];
    assert_eq!(walk(Side::Primary, S::Disabled, &first_copy), S::Replicating);
    assert_eq!(walk(Side::Replica, S::Disabled, &first_copy), S::Replicating);
    // Planned failover and reverse: both replicate with the roles swapped.
    assert_eq!(walk(Side::Primary, before, &[PrepareFailover, ReversePlanned]), S::Replicating);
    assert_eq!(walk(Side::Replica, before, &[StartFailover, FailoverDone, ReversePlanned]), S::Replicating);
    // Unplanned, reverted, again to another point, committed, reversed.
    let unplanned = [
        StartFailover,
        FailoverDone,
        Revert { before },
        StartFailover,
        FailoverDone,
        Commit,
        ReverseUnplanned,
    ];
    assert_eq!(walk(Side::Replica, before, &unplanned), S::ReadyForReplication);
    assert_eq!(
        walk(Side::Primary, before, &[PeerFailedOver, BecomeReplica]),
        S::WaitingForInitialReplication
    );
    // Resynchronization, paused on the way.
    let resync = [BitmapsLost, StartResync, ResyncSuspend, Resume, ResyncDone];
    assert_eq!(walk(Side::Primary, before, &resync), S::Replicating);
}

use standin_model::{
    Event, Facts, Method, ReplicationState as S, ReturnCode, Side, request, request_with, transition,
};

const DONE: Facts = Facts { initial_done: true, has_extended: false };
const CHAINED: Facts = Facts { initial_done: true, has_extended: true };

/// Per method the side it runs on (p, r, or e for either) and the numbers of the states it may run in, with a
/// complete initial replication and without an extended one.
const TABLE: &[(Method, char, &[u16])] = &[
    (Method::CreateReplicationRelationship, 'e', &[0]),
    (Method::ModifyReplicationSettings, 'e', &[1, 2, 3, 7, 8, 9, 11, 16]),
    (Method::StartReplication, 'p', &[1]),
    (Method::ImportInitialReplica, 'r', &[2]),
    (Method::TestReplicaSystem, 'r', &[2, 3, 5, 7, 8]),
    (Method::InitiateFailover, 'r', &[2, 3, 7, 8]),
    (Method::RevertFailover, 'r', &[5]),
    (Method::CommitFailover, 'r', &[5]),
    (Method::ReverseReplicationRelationship, 'r', &[5, 6]),
    (Method::ChangeReplicationModeToPrimary, 'r', &[]),
    (Method::RemoveReplicationRelationship, 'e', &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 16, 17, 19, 20]),
    (Method::Resynchronize, 'p', &[7, 9]),
    (Method::GetReplicationStatistics, 'e', ENABLED),
    (Method::ResetReplicationStatistics, 'e', ENABLED),
    (Method::SetFailoverNetworkAdapterSettings, 'e', ENABLED),
    (Method::InitiateFailback, 'e', &[]),
    (Method::RequestCancelInitialReplication, 'p', &[2]),
    (Method::RequestBecomeReplica, 'p', &[3, 7, 8, 9, 11]),
    (Method::RequestResume, 'e', &[4, 7, 8, 11, 16]),
    (Method::RequestPrepareFailover, 'p', &[3]),
    (Method::RequestSuspend, 'e', &[2, 3, 8, 10]),
    (Method::RequestCancelResynchronization, 'p', &[9, 10, 11]),
    (Method::TakePoint, 'p', &[3]),
];

const ENABLED: &[u16] = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21];

#[test]
fn every_method_may_run_exactly_where_the_table_says() {
    for method in Method::ALL {
        let row = TABLE.iter().find(|(listed, _, _)| *listed == method);
        for side in Side::ALL {
            for state in S::ALL.iter().copied() {
                let expected = row.is_none_or(|(_, place, states)| {
                    let here = match place {
                        'p' => side == Side::Primary,
                        'r' => side != Side::Primary,
                        _ => true,
                    };
                    here && states.contains(&state.code())
                });
                let found = request_with(side, state, method, DONE);
                assert_eq!(found.is_ok(), expected, "{method:?} on the {side} in {state}: {found:?}");
            }
        }
    }
}

#[test]
fn every_refusal_names_the_state_and_says_what_to_do() {
    for method in Method::ALL {
        for side in Side::ALL {
            for state in S::ALL.iter().copied() {
                let Err(refusal) = request(side, state, method) else { continue };
                assert!(refusal.remedy.ends_with('.'), "{}", refusal.remedy);
                if method == Method::InitiateFailback {
                    assert_eq!(refusal.code, ReturnCode::NotSupported);
                } else {
                    assert_eq!(refusal.code, ReturnCode::InvalidState);
                    let shown = format!("{} ({state})", state.code());
                    assert!(refusal.message.contains(&shown), "{}", refusal.message);
                }
            }
        }
    }
}

#[test]
fn without_a_complete_initial_replication_there_is_nothing_to_fail_over_to() {
    let waiting = S::WaitingForInitialReplication;
    for method in [Method::InitiateFailover, Method::TestReplicaSystem] {
        let refusal = request(Side::Replica, waiting, method).expect_err("no recovery point yet");
        assert!(
            refusal.remedy.contains("Wait until the initial replication is complete"),
            "{}",
            refusal.remedy
        );
        assert_eq!(request_with(Side::Replica, waiting, method, DONE), Ok(()));
    }
}

#[test]
fn the_other_host_is_named_when_the_method_runs_there() {
    for state in [S::Replicating, S::Resynchronizing] {
        let refusal =
            request(Side::Primary, state, Method::InitiateFailover).expect_err("runs on the replica");
        assert_eq!(refusal.remedy, "Run it on the host that holds the replica.");
    }
    let refusal =
        request(Side::Replica, S::Suspended, Method::Resynchronize).expect_err("runs on the primary");
    assert_eq!(refusal.remedy, "Run it on the host that holds the primary.");
}

#[test]
fn a_vm_that_does_not_replicate_is_told_how_to_begin() {
    let refusal = request(Side::Primary, S::Disabled, Method::RequestSuspend).expect_err("no relationship");
    assert!(refusal.remedy.contains("standin replicate VM --to HOST"), "{}", refusal.remedy);
}

#[test]
fn an_extended_replication_holds_the_first_and_may_take_its_place() {
    let remove = Method::RemoveReplicationRelationship;
    assert!(request_with(Side::Replica, S::Replicating, remove, CHAINED).is_err());
    assert_eq!(request_with(Side::Replica, S::Replicating, remove, DONE), Ok(()));
    let promote = Method::ChangeReplicationModeToPrimary;
    assert_eq!(request_with(Side::Replica, S::Committed, promote, CHAINED), Ok(()));
    assert!(request_with(Side::Replica, S::Recovered, promote, CHAINED).is_err());
}

#[test]
fn requested_states_are_the_numbers_of_the_model() {
    let known: Vec<u16> = (0..=30).filter(|value| Method::from_requested_state(*value).is_some()).collect();
    assert_eq!(known, [1, 2, 3, 4, 7, 9]);
    assert_eq!(Method::from_requested_state(4), Some(Method::RequestPrepareFailover));
}

/// The event that a request leads to, where it moves the relationship at once.
fn event_of(method: Method, state: S) -> Option<Event> {
    Some(match (method, state) {
        (Method::CreateReplicationRelationship, _) => Event::Create,
        (Method::StartReplication, _) => Event::StartInitial,
        (Method::ImportInitialReplica, _) => Event::InitialDone,
        (Method::InitiateFailover, _) => Event::StartFailover,
        (Method::RevertFailover, _) => Event::Revert { before: S::Replicating },
        (Method::CommitFailover, _) => Event::Commit,
        (Method::ReverseReplicationRelationship, _) => Event::ReverseUnplanned,
        (Method::ChangeReplicationModeToPrimary, _) => Event::BecomePrimary,
        (Method::RemoveReplicationRelationship, _) => Event::Remove,
        (Method::Resynchronize, _) => Event::StartResync,
        (Method::RequestCancelInitialReplication, _) => Event::InitialCancelled,
        (Method::RequestBecomeReplica, _) => Event::BecomeReplica,
        (Method::RequestResume, S::SyncedReplicationComplete) => Event::CancelPrepared,
        (Method::RequestResume, S::Critical | S::DiskUpdateCritical) => Event::ResumeFromCritical,
        (Method::RequestResume, _) => Event::Resume,
        (Method::RequestPrepareFailover, _) => Event::PrepareFailover,
        (Method::RequestSuspend, S::Resynchronizing) => Event::ResyncSuspend,
        (Method::RequestSuspend, _) => Event::Suspend,
        (Method::RequestCancelResynchronization, _) => Event::ResyncCancelled,
        _ => return None,
    })
}

/// States that each side can be in.
fn reachable(side: Side) -> std::collections::BTreeSet<S> {
    let mut seen = std::collections::BTreeSet::from([S::Disabled]);
    let events = Method::ALL.iter().flat_map(|m| S::ALL.iter().filter_map(|s| event_of(*m, *s)));
    let mut events: Vec<Event> = events.collect();
    events.extend([Event::InitialDone, Event::RetryExhausted, Event::BitmapsLost, Event::FailoverDone]);
    events.extend([Event::DiskUpdateStarted, Event::DiskUpdateFailed]);
    loop {
        let next: Vec<S> = seen
            .iter()
            .flat_map(|state| events.iter().filter_map(|event| transition(side, *state, *event).ok()))
            .collect();
        let before = seen.len();
        seen.extend(next);
        if seen.len() == before {
            return seen;
        }
    }
}

#[test]
fn what_the_gate_lets_through_the_table_can_carry_out() {
    let mut checked = 0;
    for side in Side::ALL {
        for state in reachable(side) {
            for method in Method::ALL {
                let Some(event) = event_of(method, state) else { continue };
                if request_with(side, state, method, CHAINED).is_ok() {
                    checked += 1;
                    assert!(transition(side, state, event).is_ok(), "{method:?} on the {side} in {state}");
                }
            }
        }
    }
    assert!(checked > 60, "only {checked} pairs were checked");
}

use super::*;

fn host(n: u128) -> HostId {
    HostId(Uuid::from_u128(n))
}

const ALL: Rules = Rules::ALL;
static NONE: BTreeMap<HostId, Stance> = BTreeMap::new();

/// A holds the VM, B is its replica.
fn primary() -> Fence {
    let mut fence = Fence::new(Claim::first(host(1)));
    fence.hosts.insert(host(2), known(Role::Replica, None));
    fence
}

/// B has taken the VM over from A.
fn failed_over(accepted: bool) -> Fence {
    let mut fence = Fence::new(Claim::first(host(1)));
    let claim = fence.take(host(2), None);
    fence.hosts.insert(host(1), known(Role::Source, accepted.then_some(claim.number)));
    fence
}

fn known(role: Role, accepted: Option<Generation>) -> KnownHost {
    KnownHost { name: "other".into(), addresses: Vec::new(), role, accepted }
}

fn facts<'a>(me: u128, fence: Option<&'a Fence>, heard: &'a [Heard]) -> RunFacts<'a> {
    RunFacts {
        me: host(me),
        fence,
        marked: false,
        heard,
        asserted: None,
        fenced: None,
        waited: Duration::ZERO,
        when_silent: WhenSilent::Refuse,
        witness: None,
        stances: &NONE,
        rules: ALL,
    }
}

fn run(me: u128, fence: &Fence, place: Place, asserted: Option<Assertion>) -> Run {
    let heard = [Heard { host: host(if me == 1 { 2 } else { 1 }), place }];
    may_run(&RunFacts { asserted, ..facts(me, Some(fence), &heard) })
}

const FORCE: Option<Assertion> = Some(Assertion::Forced);
const DOWN: Option<Assertion> = Some(Assertion::Silent);

#[test]
fn a_holder_starts_only_when_every_replica_says_no() {
    let fence = primary();
    assert_eq!(run(1, &fence, Place::NotHere, None), GO);
    assert_eq!(run(1, &fence, Place::Unknown, None), GO);
    for place in [Place::Runs, Place::Lives] {
        assert_eq!(run(1, &fence, place, None), Run::Refuse(Reason::RunsElsewhere(host(2))));
        assert_eq!(run(1, &fence, place, FORCE), FORCED);
    }
    for asserted in [None, DOWN] {
        assert_eq!(run(1, &fence, Place::Silent, asserted), Run::Refuse(Reason::Silent(host(2))));
    }
    assert_eq!(run(1, &fence, Place::Silent, FORCE), FORCED);
    assert_eq!(
        may_run(&facts(1, Some(&fence), &[])),
        Run::Refuse(Reason::Silent(host(2))),
        "nobody was asked"
    );
}

#[test]
fn a_host_behind_a_replica_is_heard_too() {
    let fence = primary();
    let no = Heard { host: host(2), place: Place::NotHere };
    for (place, refused) in
        [(Place::Silent, Reason::Silent(host(3))), (Place::Runs, Reason::RunsElsewhere(host(3)))]
    {
        let heard = [no, Heard { host: host(3), place }];
        assert_eq!(may_run(&facts(1, Some(&fence), &heard)), Run::Refuse(refused));
    }
}

#[test]
fn start_after_waits_and_then_starts_unconfirmed_without_a_new_number() {
    let (fence, two) = (primary(), Duration::from_secs(120));
    let when_silent = WhenSilent::StartAfter(two);
    let after = |waited| may_run(&RunFacts { waited, when_silent, ..facts(1, Some(&fence), &[]) });
    assert_eq!(after(Duration::ZERO), Run::Wait(two));
    assert_eq!(after(two), Run::Go { asserted: Some(Assertion::Waited), take: false });
}

#[test]
fn a_host_that_lost_the_vm_does_not_start_it_unless_forced() {
    let mut fence = primary();
    let told = fence.claim.next(host(2));
    assert_eq!(fence.learn(host(1), told, ALL), Learned::Lost(told));
    for place in [Place::NotHere, Place::Lives, Place::Silent, Place::Unknown] {
        let heard = [Heard { host: host(2), place }];
        let when_silent = WhenSilent::StartAfter(Duration::ZERO);
        let refused = may_run(&RunFacts { when_silent, ..facts(1, Some(&fence), &heard) });
        assert_eq!(refused, Run::Refuse(Reason::LivesElsewhere(told)));
    }
    assert_eq!(run(1, &fence, Place::Silent, FORCE), FORCED);
}

#[test]
fn a_failover_starts_only_over_a_word_a_fence_or_an_assertion() {
    let fence = failed_over(false);
    let silent = Run::Refuse(Reason::PrimarySilent(host(1)));
    assert_eq!(run(2, &fence, Place::NotHere, None), GO);
    assert_eq!(run(2, &fence, Place::Silent, None), silent);
    let fenced = |fenced| may_run(&RunFacts { fenced: Some(fenced), ..facts(2, Some(&fence), &[]) });
    assert_eq!((fenced(true), fenced(false)), (GO, silent));
    assert_eq!(run(2, &fence, Place::Silent, DOWN), Run::Go { asserted: DOWN, take: false });
    // "It is down" is no answer to "it runs".
    assert_eq!(run(2, &fence, Place::Runs, DOWN), Run::Refuse(Reason::PrimaryRuns(host(1))));
    assert_eq!(run(2, &fence, Place::Runs, FORCE), Run::Go { asserted: FORCE, take: false });
}

#[test]
fn silence_of_a_primary_that_accepted_the_claim_does_not_keep_the_new_holder_from_starting() {
    assert_eq!(run(2, &failed_over(true), Place::Silent, None), GO);
    // It was forced there.
    assert!(matches!(run(2, &failed_over(true), Place::Runs, None), Run::Refuse(_)));
}

#[test]
fn an_assertion_holds_for_later_starts_under_the_same_claim() {
    let mut fence = failed_over(false);
    fence.asserted = DOWN;
    assert_eq!(run(2, &fence, Place::Silent, None), Run::Go { asserted: DOWN, take: false });
    assert_eq!(run(2, &fence, Place::Runs, None), Run::Refuse(Reason::PrimaryRuns(host(1))));
    fence.give(host(1));
    assert_eq!(fence.asserted, None);
}

#[test]
fn that_a_host_is_down_holds_until_it_says_that_it_runs_the_vm() {
    let mut fence = failed_over(false);
    fence.asserted = DOWN;
    assert!(!fence.hear(host(1), Place::NotHere) && !fence.hear(host(3), Place::Runs));
    assert_eq!(run(2, &fence, Place::Silent, None), Run::Go { asserted: DOWN, take: false });
    assert!(fence.hear(host(1), Place::Runs));
    assert_eq!(run(2, &fence, Place::Silent, None), Run::Refuse(Reason::PrimarySilent(host(1))));
    // What was forced was forced against that very word.
    fence.asserted = FORCE;
    assert!(!fence.hear(host(1), Place::Runs));
    assert_eq!(run(2, &fence, Place::Silent, None), Run::Go { asserted: FORCE, take: false });
}

#[test]
fn a_host_that_accepted_a_claim_and_says_that_it_has_the_vm_is_to_accept_it_again() {
    for place in [Place::Runs, Place::Lives] {
        let mut fence = failed_over(true);
        assert!(!fence.hear(host(1), Place::NotHere) && !fence.hear(host(1), Place::Silent));
        assert_eq!(run(2, &fence, Place::Silent, None), GO);
        assert!(fence.hear(host(1), place));
        assert_eq!(run(2, &fence, Place::Silent, None), Run::Refuse(Reason::PrimarySilent(host(1))));
        assert!(!fence.hear(host(1), place), "once");
    }
}

#[test]
fn where_a_host_was_met_is_known_after_the_address_of_its_relationship() {
    let mut fence = primary();
    for (address, is_new) in [("b:1", true), ("b:1", false), ("10.0.0.2:1", true), ("b.example:1", true)] {
        assert_eq!(fence.is_reached_at(host(2), address), is_new, "{address}");
    }
    assert_eq!(fence.hosts[&host(2)].addresses, ["b:1", "b.example:1", "10.0.0.2:1"]);
    for port in 10..20 {
        fence.is_reached_at(host(2), &format!("b:{port}"));
    }
    let addresses = &fence.hosts[&host(2)].addresses;
    assert_eq!((addresses.len(), addresses[0].as_str(), addresses[1].as_str()), (8, "b:1", "b:19"));
    assert!(!fence.is_reached_at(host(3), "c:1"), "it shares nothing");
}

#[test]
fn only_the_holder_sends_and_nobody_whose_images_tell_of_what_no_record_does() {
    let fence = primary();
    let runs = [Heard { host: host(3), place: Place::Runs }];
    assert_eq!(may_send(host(1), Some(&fence), &runs, true, ALL), Ok(fence.claim));
    assert_eq!(may_send(host(2), Some(&fence), &[], false, ALL), Err(Reason::LivesElsewhere(fence.claim)));
    let first = may_send(host(1), None, &[], false, ALL).expect("it never replicated");
    assert_eq!((first.holder, first.number), (host(1), Generation(1)));
    assert_eq!(may_send(host(1), None, &[], true, ALL), Err(Reason::MarkedImage));
    assert_eq!(may_send(host(1), None, &runs, false, ALL), Err(Reason::RunsElsewhere(host(3))));
}

#[test]
fn without_a_record_marks_and_other_hosts_words_need_force() {
    let runs = [Heard { host: host(2), place: Place::Runs }];
    let marked = |asserted| may_run(&RunFacts { marked: true, asserted, ..facts(1, None, &[]) });
    assert_eq!(may_run(&facts(1, None, &[])), GO);
    assert_eq!(marked(None), Run::Refuse(Reason::MarkedImage));
    assert_eq!(marked(FORCE), GO);
    assert_eq!(may_run(&facts(1, None, &runs)), Run::Refuse(Reason::RunsElsewhere(host(2))));
}

#[test]
fn a_host_that_tells_its_own_id_keeps_the_claim_it_had_by_its_name() {
    let (old, new) = (HostId::of_name("alpha.example.org"), host(1));
    let mut fence = Fence::new(Claim::unnamed(Generation(1), old));
    fence.hosts.insert(old, known(Role::Source, None));
    assert!(fence.rename(old, new));
    assert_eq!(fence.learn(host(2), Claim::first(new), ALL), Learned::Nothing);
    assert!(fence.hosts.contains_key(&new) && !fence.hosts.contains_key(&old));
    assert!(!fence.rename(old, new));
}

#[test]
fn equal_numbers_of_two_holders_are_rivals_until_somebody_takes_the_next() {
    let mut fence = primary();
    let ours = fence.take(host(1), Some(Assertion::Forced));
    let theirs = Claim { holder: host(2), id: Uuid::from_u128(9), ..ours };
    assert_eq!(fence.learn(host(1), theirs, ALL), Learned::Rival(theirs));
    assert_eq!(fence.learn(host(1), theirs, ALL), Learned::Nothing);
    assert!(!fence.held_by(host(1)));
    // Each holder hears of the other one, also from a third host.
    assert_eq!(
        (fence.told_to(host(1)), fence.told_to(host(2)), fence.told_to(host(3))),
        (theirs, ours, ours)
    );
    for asserted in [None, FORCE] {
        let refused = Run::Refuse(Reason::Rivals { ours, theirs });
        assert_eq!(run(1, &fence, Place::NotHere, asserted), refused);
    }
    assert_eq!(meet(host(1), &fence, true, Place::Runs, ALL), Meeting::Rivals);
    let decided = theirs.next(host(2));
    assert_eq!(fence.learn(host(1), decided, ALL), Learned::Lost(decided));
    assert_eq!(meet(host(1), &fence, true, Place::Runs, ALL), Meeting::BothRunLower);
}

#[test]
fn a_vm_that_is_given_back_needs_no_comparison_where_its_going_was_known() {
    let (mut knew, mut missed) = (primary(), primary());
    let taken = knew.claim.next(host(2));
    let back = taken.next(host(1));
    assert_eq!(knew.learn(host(1), taken, ALL), Learned::Lost(taken));
    assert_eq!(knew.learn(host(1), back, ALL), Learned::Returned(back));
    assert_eq!(missed.learn(host(1), back, ALL), Learned::Outdated);
    assert!(missed.outdated && !knew.outdated);
}

#[test]
fn a_higher_number_of_its_own_is_taken_up_and_asks_for_a_comparison() {
    let mut fence = primary();
    let told = Claim { number: Generation(5), holder: host(1), id: Uuid::from_u128(7) };
    assert_eq!(fence.learn(host(1), told, ALL), Learned::Outdated);
    assert!(fence.outdated && fence.claim == told);
    // The same number of its own, taken twice: before a restored backup and after it.
    let twice = Claim { id: Uuid::from_u128(8), ..told };
    assert_eq!(fence.learn(host(1), twice, ALL), Learned::Outdated);
    assert_eq!(fence.learn(host(1), Claim { number: Generation(4), ..told }, ALL), Learned::Older);
}

#[test]
fn when_both_run_the_lower_number_pauses() {
    let mut lost = primary();
    lost.learn(host(1), lost.claim.next(host(2)), ALL);
    assert_eq!(meet(host(1), &lost, true, Place::Runs, ALL), Meeting::BothRunLower);
    assert_eq!(meet(host(2), &failed_over(false), true, Place::Runs, ALL), Meeting::BothRunHigher);
    assert_eq!(meet(host(1), &lost, true, Place::Lives, ALL), Meeting::RunsUnheld);
    assert_eq!(meet(host(1), &lost, false, Place::Runs, ALL), Meeting::Fine);
}

#[test]
fn every_refusal_names_the_vm_and_a_way_out() {
    let claim = Claim::first(host(2));
    let all = [
        Reason::LivesElsewhere(claim),
        Reason::RunsElsewhere(host(2)),
        Reason::Silent(host(2)),
        Reason::Rivals { ours: claim, theirs: claim },
        Reason::MarkedImage,
        Reason::PrimaryRuns(host(2)),
        Reason::PrimarySilent(host(2)),
    ];
    for reason in all {
        let refusal = reason.refusal("web", "beta");
        assert!(refusal.message.contains("web") && !refusal.remedy.is_empty(), "{refusal:?}");
        assert!(reason.host().is_none() || refusal.message.contains("beta"), "{refusal:?}");
    }
}

fn witness(records: u128) -> WitnessId {
    WitnessId { host: host(9), records: Uuid::from_u128(records) }
}

#[test]
fn a_witness_answers_for_a_silent_host_that_named_the_very_records_it_answers_from() {
    let fence = primary();
    let word = |records: Option<u128>| Some(WitnessWord { answers: records.map(witness), recorded: true });
    let named = |records: Option<u128>| {
        let stance = Stance { when_silent: WhenSilent::Refuse, witness: records.map(witness) };
        BTreeMap::from([(host(2), stance)])
    };
    let may = |named: &BTreeMap<HostId, Stance>, witness, heard: &[Heard]| {
        may_run(&RunFacts { witness, stances: named, ..facts(1, Some(&fence), heard) })
    };
    assert_eq!(may(&named(Some(7)), word(Some(7)), &[]), GO);
    let silent = Run::Refuse(Reason::Silent(host(2)));
    assert_eq!(may(&named(Some(7)), word(Some(8)), &[]), silent, "it lost its records");
    assert_eq!(may(&named(Some(7)), word(None), &[]), silent);
    assert_eq!(may(&named(Some(7)), None, &[]), silent, "named there only");
    assert_eq!(may(&named(None), word(Some(7)), &[]), silent, "named here only");
    assert_eq!(may(&NONE, word(Some(7)), &[]), silent);
    // What a host says itself counts more, and one behind it is not vouched for.
    let runs = [Heard { host: host(2), place: Place::Runs }];
    assert_eq!(may(&named(Some(7)), word(Some(7)), &runs), Run::Refuse(Reason::RunsElsewhere(host(2))));
    let behind = [Heard { host: host(3), place: Place::Silent }];
    assert_eq!(may(&named(Some(7)), word(Some(7)), &behind), Run::Refuse(Reason::Silent(host(3))));
}

#[test]
fn a_failover_that_its_witness_does_not_know_needs_an_assertion() {
    let fence = failed_over(true);
    let heard = [Heard { host: host(1), place: Place::NotHere }];
    let may = |recorded, asserted, rules| {
        let witness = Some(WitnessWord { answers: None, recorded });
        may_run(&RunFacts { witness, asserted, rules, ..facts(2, Some(&fence), &heard) })
    };
    assert_eq!(may(true, None, ALL), GO);
    assert_eq!(may(false, None, ALL), Run::Refuse(Reason::WitnessSilent));
    assert_eq!(may(false, DOWN, ALL), Run::Go { asserted: DOWN, take: false });
    assert_eq!(may(false, None, Rules { record_with_witness: false, ..ALL }), GO);
    let fenced = RunFacts {
        fenced: Some(true),
        witness: Some(WitnessWord { answers: None, recorded: false }),
        ..facts(2, Some(&fence), &heard)
    };
    assert_eq!(
        may_run(&fenced),
        Run::Refuse(Reason::WitnessSilent),
        "the host that was turned off comes back"
    );
    // A host from which nothing came has nothing to record.
    let (own, quiet) = (primary(), [Heard { host: host(2), place: Place::NotHere }]);
    let witness = Some(WitnessWord { answers: None, recorded: false });
    assert_eq!(may_run(&RunFacts { witness, ..facts(1, Some(&own), &quiet) }), GO);
}

fn named(n: u128, at: &str) -> NamedHost {
    NamedHost { host: host(n), name: format!("host-{n}"), addresses: vec![at.into()] }
}

#[test]
fn two_replicas_of_one_host_learn_of_each_other_from_it() {
    let mut sender = primary();
    sender.hosts.insert(host(3), known(Role::Replica, None));
    let told = sender.names_for(host(2));
    assert_eq!(told.iter().map(|other| other.host).collect::<Vec<_>>(), [host(3)]);

    let mut fence = failed_over(true);
    assert!(fence.take_names(host(2), host(1), &told));
    assert_eq!(fence.hosts[&host(3)].role, Role::Named);
    assert!(!fence.take_names(host(2), host(1), &told), "nothing is new");
    assert!(fence.take_names(host(2), host(1), &[named(3, "c:2")]), "it has moved");
    assert!(fence.names_for(host(9)).iter().all(|other| other.host != host(3)), "it is named no further");
    sender.hosts.insert(HostId::of_name("c.example.org"), known(Role::Replica, None));
    assert_eq!(sender.names_for(host(2)), told, "its own id is not known yet");
}

#[test]
fn only_a_host_that_shares_the_vm_names_others_and_changes_none_that_is_known_by_itself() {
    let mut fence = failed_over(true);
    assert!(!fence.take_names(host(2), host(7), &[named(3, "c:1")]), "a stranger");
    assert!(!fence.take_names(host(2), host(1), &[named(2, "b:1"), named(1, "a:1")]));
    assert_eq!(fence.hosts[&host(1)].role, Role::Source);
    fence.take_names(host(2), host(1), &[named(3, "c:1")]);
    assert!(!fence.take_names(host(2), host(3), &[named(4, "d:1")]), "one that is named itself");
    let many: Vec<_> = (10..99).map(|n| named(n, "x:1")).collect();
    fence.take_names(host(2), host(1), &many);
    assert_eq!(fence.hosts.len(), MAX_HOSTS);
}

#[test]
fn a_named_host_that_runs_the_vm_keeps_it_from_starting_and_one_that_is_silent_does_not() {
    let mut fence = failed_over(true);
    fence.take_names(host(2), host(1), &[named(3, "c:1")]);
    let run = |place, asserted| {
        let heard = [Heard { host: host(1), place: Place::NotHere }, Heard { host: host(3), place }];
        may_run(&RunFacts { asserted, ..facts(2, Some(&fence), &heard) })
    };
    for place in [Place::Silent, Place::NotHere, Place::Unknown] {
        assert_eq!(run(place, None), GO);
    }
    assert_eq!(run(Place::Runs, DOWN), Run::Refuse(Reason::RunsElsewhere(host(3))));
    assert_eq!(run(Place::Runs, FORCE), FORCED);
}

#[test]
fn a_host_that_runs_the_vm_while_two_others_hold_the_same_number_has_the_lower_one() {
    let mut fence = primary();
    let (two, three) = (fence.claim.next(host(2)), fence.claim.next(host(3)));
    fence.learn(host(1), two, ALL);
    assert_eq!(fence.learn(host(1), three, ALL), Learned::Rival(three));
    assert!(fence.is_disputed_elsewhere(host(1)) && !fence.is_disputed_elsewhere(host(3)));
    let of = |me, runs, place| meet(host(me), &fence, runs, place, ALL);
    assert_eq!(of(1, true, Place::Runs), Meeting::BothRunLower);
    assert_eq!(of(1, true, Place::Lives), Meeting::RivalsElsewhere);
    assert_eq!(of(1, false, Place::Runs), Meeting::RivalsElsewhere);
    assert_eq!(of(2, true, Place::Runs), Meeting::Rivals);
    assert_eq!(of(3, true, Place::Runs), Meeting::Rivals);
}

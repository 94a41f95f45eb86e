//! Hosts in simulated time: engines, replication and disks are real; hypervisors, networks and clocks are not. What operators,
//! crashes and networks do is drawn from a seed, and judged after every step by a ledger of its own.
//!
//! `STANDIN_SIM_SEEDS=from..to` chooses the seeds; a failing one is printed with its steps, as few as still fail.

mod judge;
mod life;
mod machine;
mod orders;
mod plan;
mod power;
mod run;
mod step;
mod watch;
mod words;
mod world;

use Says::{Force, Nothing, Silent};
use run::{Campaign, campaign, run, run_seed, shrink};
use standin_model::fence::Rules;
use std::ops::Range;
use step::Host::{A, B, C};
use step::What::{
    Adopt, Backup, Commit, Cut, DaemonDies, DaemonStarts, Define, Failover, Forget, GuestDies, Hold,
    HostDies, InitiateFailover, Lose, LoseRecords, Passes, Point, Replicate, Restore, Revert, Unreplicate,
    VmKill, VmRemove, VmResume, VmStart, VmStop,
};
use step::{Part, Says, Schedule, Step, When, step};

/// The seeds of the campaign, unless others are named.
const SEEDS: Range<u64> = 0..2000;

/// So many failures end a campaign: each of them is shrunk.
const ENOUGH: usize = 3;

/// Schedules for each pair of a step and a place to die that was not among the others.
const TRIES: u64 = 400;

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("STANDIN_SIM_SEEDS") else { return SEEDS };
    let ends = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    ends.expect("STANDIN_SIM_SEEDS=from..to")
}

fn report(campaign: &Campaign) -> String {
    let mut text = String::new();
    for (seed, outcome) in &campaign.failed {
        text += &format!("\nseed {seed}: {}\n", outcome.violations.join("; "));
        let shrunk = shrink(outcome, Rules::ALL);
        text +=
            &format!("\nseed {seed}, shrunk:\n{}\n{}\n", shrunk.schedule.as_rust(), shrunk.log.join("\n"));
    }
    text
}

#[test]
fn no_schedule_of_two_thousand_runs_a_vm_twice_or_loses_a_point_or_stalls() {
    let seeds = seeds();
    let mut campaign = campaign(seeds.clone(), ENOUGH, Rules::ALL);
    let is_whole = campaign.run >= SEEDS.end - SEEDS.start;
    if is_whole && campaign.failed.is_empty() {
        campaign.fill(seeds.end, TRIES, Rules::ALL);
    }
    println!("{} schedules\n{}", campaign.run, campaign.table());
    assert!(campaign.failed.is_empty(), "{}", report(&campaign));
    if is_whole {
        assert_eq!(campaign.gaps(), [], "steps in which no daemon died there");
    }
}

fn replay(hosts: usize, interval_s: u32, steps: &[Step]) {
    let outcome = run(&Schedule { hosts, interval_s, steps: steps.to_vec() }, Rules::ALL);
    println!("{}", outcome.log.join("\n"));
    assert!(outcome.violations.is_empty(), "{}", outcome.violations.join("; "));
}

/// Seed 489: the disks of a removed replica were put back, and before the daemon found them somebody had it forget who may
/// run the VM.
#[test]
fn a_replica_whose_disks_come_back_after_its_claim_was_forgotten_has_one_again() {
    replay(
        2,
        60,
        &[
            step(Replicate { from: A, to: B }, 0).crash(A, 2, When::After),
            step(Backup { of: B }, 0),
            step(Unreplicate { on: B }, 0),
            step(Restore { of: B, part: Part::Disks }, 0),
            step(Forget { on: B }, 0),
        ],
    );
}

/// Seed 17: a primary that accepted the claim of a failover while it ran the VM, and whose daemon then died, is silent and
/// not settled.
#[test]
fn a_primary_that_accepted_a_claim_while_it_ran_is_no_leave_to_start() {
    replay(
        3,
        5,
        &[
            step(Replicate { from: A, to: B }, 10000),
            step(InitiateFailover { on: B }, 40000),
            step(Commit { on: B }, 2000),
            step(VmStart { on: B, says: Nothing }, 11062).crash(B, 14, When::Before).beside(),
            step(DaemonDies { on: A }, 20),
            step(VmStart { on: B, says: Nothing }, 300),
        ],
    );
}

/// Seed 556: the primary's daemon was down when somebody asserted that it is; then it spoke, and said that the VM runs.
#[test]
fn what_was_asserted_of_a_silent_host_ends_when_it_says_that_it_runs_the_vm() {
    replay(
        2,
        5,
        &[
            step(Replicate { from: A, to: B }, 10000),
            step(DaemonDies { on: A }, 1000),
            step(InitiateFailover { on: B }, 10000),
            step(DaemonStarts { on: A }, 40000),
            step(Cut { one: A, other: B }, 2000),
            step(VmStart { on: B, says: Nothing }, 10000),
        ],
    );
}

/// Seed 1697: a primary was put back to before it ever replicated, and its marks went with the crash of its guest. It asks
/// nobody; the host that took the VM over is in touch with it by itself.
#[test]
fn a_host_that_forgot_that_it_shared_a_vm_hears_of_it_from_the_one_that_holds_it() {
    replay(
        2,
        5,
        &[
            step(Backup { of: A }, 0),
            step(Replicate { from: A, to: B }, 10000),
            step(GuestDies { on: A }, 0),
            step(Failover { on: B, start: true, says: Nothing }, 300),
            step(Restore { of: A, part: Part::All }, 40000),
            step(VmStart { on: A, says: Nothing }, 0),
        ],
    );
}

/// Seed 364: a primary was put back to before it ever replicated, and only the marks in its images tell of it. A relationship
/// with a third host would make a record, and with that the marks would be heeded no more.
#[test]
fn a_new_relationship_does_not_cover_up_the_marks_of_one_that_was_forgotten() {
    replay(
        3,
        5,
        &[
            step(Backup { of: A }, 0),
            step(Replicate { from: A, to: B }, 10000),
            step(VmStop { on: A }, 0),
            step(Failover { on: B, start: true, says: Nothing }, 10000),
            step(Restore { of: A, part: Part::All }, 0),
            step(Replicate { from: A, to: C }, 0),
            step(VmStart { on: A, says: Nothing }, 0),
        ],
    );
}

/// Seed 301: a replica that had failed over was put back to before it ever received the VM, whose definition is still known
/// there. It starts before it meets anybody; from then on both hosts say that two run.
#[test]
fn a_vm_that_runs_on_a_host_that_forgot_it_is_said_on_both_when_they_meet() {
    replay(
        2,
        5,
        &[
            step(Backup { of: B }, 0),
            step(Replicate { from: A, to: B }, 10000),
            step(Failover { on: B, start: false, says: Silent }, 0),
            step(DaemonStarts { on: A }, 40000),
            step(Restore { of: B, part: Part::All }, 0),
            step(VmStart { on: B, says: Nothing }, 0),
        ],
    );
}

/// Seed 374: a replica that fails over and loses its database finds the host that the VM came from by what its claim files say,
/// also when that one has forgotten it, and was first met from an address at which it does not listen.
#[test]
fn a_replica_that_lost_its_database_finds_the_host_that_the_vm_came_from() {
    replay(
        3,
        5,
        &[
            step(Backup { of: A }, 0),
            step(Replicate { from: A, to: B }, 10000),
            step(Hold { from: B, to: A }, 0),
            step(Restore { of: A, part: Part::All }, 0),
            step(InitiateFailover { on: B }, 40000),
            step(LoseRecords { of: B }, 0),
            step(VmStart { on: B, says: Silent }, 0),
        ],
    );
}

/// Seed 4742: somebody forces a VM to go on that runs. The hypervisor refuses that, and no number may be taken for it: a
/// failover would take the same one.
#[test]
fn forcing_a_vm_that_runs_takes_no_number() {
    replay(
        2,
        60,
        &[
            step(Replicate { from: A, to: B }, 10000),
            step(Cut { one: A, other: B }, 0),
            step(VmResume { on: A, says: Force }, 0),
            step(InitiateFailover { on: B }, 40000),
            step(VmStart { on: B, says: Nothing }, 0),
        ],
    );
}

/// Seed 5085: a recovery point is asked for during a cycle that gets no answer, and the VM is turned off.
#[test]
fn a_point_that_was_asked_for_ends_with_the_vm() {
    replay(
        2,
        5,
        &[
            step(Replicate { from: A, to: B }, 0),
            step(Passes { seconds: 150 }, 0),
            step(Hold { from: A, to: B }, 0),
            step(Point { on: A }, 0),
            step(VmKill { on: A }, 0),
        ],
    );
}

/// Seed 7001: a host lost its database, found its claim in the file, and then an older copy of the files was put back.
#[test]
fn a_claim_that_was_found_in_a_file_is_in_the_database_again() {
    replay(
        2,
        60,
        &[
            step(Backup { of: A }, 0),
            step(Replicate { from: A, to: B }, 10000),
            step(LoseRecords { of: A }, 0),
            step(Replicate { from: A, to: B }, 0),
            step(HostDies { on: A }, 0),
            step(Restore { of: A, part: Part::Claims }, 0),
        ],
    );
}

/// Seed 11099: a VM is about to start, other hosts were asked by what this host knows, and somebody has it forget that.
#[test]
fn a_start_does_not_go_by_what_other_hosts_said_before_the_claim_was_forgotten() {
    replay(
        2,
        60,
        &[
            step(Replicate { from: A, to: B }, 0),
            step(Unreplicate { on: B }, 0),
            step(Define { on: B }, 0),
            step(VmStart { on: B, says: Nothing }, 0).beside(),
            step(Forget { on: B }, 0),
        ],
    );
}

/// Seed 24580: a host forgets that its VM has failed over, and sends it to a third one at once. It asks whom it speaks to, as
/// before a start.
#[test]
fn a_relationship_does_not_begin_while_another_host_says_that_it_runs_the_vm() {
    replay(
        3,
        5,
        &[
            step(Replicate { from: A, to: B }, 10000),
            step(Unreplicate { on: A }, 0),
            step(Failover { on: B, start: true, says: Force }, 40000),
            step(Forget { on: A }, 0),
            step(Replicate { from: A, to: C }, 0).crash(A, 4, When::After),
        ],
    );
}

/// Seed 26815: two hosts take one number, and one of them was made to forget the other, which tells it again.
#[test]
fn a_host_that_was_forgotten_tells_again_that_it_shares_the_vm_and_hears_of_a_rival() {
    replay(
        3,
        5,
        &[
            step(Backup { of: A }, 0),
            step(Replicate { from: A, to: B }, 10000),
            step(VmStop { on: A }, 0),
            step(Failover { on: B, start: true, says: Force }, 0),
            step(Restore { of: A, part: Part::All }, 10000),
            step(Forget { on: A }, 0),
            step(Adopt { on: C, says: Nothing }, 0),
            step(VmRemove { on: A }, 0),
            step(Replicate { from: C, to: A }, 0),
            step(Define { on: A }, 0),
            step(Unreplicate { on: A }, 0),
            step(VmStart { on: A, says: Force }, 0),
        ],
    );
}

/// Seed 27398: the daemon dies when the job of a comparison has ended and before that is noted with the relationship; the
/// comparison runs again. A point that is asked for later is no part of that job.
#[test]
fn a_job_that_ended_in_a_crash_does_not_keep_later_ones_from_ending() {
    replay(
        2,
        60,
        &[
            step(Replicate { from: A, to: B }, 6561),
            step(DaemonDies { on: A }, 0),
            step(Failover { on: B, start: false, says: Nothing }, 0),
            step(Revert { on: B }, 0),
            step(DaemonStarts { on: A }, 40000),
            step(Failover { on: B, start: true, says: Nothing }, 15364).crash(A, 6, When::Before),
            step(DaemonStarts { on: A }, 300),
            step(HostDies { on: B }, 0),
            step(Point { on: A }, 40000),
        ],
    );
}

/// Seed 27398: a recovery point is asked for from a host that is about to learn that another one holds its VM.
#[test]
fn a_point_that_was_asked_for_ends_when_the_vm_is_elsewhere() {
    replay(
        2,
        60,
        &[
            step(Replicate { from: A, to: B }, 10000),
            step(Cut { one: A, other: B }, 0),
            step(InitiateFailover { on: B }, 40000),
            step(Point { on: A }, 0),
        ],
    );
}

/// Seed 38456: the same, of a replica that has failed over.
#[test]
fn a_failed_over_replica_whose_disks_come_back_after_its_removal_keeps_its_claim() {
    replay(
        2,
        5,
        &[
            step(Replicate { from: A, to: B }, 10000),
            step(Failover { on: B, start: true, says: Force }, 10000),
            step(Backup { of: B }, 0),
            step(Revert { on: B }, 0),
            step(Unreplicate { on: B }, 0),
            step(Restore { of: B, part: Part::Disks }, 0),
            step(Forget { on: B }, 0),
        ],
    );
}

/// Seed 4309: the VM is given back to its primary, which is silent, while somebody forces it to fail over to another replica:
/// both took a number, and it is the same one. Both say so, and a person decides.
#[test]
fn a_number_that_is_given_back_can_be_taken_elsewhere_and_then_a_person_decides() {
    replay(
        3,
        5,
        &[
            step(Replicate { from: A, to: B }, 10000),
            step(Unreplicate { on: A }, 0),
            step(Replicate { from: A, to: C }, 60000),
            step(DaemonDies { on: A }, 40000),
            step(Failover { on: B, start: true, says: Silent }, 2000),
            step(Cut { one: B, other: C }, 0),
            step(Failover { on: C, start: true, says: Force }, 16524),
            step(Revert { on: B }, 0),
            step(Cut { one: A, other: C }, 0),
            step(DaemonStarts { on: A }, 40000),
        ],
    );
}

/// Seed 14458: a host that once had the VM cannot reach the one that runs it, and says so when it is asked. What that one says
/// itself counts.
#[test]
fn what_a_host_says_itself_counts_before_what_others_say_of_it() {
    replay(
        3,
        5,
        &[
            step(Replicate { from: A, to: B }, 10000),
            step(HostDies { on: A }, 0),
            step(Failover { on: B, start: true, says: Silent }, 10000),
            step(Commit { on: B }, 0),
            step(Unreplicate { on: B }, 0),
            step(Replicate { from: B, to: C }, 10000),
            step(InitiateFailover { on: C }, 10000),
            step(DaemonStarts { on: A }, 0),
            step(Lose { from: A, to: B }, 0),
            step(VmStart { on: C, says: Silent }, 0),
        ],
    );
}

/// Seed 32061: a primary accepted the claim of a failover, was put back to before it replicated, and was forced to start the
/// VM. It said so, and is silent: that it once accepted the claim is no leave to start any more.
#[test]
fn a_host_that_says_that_it_runs_the_vm_has_let_go_of_it_no_more() {
    replay(
        3,
        5,
        &[
            step(Backup { of: A }, 0),
            step(Replicate { from: A, to: B }, 10000),
            step(VmStop { on: A }, 0),
            step(Failover { on: B, start: true, says: Silent }, 10000),
            step(Restore { of: A, part: Part::All }, 0),
            step(VmStop { on: B }, 0),
            step(VmStart { on: A, says: Force }, 40000),
            step(Cut { one: A, other: B }, 0),
            step(VmStart { on: B, says: Nothing }, 0),
        ],
    );
}

/// Every rule of the fence is needed, and the judge sees when one is missing.
#[test]
fn a_fence_with_any_one_rule_switched_off_is_found_out() {
    type SwitchOff = fn(&mut Rules);
    let without: [(&str, SwitchOff); 8] = [
        ("compare_claims", |rules| rules.compare_claims = false),
        ("confirm_failover", |rules| rules.confirm_failover = false),
        ("record_with_witness", |rules| rules.record_with_witness = false),
        ("ask_before_start", |rules| rules.ask_before_start = false),
        ("heed_silence", |rules| rules.heed_silence = false),
        ("pause_lower", |rules| rules.pause_lower = false),
        ("keep_tombstones", |rules| rules.keep_tombstones = false),
        ("heed_marks", |rules| rules.heed_marks = false),
    ];
    for (name, switch_off) in without {
        let mut rules = Rules::ALL;
        switch_off(&mut rules);
        let found = campaign(SEEDS, 1, rules);
        let (seed, outcome) =
            found.failed.first().unwrap_or_else(|| panic!("nothing is found without {name}"));
        println!("without {name}, schedule {} (seed {seed}): {}", found.run, outcome.violations.join("; "));
    }
}

/// For work on the simulation: one seed, its log (with that of the daemons by `RUST_LOG`), and how long it took.
#[test]
#[ignore = "a tool: STANDIN_SIM_SEEDS=n..n+1"]
fn one_seed_is_shown() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
    for seed in seeds() {
        let begun = std::time::Instant::now();
        let outcome = run_seed(seed, Rules::ALL);
        println!("{}", outcome.log.join("\n"));
        println!("{}", outcome.schedule.as_rust());
        println!("seed {seed}: {:?} in {:?}", outcome.violations, begun.elapsed());
    }
}

//! An older backup of a data directory is put back.

use super::{History, has};
use crate::host::{Backup, End};
use crate::world::{World, keep_all, to};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use standin_engine::Command;
use standin_model::health::Health;
use standin_model::settings::RelationshipSettings;
use standin_model::state::ReplicationState as S;
use std::path::PathBuf;
use std::process::Command as Program;

impl Backup {
    /// As it would be, had it been made so many seconds before.
    pub fn aged(mut self, seconds: i64) -> Self {
        for (key, record) in self.records.iter_mut().filter(|(key, _)| key.starts_with("relationship/")) {
            let mut stored: Value = serde_json::from_slice(record).expect("a record");
            let sender = &mut stored["record"]["sender"];
            assert!(sender.is_object(), "{key} is no sender's");
            let saved = sender["saved_at"].as_str().expect("a time").parse::<Timestamp>().expect("a time");
            sender["saved_at"] = (saved - SignedDuration::from_secs(seconds)).to_string().into();
            *record = serde_json::to_vec(&stored).expect("JSON");
        }
        self
    }
}

/// An older state of a replica host.
struct Older {
    records: Backup,
    disks: PathBuf,
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = Program::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(done.success());
}

impl World {
    /// Backs the replica host up while it is down.
    async fn back_b_up(&mut self) -> Older {
        self.b.stop().await;
        let disks = self.root().join("backup");
        copy(&self.b.replicas_dir(), &disks);
        let records = self.b.backup().await;
        self.b.start().await;
        self.link.lead_to(self.b.port());
        Older { records, disks }
    }

    async fn put_back(&mut self, older: &Older, records: bool, disks: bool) {
        self.b.kill().await;
        if records {
            self.b.restore(&older.records).await;
        }
        if disks {
            std::fs::remove_dir_all(self.b.replicas_dir()).expect("removed");
            copy(&older.disks, &self.b.replicas_dir());
        }
        self.b.start().await;
        self.link.lead_to(self.b.port());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_data_directory_of_the_primary_is_compared_and_goes_on_above_the_replica() {
    let mut world = World::replicating(keep_all()).await;
    let mut history = world.history(2).await;
    // As it is written down.
    world.a.restart(End::Stop).await;
    let backup = world.a.backup().await.aged(3600);
    history.0.extend(world.history(4).await.0);
    let head = world.latest().epoch;
    world.a.kill().await;
    world.a.restore(&backup).await;
    world.a.start().await;
    world.order_point().await;
    crate::host::until("a comparison", || world.was_compared().then_some(())).await;
    world.goes_on().await;
    assert!(world.latest().epoch > head);
    world.all_fail_over(&history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_was_killed_does_not_compare() {
    let mut world = World::replicating(keep_all()).await;
    let history = world.history(4).await;
    world.a.restart(End::Kill).await;
    world.goes_on().await;
    assert!(!world.was_compared(), "what changed was known");
    world.all_fail_over(&history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_disks_of_the_replica_are_said_on_both_hosts_and_mended_by_a_comparison() {
    for records in [false, true] {
        let by_hand = RelationshipSettings { auto_resync: false, ..keep_all() };
        let mut world = World::replicating(by_hand).await;
        let history = world.history(2).await;
        let older = world.back_b_up().await;
        let gone = world.history(3).await;
        world.put_back(&older, records, true).await;
        let job = world.order_point().await;
        world.a.job(job).await;
        world.a.reaches(world.vm, S::WaitingToStartResynchronization).await;
        let status = world.a.status(world.vm).await;
        assert_eq!(status.health, Health::Critical);
        let error = status.last_error.expect("a reason");
        has(&error.message, &["has lost up to 3 recovery points that it acknowledged"]);
        has(&world.says(&world.b, "are an older copy").await, &["goes on by itself"]);
        let job = world.a.ask(world.vm, Command::Resynchronize).await.expect("asked").expect("a job");
        world.done(job).await;
        world.goes_on().await;
        world.all_fail_over(&history).await;
        let points = world.points();
        assert!(gone.0.iter().all(|(point, _)| points.iter().all(|known| known.id != point.id)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_whose_vm_is_off_notices_that_the_replica_lost_points() {
    let mut world = World::replicating(keep_all()).await;
    world.history(1).await;
    let older = world.back_b_up().await;
    world.history(2).await;
    world.a.fake.clean_stop(world.vm);
    world.put_back(&older, true, true).await;
    world.a.restart(End::Stop).await;
    has(&world.says(&world.a, "has lost up to 2 recovery points").await, &["resync"]);
    assert_eq!(world.a.status(world.vm).await.health, Health::Critical);
}

#[tokio::test(flavor = "multi_thread")]
async fn older_disks_of_the_replica_are_noticed_when_the_hosts_meet_again_and_not_at_the_next_cycle() {
    let mut world = World::replicating(keep_all()).await;
    let history = world.history(1).await;
    let older = world.back_b_up().await;
    world.history(2).await;
    world.put_back(&older, true, true).await;
    crate::host::until("a comparison", || world.was_compared().then_some(())).await;
    world.goes_on().await;
    world.all_fail_over(&history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_database_of_the_replica_loses_nothing() {
    let mut world = World::replicating(keep_all()).await;
    let mut history = world.history(2).await;
    let older = world.back_b_up().await;
    history.0.extend(world.history(3).await.0);
    world.put_back(&older, true, false).await;
    world.goes_on().await;
    assert!(!world.was_compared(), "the disks are what they were");
    world.all_fail_over(&history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_database_of_the_replica_does_not_forget_a_failover_nor_bring_one_back() {
    let mut world = World::replicating(keep_all()).await;
    let history: History = world.history(2).await;
    let before = world.back_b_up().await;
    let vm = world.vm;
    world.a.fake.clean_stop(vm);
    let job = world.b.call(move |engine| async move { engine.failover(vm, to(None, true)).await }).await;
    world.done_on_replica(job.expect("begun")).await;
    let records = world.b.backup().await;
    world.put_back(&before, true, false).await;
    assert!(world.is(&world.b, S::Recovered), "it runs here");
    world.revert().await;
    let failed_over = Older { records, ..before };
    world.put_back(&failed_over, true, false).await;
    assert!(world.is(&world.b, S::Replicating), "it was reverted");
    world.a.call(move |engine| async move { engine.start_vm(vm, None).await }).await.expect("started");
    world.goes_on().await;
    world.all_fail_over(&history).await;
}

//! A way back from every loss: what was there before is there afterwards, and goes on without a first copy.
//!
//! Each of these ends with every recovery point of before failing over by the ordinary call, and being what the guest's
//! disks were.

mod backups;
mod certificates;
mod entries;
mod lost;

use crate::host::{Host, until};
use crate::world::{Contents, KIB, World, random, to};
use standin_engine::{Command, Enable, Enabled};
use standin_model::health::Health;
use standin_model::job::{JobState, JobType};
use standin_model::state::ReplicationState as S;
use standin_model::view::StatusView;
use standin_model::{RecoveryPoint, Refusal};
use std::collections::BTreeSet;

/// Points, and what the disks were at each.
struct History(Vec<(RecoveryPoint, Contents)>);

impl World {
    /// Takes points, with changes between them.
    async fn history(&self, points: u64) -> History {
        let mut history = Vec::new();
        for number in 0..points {
            self.write("a", number * 64 * KIB, &random(9 * KIB, 700 + number));
            self.write("b", number * 8 * KIB, &random(700, 800 + number));
            let contents = self.contents();
            history.push((self.proven_point().await, contents));
        }
        History(history)
    }

    /// Every point of before is there under its own name, fails over by the ordinary call, and is what the disks were.
    async fn all_fail_over(&self, history: &History) {
        let points = self.points();
        let ids: BTreeSet<_> = points.iter().map(|point| point.id).collect();
        assert_eq!(ids.len(), points.len(), "two points have one name");
        assert!(points.windows(2).all(|pair| pair[0].epoch < pair[1].epoch), "{points:?}");
        for (point, contents) in &history.0 {
            assert!(points.contains(point), "{point:?} is gone: {points:?}");
            let (vm, order) = (self.vm, to(Some(point.id), false));
            let job = self.b.call(move |engine| async move { engine.failover(vm, order).await }).await;
            self.done_on_replica(job.expect("begun")).await;
            self.equals(point.id, contents);
            let replica = self.b.engine().replicas().find(vm).expect("a replica");
            assert_eq!(replica.store().overlays().pop().expect("an overlay").point, point.id);
            self.revert().await;
        }
    }

    /// Replication goes on by itself: a new point comes, which is what the disks are; nothing of before was set aside.
    async fn goes_on(&self) {
        self.both_replicate().await;
        self.write("a", 900 * KIB, &random(5 * KIB, self.latest().epoch.0));
        let expected = self.contents();
        let point = self.point_of_now().await;
        self.equals(point.id, &expected);
        for host in [&self.a, &self.b] {
            let (engine, vm) = (host.engine(), self.vm);
            let is_well = || (engine.relationship(vm)?.status.health == Health::Ok).then_some(());
            until("both are well", is_well).await;
        }
        let entries = std::fs::read_dir(self.b.replicas_dir()).expect("a directory");
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        assert_eq!(names.filter(|name| name.contains(".kept-")).count(), 0, "the replica was set aside");
    }

    /// A recovery point that is not older than this call, whatever is under way.
    async fn point_of_now(&self) -> RecoveryPoint {
        for _ in 0..40 {
            if let Ok(Some(job)) = self.a.ask(self.vm, Command::Point { application: false }).await {
                if self.a.job(job).await.state == JobState::Completed {
                    return self.latest();
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        }
        panic!("no recovery point: {:?}", self.a.status(self.vm).await);
    }

    async fn replicate_again(&self) -> Result<Enabled, Refusal> {
        self.replicate_to(self.link.address()).await
    }

    async fn replicate_to(&self, peer: String) -> Result<Enabled, Refusal> {
        let (vm, settings) = (self.vm, crate::world::keep_all());
        let enable = Enable { peer, settings, start: true };
        self.a.call(move |engine| async move { engine.enable(vm, enable).await }).await
    }

    /// A comparison has ended well on the primary since it started.
    fn was_compared(&self) -> bool {
        let jobs = self.a.engine().jobs().list();
        jobs.iter().any(|job| job.job_type == JobType::Resynchronize && job.state == JobState::Completed)
    }

    /// Waits until `status` says something on a host, and returns what it says to do.
    async fn says(&self, host: &Host, what: &str) -> String {
        let (engine, vm) = (host.engine(), self.vm);
        let text = |status: StatusView| {
            let issues = status.health_issues.into_iter().map(|issue| (issue.message, issue.remedy));
            let error = status.last_error.map(|error| (error.message, error.remedy));
            let mut all = issues.chain(error);
            all.find(|(message, _)| message.contains(what)).map(|(_, remedy)| remedy)
        };
        until(format!("{what:?} in the status"), || {
            let found = engine.relationship(vm)?;
            text(found.status)
        })
        .await
    }

    async fn b_has_lost_its_database(&mut self) {
        self.b.kill().await;
        self.b.forget_records();
        self.b.start().await;
        self.link.lead_to(self.b.port());
    }

    async fn a_has_lost_its_database(&mut self) {
        self.a.kill().await;
        self.a.forget_records();
        self.a.start().await;
    }

    fn is(&self, host: &Host, state: S) -> bool {
        host.state(self.vm) == state
    }
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

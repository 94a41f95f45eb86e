//! What becomes of replicas when their manifests are lost, their storage is moved, and what was kept of them is used again.

use crate::host::{End, Host};
use crate::world::{Contents, KIB, World, keep_all, random, refused};
use standin_engine::Command;
use standin_hypervisor::{Hypervisor, PowerState};
use standin_model::health::Health;
use standin_model::state::{ReplicationMode, ReplicationState as S};
use standin_model::view::{DirectoryKind, DirectoryView};
use standin_model::{RecoveryPoint, Refusal, ReturnCode};
use std::path::{Path, PathBuf};
use std::time::Duration;

const COPIES: [&str; 2] = ["manifest.json", "manifest-copy.json"];

type History = Vec<(RecoveryPoint, Contents)>;

/// A world whose replica has three points, with what each has to show.
async fn with_history() -> (World, History) {
    let world = World::replicating(keep_all()).await;
    let mut history = vec![(world.latest(), world.contents())];
    for number in 0..2 {
        world.write("a", number * 100 * KIB, &random(60 * KIB, 700 + number));
        world.write("b", 4 * KIB, &random(KIB, 710 + number));
        history.push((world.proven_point().await, world.contents()));
    }
    (world, history)
}

impl World {
    /// Each point fails over by the ordinary call, and shows what it has to.
    async fn each_fails_over(&self, history: &History) {
        assert!(self.points().len() >= history.len(), "{:?}", self.points());
        for (point, contents) in history {
            self.equals(point.id, contents);
            self.failed_over(Some(point.id), false).await;
            self.stands_on(point).await;
            self.revert().await;
        }
    }

    /// A point can be taken again; a job that is asked for before the hosts have met again may end with their meeting.
    async fn goes_on_again(&self) {
        let old = self.latest();
        for _ in 0..100 {
            let asked = self.a.ask(self.vm, Command::Point { application: false }).await;
            let Ok(Some(job)) = asked else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            self.a.job(job).await;
            if self.latest().epoch > old.epoch {
                return;
            }
        }
        panic!("no point after epoch {}", old.epoch);
    }

    fn directory(&self) -> PathBuf {
        self.b.engine().replicas().find(self.vm).expect("a replica").store().directory().to_owned()
    }

    async fn directories(&self) -> Vec<DirectoryView> {
        self.b.call(|engine| async move { engine.replicas().directories().await }).await.expect("listed")
    }

    async fn repair(&self) -> Result<standin_store::Repaired, Refusal> {
        let vm = self.vm;
        self.b.call(move |engine| async move { engine.replicas().repair(vm, |_, _| {}).await }).await
    }
}

fn lose(directory: &Path) {
    for name in COPIES {
        std::fs::remove_file(directory.join(name)).expect("removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_lost_comes_back_unnoticed_from_its_copy() {
    let (mut world, history) = with_history().await;
    let directory = world.directory();
    world.b.stop().await;
    std::fs::write(directory.join(COPIES[0]), b"{").expect("writes");
    world.b.start().await;
    world.link.lead_to(world.b.port());
    assert_eq!(world.b.status(world.vm).await.health, Health::Ok);
    world.proven_point().await;
    world.each_fails_over(&history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_both_copies_lost_the_replica_is_critical_on_both_hosts_until_it_is_repaired() {
    for records_too in [false, true] {
        let (mut world, history) = with_history().await;
        let directory = world.directory();
        world.b.stop().await;
        lose(&directory);
        if records_too {
            world.b.forget_records();
        }
        world.b.start().await;
        world.link.lead_to(world.b.port());
        let status = world.b.status(world.vm).await;
        assert_eq!(
            (status.mode, status.state, status.health),
            (ReplicationMode::Replica, S::Critical, Health::Critical)
        );
        let error = status.last_error.expect("a reason");
        assert!(
            error.message.contains("is lost") && error.remedy.contains("standin store repair web"),
            "{error:?}"
        );
        let [found] = &world.directories().await[..] else { panic!("one directory") };
        assert_eq!(found.kind, DirectoryKind::Unreadable);
        assert!(found.remedy.contains("standin store repair web"), "{found:?}");
        let path = directory.clone();
        let removed =
            world.b.call(|engine| async move { engine.replicas().remove_directory(path).await }).await;
        refused(removed, ReturnCode::InUse);
        // The primary says it too, and no first copy takes its place.
        if !records_too {
            let job = world.order_point().await;
            let ended = world.a.job(job).await;
            let said = ended.error.expect("it failed").message;
            assert!(said.contains("cannot be opened"), "{said}");
        }
        assert_eq!(world.points(), []);
        let repaired = world.repair().await.expect("repaired");
        assert_eq!((repaired.points, repaired.left_out), (3, Vec::new()));
        refused(world.repair().await, ReturnCode::InvalidState);
        world.each_fails_over(&history).await;
        if records_too {
            world.b.admit("primary.example.org", "one").await;
        }
        world.goes_on_again().await;
        world.b.restart_behind(&world.link, End::Kill).await;
        world.each_fails_over(&history).await;
    }
}

/// Copies all replicas of a host to another location of it, as `cp -a` does.
fn copy_storage(host: &Host, name: &str) -> PathBuf {
    let from = host.replicas_dir();
    let to = from.with_file_name(name);
    let done = std::process::Command::new("cp").arg("-a").args([&from, &to]).status().expect("cp");
    assert!(done.success());
    to
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_found_where_its_storage_was_moved_and_the_old_copy_is_only_said() {
    let (mut world, history) = with_history().await;
    world.b.stop().await;
    let moved = copy_storage(&world.b, "moved");
    world.b.storage = vec!["moved", "replicas"];
    world.b.start().await;
    world.link.lead_to(world.b.port());
    assert!(world.directory().starts_with(&moved));
    let record = world.b.engine().replicas().find(world.vm).expect("a replica").snapshot();
    assert_eq!(record.location, moved);
    let found = world.directories().await;
    let kinds: Vec<_> = found.iter().map(|one| (one.path.contains("/moved/"), one.kind)).collect();
    assert!(kinds.contains(&(true, DirectoryKind::Replica)) && kinds.contains(&(false, DirectoryKind::Copy)));
    // On without a first copy, and the copy at the old place is never taken again.
    world.proven_point().await;
    world.each_fails_over(&history).await;
    world.b.restart_behind(&world.link, End::Stop).await;
    assert!(world.directory().starts_with(&moved));
    let old = found.into_iter().find(|one| one.kind == DirectoryKind::Copy).expect("the old one").path;
    world
        .b
        .call(move |engine| async move { engine.replicas().remove_directory(old.into()).await })
        .await
        .expect("removed");
    world.each_fails_over(&history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_failed_over_follows_its_storage() {
    for committed in [false, true] {
        let (mut world, history) = with_history().await;
        let (point, _) = &history[1];
        world.failed_over(Some(point.id), true).await;
        if committed {
            world.commit().await;
        }
        world.b.fake.clean_stop(world.vm);
        world.b.stop().await;
        let moved = copy_storage(&world.b, "moved");
        std::fs::remove_dir_all(world.b.replicas_dir()).expect("the old storage is gone");
        world.b.storage = vec!["moved"];
        world.b.start().await;
        world.link.lead_to(world.b.port());
        let info = world.b.fake.inspect(world.vm).await.expect("defined");
        for disk in &info.definition.disks {
            assert!(disk.file.starts_with(&moved) && disk.file.is_file(), "{}", disk.file.display());
        }
        let vm = world.vm;
        world.b.call(move |engine| async move { engine.start_vm(vm, None).await }).await.expect("started");
        if !committed {
            world.stands_on(point).await;
            world.revert().await;
            world.each_fails_over(&history).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_copies_the_one_that_a_vm_runs_from_is_used() {
    let (mut world, history) = with_history().await;
    world.failed_over(Some(history[1].0.id), true).await;
    let info = world.b.fake.inspect(world.vm).await.expect("defined");
    assert_eq!(info.power, PowerState::Running);
    world.b.stop().await;
    copy_storage(&world.b, "moved");
    world.b.storage = vec!["moved", "replicas"];
    world.b.store.in_use = info.definition.disks.iter().map(|disk| disk.file.clone()).collect();
    world.b.start().await;
    assert!(world.directory().starts_with(world.b.replicas_dir()));
    world.stands_on(&history[1].0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_of_a_replica_is_listed_and_fails_over_once_it_is_taken_up_again() {
    let (mut world, history) = with_history().await;
    let (vm, kept) = (world.vm, world.directory());
    for host in [&world.a, &world.b] {
        host.call(move |engine| async move { engine.remove(vm).await }).await.expect("removed");
    }
    // Another one takes its place.
    let job = world.begin(keep_all()).await;
    world.done(job).await;
    world.both_replicate().await;
    let found = world.directories().await;
    let old = found.iter().find(|one| one.kind == DirectoryKind::Kept).expect("kept").clone();
    assert_eq!((old.points, old.host.as_deref()), (3, Some("primary.example.org")), "{found:?}");
    assert!(
        old.remedy.contains("standin store adopt") && old.remedy.contains("standin store remove"),
        "{old:?}"
    );
    let path = PathBuf::from(&old.path);
    let adopt = |path: PathBuf| world.b.call(|engine| async move { engine.replicas().adopt(path).await });
    refused(adopt(path.clone()).await, ReturnCode::InUse);
    refused(adopt(kept.join("..")).await, ReturnCode::FileNotFound);
    for host in [&world.a, &world.b] {
        host.call(move |engine| async move { engine.remove(vm).await }).await.expect("removed");
    }
    adopt(path).await.expect("taken up again");
    assert_eq!(world.directory(), kept);
    let status = world.b.status(vm).await;
    assert_eq!((status.state, status.points), (S::Critical, 3));
    assert!(status.last_error.expect("a reason").remedy.contains("Fail over"));
    world.each_fails_over(&history).await;
    world.b.restart_behind(&world.link, End::Kill).await;
    world.each_fails_over(&history).await;
    // The directory of the one in between can go.
    let between =
        world.directories().await.into_iter().find(|one| one.kind == DirectoryKind::Kept).expect("kept");
    world
        .b
        .call(move |engine| async move { engine.replicas().remove_directory(between.path.into()).await })
        .await
        .expect("removed");
    assert_eq!(world.directories().await.len(), 1);
}

//! The fake keeps the contract of the seam; the engine's tests are worth as much as these.

use super::*;
use crate::seam::{
    Consistency, CutRequest, DiskReader, Extent, Hypervisor, LiveRequest, Mark, MarkStatus, StartOptions,
    View,
};
use standin_model::Epoch;
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn name(disk: &str) -> DiskName {
    DiskName::new(disk).expect("a disk name")
}

fn tracker() -> Tracker {
    Tracker("t1".to_owned())
}

fn mark(epoch: u64) -> Mark {
    Mark { epoch: Epoch(epoch), pass: 0 }
}

fn cut_request(since: u64, next: u64) -> CutRequest {
    CutRequest {
        disks: vec![name("a"), name("b")],
        tracker: tracker(),
        since: mark(since),
        mark: mark(next),
        granularity: 65536,
        consistency: Consistency::Crash,
        scratch_dir: "/nonexistent".into(),
        scratch_reserve: 0,
    }
}

fn live_request(since: Option<u64>, next: u64) -> LiveRequest {
    let disks = vec![name("a"), name("b")];
    LiveRequest { disks, tracker: tracker(), since: since.map(mark), mark: mark(next), granularity: 65536 }
}

/// A VM with two disks, and mark 0 on them.
async fn tracked() -> (Arc<FakeHypervisor>, VmId) {
    let fake = FakeHypervisor::new();
    let vm = fake.add_vm("web", &[("a", MIB), ("b", 2 * MIB)]);
    let view = fake.live(vm, live_request(None, 0)).await.expect("live");
    view.close().await.expect("close");
    (fake, vm)
}

fn reader(view: &dyn View, disk: &str) -> Arc<dyn DiskReader> {
    view.disk(&name(disk)).expect("a disk of the request")
}

async fn marks(fake: &FakeHypervisor, vm: VmId) -> Vec<MarkStatus> {
    fake.marks(vm, &tracker(), &[name("a"), name("b")]).await.expect("marks")
}

#[tokio::test]
async fn a_cut_is_immune_to_later_writes_on_all_disks_and_a_live_view_sees_them() {
    let (fake, vm) = tracked().await;
    fake.write(vm, "a", 0, b"old a");
    fake.write(vm, "b", 0, b"old b");
    let cut = fake.cut(vm, cut_request(0, 1)).await.expect("cut");
    fake.write(vm, "a", 0, b"new a");
    fake.write(vm, "b", 0, b"new b");
    assert_eq!(&reader(&*cut, "a").read(0, 5).await.expect("read")[..], b"old a");
    assert_eq!(&reader(&*cut, "b").read(0, 5).await.expect("read")[..], b"old b");
    cut.close().await.expect("close");
    let live = fake.live(vm, live_request(Some(0), 2)).await.expect("live");
    fake.write(vm, "b", 0, b"again");
    assert_eq!(&reader(&*live, "b").read(0, 5).await.expect("read")[..], b"again");
}

#[tokio::test]
async fn dirty_is_what_changed_between_the_two_cuts_and_nothing_else() {
    let (fake, vm) = tracked().await;
    fake.write(vm, "b", 70_000, b"x");
    let first = fake.cut(vm, cut_request(0, 1)).await.expect("cut");
    fake.write(vm, "b", MIB, &[0; 65537]);
    let dirty = reader(&*first, "b").dirty(0, 2 * MIB).await.expect("dirty");
    assert_eq!(dirty, [Extent { offset: 65536, length: 65536, zero: false }]);
    assert_eq!(reader(&*first, "a").dirty(0, MIB).await.expect("dirty"), []);
    first.close().await.expect("close");
    fake.retain_marks(vm, &tracker(), &[mark(1)]).await.expect("retain");
    let second = fake.cut(vm, cut_request(1, 2)).await.expect("cut");
    let dirty = reader(&*second, "b").dirty(0, 2 * MIB).await.expect("dirty");
    assert_eq!(dirty, [Extent { offset: MIB, length: 131_072, zero: false }]);
}

#[tokio::test]
async fn after_a_failed_cycle_the_old_mark_still_knows_everything() {
    let (fake, vm) = tracked().await;
    fake.write(vm, "a", 0, b"x");
    let cut = fake.cut(vm, cut_request(0, 1)).await.expect("cut");
    fake.write(vm, "a", 131_072, b"x");
    cut.close().await.expect("close");
    fake.retain_marks(vm, &tracker(), &[mark(0)]).await.expect("retain");
    let found = marks(&fake, vm).await;
    assert_eq!(
        found,
        [MarkStatus { mark: mark(0), complete: true, granularity: 65536, dirty_bytes: 131_072 }]
    );
    // The name of the mark that was given up can be used again.
    fake.cut(vm, cut_request(0, 1)).await.expect("cut").close().await.expect("close");
}

#[tokio::test]
async fn an_interrupted_first_copy_keeps_its_mark() {
    let (fake, vm) = tracked().await;
    fake.write(vm, "a", 0, b"x");
    fake.live(vm, live_request(None, 0)).await.expect("live").close().await.expect("close");
    assert_eq!(marks(&fake, vm).await[0].dirty_bytes, 65536);
}

#[tokio::test]
async fn a_crash_takes_fresh_marks_and_spoils_the_stored_ones() {
    let (fake, vm) = tracked().await;
    fake.clean_stop(vm);
    assert_eq!(marks(&fake, vm).await, [], "a VM that is off has no marks");
    fake.retain_marks(vm, &tracker(), &[]).await.expect("out of reach, and no error");
    fake.start(vm, StartOptions::default()).await.expect("start");
    assert!(marks(&fake, vm).await[0].complete, "a clean stop keeps marks");
    fake.live(vm, live_request(None, 5)).await.expect("live").close().await.expect("close");
    fake.crash(vm);
    fake.start(vm, StartOptions::default()).await.expect("start");
    let found = marks(&fake, vm).await;
    assert_eq!(found.iter().map(|m| (m.mark, m.complete)).collect::<Vec<_>>(), [(mark(0), false)]);
    assert_eq!(marks(&fake, vm).await, [], "what is incomplete is removed when it was met");
    assert!(matches!(fake.cut(vm, cut_request(0, 1)).await.err(), Some(Error::NoMark { .. })));
}

#[tokio::test]
async fn a_raw_disk_makes_marks_incomplete_after_any_stop() {
    let (fake, vm) = tracked().await;
    fake.make_raw(vm, "b");
    fake.clean_stop(vm);
    fake.start(vm, StartOptions::default()).await.expect("start");
    let found = marks(&fake, vm).await;
    assert_eq!(found.iter().map(|m| (m.mark, m.complete)).collect::<Vec<_>>(), [(mark(0), false)]);
}

#[tokio::test]
async fn stops_are_told_and_fail_open_views_and_their_readers() {
    let (fake, vm) = tracked().await;
    let mut events = fake.events();
    let cut = fake.cut(vm, cut_request(0, 1)).await.expect("cut");
    let a = reader(&*cut, "a");
    fake.crash(vm);
    assert_eq!(events.recv().await.expect("event"), VmEvent::Stopped { vm, clean: false });
    assert!(cut.failure().borrow().as_ref().is_some_and(|reason| reason.contains("process ended")));
    assert!(matches!(a.read(0, 1).await, Err(Error::View(_))));
    assert!(matches!(fake.cut(vm, cut_request(0, 1)).await.err(), Some(Error::NotRunning(_))));
    cut.close().await.expect("close");
    fake.start(vm, StartOptions::default()).await.expect("start");
    assert_eq!(events.recv().await.expect("event"), VmEvent::Started(vm));
    fake.shutdown(vm, Duration::from_secs(1)).await.expect("shutdown");
    assert_eq!(events.recv().await.expect("event"), VmEvent::Stopped { vm, clean: true });
    assert_eq!(fake.leftovers(), 0);
}

#[tokio::test]
async fn a_view_that_was_only_dropped_blocks_the_next_until_clean() {
    let (fake, vm) = tracked().await;
    let cut = fake.cut(vm, cut_request(0, 1)).await.expect("cut");
    assert!(fake.clean(vm, &tracker(), "/x".as_ref()).await.is_err(), "clean while a view is open");
    assert!(fake.cut(vm, cut_request(0, 2)).await.is_err(), "a second view of one tracker");
    drop(cut);
    assert_eq!((fake.open_views(), fake.leftovers()), (0, 1));
    assert!(fake.cut(vm, cut_request(0, 2)).await.is_err());
    fake.clean(vm, &tracker(), "/x".as_ref()).await.expect("clean");
    assert_eq!(marks(&fake, vm).await.len(), 2, "clean leaves the marks");
    fake.cut(vm, cut_request(0, 2)).await.expect("cut").close().await.expect("close");
    assert_eq!(fake.leftovers(), 0);
}

#[tokio::test]
async fn a_close_that_fails_leaves_its_things_behind() {
    let (fake, vm) = tracked().await;
    let cut = fake.cut(vm, cut_request(0, 1)).await.expect("cut");
    fake.faults().fail_next(Op::Close);
    assert!(cut.close().await.is_err());
    assert_eq!((fake.open_views(), fake.leftovers()), (0, 1));
}

#[tokio::test]
async fn a_refused_cut_changes_nothing() {
    let (fake, vm) = tracked().await;
    let before = marks(&fake, vm).await;
    fake.faults().fail_next(Op::Cut);
    assert!(fake.cut(vm, cut_request(0, 1)).await.is_err());
    fake.set_problem(vm, "b", Some("it is full of bees"));
    let refused = fake.cut(vm, cut_request(0, 1)).await.err().expect("a refusal");
    assert!(refused.to_string().contains("bees"));
    fake.set_problem(vm, "b", None);
    let mut unknown = cut_request(0, 1);
    unknown.disks.push(name("c"));
    assert!(matches!(fake.cut(vm, unknown).await.err(), Some(Error::UnknownDisk { .. })));
    assert_eq!(marks(&fake, vm).await, before);
    fake.cut(vm, cut_request(0, 1)).await.expect("cut").close().await.expect("close");
}

#[tokio::test]
async fn reads_fail_from_the_chosen_one_on_until_healed() {
    let (fake, vm) = tracked().await;
    let cut = fake.cut(vm, cut_request(0, 1)).await.expect("cut");
    let a = reader(&*cut, "a");
    fake.faults().fail(Op::Read, 2, u64::MAX);
    for works in [true, true, false, false] {
        assert_eq!(a.read(0, 4096).await.is_ok(), works);
    }
    fake.faults().heal(Op::Read);
    assert!(a.read(0, 4096).await.is_ok());
    assert_eq!(fake.bytes_read(), 3 * 4096);
}

#[tokio::test]
async fn a_held_read_goes_on_when_released_and_sees_what_happened_meanwhile() {
    let (fake, vm) = tracked().await;
    let live = fake.live(vm, live_request(None, 0)).await.expect("live");
    let a = reader(&*live, "a");
    fake.faults().stall(Op::Read, 1);
    a.read(0, 1).await.expect("the first goes through");
    let held = tokio::spawn({
        let a = Arc::clone(&a);
        async move { a.read(0, 3).await }
    });
    fake.faults().stalled(Op::Read).await;
    assert!(!held.is_finished());
    fake.write(vm, "a", 0, b"new");
    fake.faults().release(Op::Read);
    assert_eq!(&held.await.expect("join").expect("read")[..], b"new");
    // A call that is given up while it is held is not counted as held any more.
    fake.faults().stall(Op::Read, 0);
    tokio::time::timeout(Duration::from_millis(10), a.read(0, 3)).await.expect_err("held");
    tokio::time::timeout(Duration::from_millis(10), fake.faults().stalled(Op::Read)).await.expect_err("none");
}

#[tokio::test]
async fn a_view_fails_at_the_chosen_read_and_stays_failed() {
    let (fake, vm) = tracked().await;
    let cut = fake.cut(vm, cut_request(0, 1)).await.expect("cut");
    let b = reader(&*cut, "b");
    fake.faults().fail_view_after_reads(1);
    b.read(0, 1).await.expect("the first works");
    assert!(matches!(b.read(0, 1).await, Err(Error::View(_))));
    assert!(cut.failure().borrow().as_ref().is_some_and(|reason| reason.contains("scratch")));
    assert!(matches!(reader(&*cut, "a").read(0, 1).await, Err(Error::View(_))), "the other disk too");
    cut.close().await.expect("close");
    let next = fake.cut(vm, cut_request(0, 2)).await.expect("the next cut");
    reader(&*next, "b").read(0, 1).await.expect("works again");
}

#[tokio::test]
async fn a_freeze_that_fails_still_gives_a_cut_and_says_so() {
    let (fake, vm) = tracked().await;
    let frozen = |since, next| CutRequest {
        consistency: Consistency::Application { deadline: Duration::from_secs(5) },
        ..cut_request(since, next)
    };
    fake.faults().fail_freezes(1);
    let cut = fake.cut(vm, frozen(0, 1)).await.expect("cut");
    assert!(!cut.info().application_consistent && cut.info().freeze_error.is_some());
    cut.close().await.expect("close");
    let cut = fake.cut(vm, frozen(1, 2)).await.expect("cut");
    assert!(cut.info().application_consistent && cut.info().freeze_error.is_none());
    cut.close().await.expect("close");
    let cut = fake.cut(vm, cut_request(2, 3)).await.expect("cut");
    assert!(!cut.info().application_consistent && cut.info().freeze_error.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_ignores_the_power_button_costs_the_deadline_and_goes_on() {
    let (fake, vm) = tracked().await;
    fake.faults().ignore_shutdown(true);
    let begin = tokio::time::Instant::now();
    let error = fake.shutdown(vm, Duration::from_secs(90)).await.expect_err("a timeout");
    assert!(matches!(error, Error::Timeout { .. }));
    assert_eq!(begin.elapsed(), Duration::from_secs(90));
    assert_eq!(fake.inspect(vm).await.expect("inspect").power, PowerState::Running);
    fake.power_off(vm).await.expect("power off");
    assert_eq!(fake.inspect(vm).await.expect("inspect").power, PowerState::Off);
}

#[tokio::test]
async fn growing_a_disk_shows_in_the_next_view_and_leaves_the_tail_clean() {
    let (fake, vm) = tracked().await;
    let old = fake.cut(vm, cut_request(0, 1)).await.expect("cut");
    fake.grow(vm, "a", 2 * MIB);
    assert_eq!(reader(&*old, "a").size(), MIB);
    assert!(reader(&*old, "a").read(MIB, 1).await.is_err(), "outside of the view");
    old.close().await.expect("close");
    let new = fake.cut(vm, cut_request(1, 2)).await.expect("cut");
    assert_eq!(reader(&*new, "a").size(), 2 * MIB);
    assert_eq!(reader(&*new, "a").dirty(0, 2 * MIB).await.expect("dirty"), []);
    assert_eq!(fake.inspect(vm).await.expect("inspect").disks[0].size, 2 * MIB);
}

#[tokio::test]
async fn what_a_peer_could_ask_for_by_mistake_is_an_error() {
    let (fake, vm) = tracked().await;
    let live = fake.live(vm, live_request(None, 0)).await.expect("live");
    let a = reader(&*live, "a");
    for (offset, length) in [(MIB, 1), (u64::MAX, 1), (0, 33 << 20), (MIB - 1, 2)] {
        assert!(a.read(offset, length).await.is_err(), "{offset}+{length}");
    }
    assert!(a.dirty(0, MIB).await.is_err(), "no mark to compare with");
    assert!(a.allocation(1, MIB).await.is_err());
    assert!(live.disk(&name("c")).is_none());
}

#[tokio::test]
async fn a_defined_vm_starts_without_its_disk_files_and_a_name_belongs_to_one() {
    let fake = FakeHypervisor::new();
    let mut definition = VmDefinition::new(VmName::new("stand-in").expect("name"), 64);
    definition.disks.push(DiskDefinition::new(name("a"), "/nonexistent/a.qcow2", DiskFormat::Qcow2));
    let vm = fake.define(definition.clone()).await.expect("define");
    assert!(fake.define(VmDefinition { uuid: VmId::random(), ..definition.clone() }).await.is_err());
    fake.start(vm, StartOptions { paused: true }).await.expect("start");
    assert_eq!(fake.inspect(vm).await.expect("inspect").power, PowerState::Paused);
    assert!(matches!(fake.define(definition.clone()).await, Err(Error::AlreadyRunning(_))));
    assert!(matches!(fake.undefine(vm).await, Err(Error::AlreadyRunning(_))));
    fake.resume(vm).await.expect("resume");
    fake.power_off(vm).await.expect("power off");
    fake.undefine(vm).await.expect("undefine");
    assert!(matches!(fake.inspect(vm).await, Err(Error::UnknownVm(_))));
}

#[tokio::test]
async fn the_size_of_a_disk_that_exists_is_its_virtual_size() {
    let dir = tempfile::tempdir().expect("a directory");
    let raw = dir.path().join("a.raw");
    std::fs::write(&raw, vec![1; 12_288]).expect("write");
    assert_eq!(driver::size_of_image(&raw, DiskFormat::Raw), 12_288);
    let mut header = vec![0; 104];
    header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    header[24..32].copy_from_slice(&(5_u64 << 30).to_be_bytes());
    let qcow2 = dir.path().join("a.qcow2");
    std::fs::write(&qcow2, header).expect("write");
    assert_eq!(driver::size_of_image(&qcow2, DiskFormat::Qcow2), 5 << 30);
    assert_eq!(driver::size_of_image(&raw, DiskFormat::Qcow2), 0, "no qcow2");
}

#[tokio::test]
async fn an_adopted_vm_is_tracked_but_not_started() {
    let fake = FakeHypervisor::new();
    let vm = fake.add_foreign("/run/q.sock", "theirs", &[("a", MIB)]);
    assert!(fake.list().await.expect("list").is_empty());
    assert!(matches!(fake.adopt("/run/other".into(), None).await, Err(Error::Connection { .. })));
    assert_eq!(fake.adopt("/run/q.sock".into(), None).await.expect("adopt"), vm);
    assert!(fake.inspect(vm).await.expect("inspect").adopted);
    let error = fake.start(vm, StartOptions::default()).await.expect_err("adopted");
    assert!(matches!(error, Error::Adopted { .. }));
    fake.undefine(vm).await.expect("an adopted one can be forgotten while it runs");
}

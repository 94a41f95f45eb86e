//! The database of one side is lost.

use super::has;
use crate::host::End;
use crate::network::change;
use crate::world::{KIB, MIB, World, keep_all, random, refused, to};
use standin_engine::NowKnownAs;
use standin_hypervisor::{Hypervisor, PowerState};
use standin_model::auth::AuthorizationEntry;
use standin_model::health::Health;
use standin_model::state::ReplicationState as S;
use standin_model::{AuthId, ReturnCode, VmName};

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_host_without_its_database_goes_on_when_it_admits_the_primary_again() {
    let mut world = World::replicating(keep_all()).await;
    let history = world.history(3).await;
    let vm = world.vm;
    let name = VmName::new("web-here").expect("a name");
    let renamed = world.b.call(move |engine| async move { engine.rename(vm, name).await });
    renamed.await.expect("renamed");
    let before = world.b.engine().replicas().find(vm).expect("a replica").snapshot();
    world.b_has_lost_its_database().await;
    let after = world.b.engine().replicas().find(vm).expect("it is found").snapshot();
    assert_eq!(after.settings, before.settings);
    assert_eq!(
        (&after.name, after.primary_name(), after.host),
        (&before.name, before.primary_name(), before.host)
    );
    has(&world.says(&world.b, "no authorization entry").await, &["standin auth add primary.example.org"]);
    world.write("a", MIB, &random(9 * KIB, 31));
    let job = world.order_point().await;
    assert_eq!(world.a.job(job).await.return_code, Some(ReturnCode::AccessDenied));
    world.b.admit("primary.example.org", "anew").await;
    world.goes_on().await;
    world.all_fail_over(&history).await;
    // And the record is in the database again.
    world.b.restart_behind(&world.link, End::Kill).await;
    world.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_found_by_its_manifest_and_its_claim_when_nothing_else_is_left() {
    let mut world = World::replicating(keep_all()).await;
    let history = world.history(2).await;
    world.b.kill().await;
    world.b.forget_records();
    let directory = std::fs::read_dir(world.b.replicas_dir()).expect("a directory").next();
    let directory = directory.expect("an entry").expect("a replica").path();
    std::fs::write(directory.join("relationship.json"), "rubbish").expect("written");
    world.b.start().await;
    world.link.lead_to(world.b.port());
    world.b.admit("primary.example.org", "anew").await;
    world.goes_on().await;
    world.all_fail_over(&history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_in_the_storage_location_of_a_lost_entry_is_found_when_that_is_added_again() {
    let mut world = World::new().await;
    let entry = |world: &World| AuthorizationEntry {
        id: AuthId::random(),
        allowed_primary: "primary.example.org".to_owned(),
        trust_group: "elsewhere".to_owned(),
        storage_location: world.root().join("other-storage"),
    };
    for known in world.b.engine().replicas().entries() {
        world.b.engine().replicas().remove_entry(known.id).await.expect("removed");
    }
    let added = entry(&world);
    world.b.call(|engine| async move { engine.replicas().add_entry(added).await }).await.expect("added");
    let job = world.begin(keep_all()).await;
    world.done(job).await;
    let history = world.history(2).await;
    let vm = world.vm;
    world.b_has_lost_its_database().await;
    assert!(world.b.engine().replicas().find(vm).is_none(), "nobody knows the location");
    let added = entry(&world);
    world.b.call(|engine| async move { engine.replicas().add_entry(added).await }).await.expect("added");
    assert!(world.b.engine().replicas().find(vm).is_some(), "found with the entry");
    assert!(world.b.engine().vm_tasks().fence(vm).is_some(), "and who may run the VM");
    world.goes_on().await;
    world.all_fail_over(&history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_outlives_the_database_of_the_replica_host() {
    for committed in [false, true] {
        let mut world = World::with_cards(&["net0"], false).await;
        let history = world.history(2).await;
        let vm = world.vm;
        world.set(&world.b, vec![change(Some("net0"), "192.0.2.7/24")]).await.expect("set");
        world.a.fake.clean_stop(vm);
        let point = history.0[0].0.id;
        let order = to(Some(point), true);
        let job = world.b.call(move |engine| async move { engine.failover(vm, order).await }).await;
        world.done_on_replica(job.expect("begun")).await;
        if committed {
            world.commit().await;
        }
        let before = world.b.engine().replicas().find(vm).expect("a replica").snapshot();
        world.b_has_lost_its_database().await;
        let after = world.b.engine().replicas().find(vm).expect("found").snapshot();
        assert_eq!(after.state, if committed { S::Committed } else { S::Recovered });
        assert_eq!(after.network, before.network);
        let (ours, theirs) = (before.failover.expect("a failover"), after.failover.expect("a failover"));
        assert_eq!((ours.point, &ours.overlay, ours.from), (theirs.point, &theirs.overlay, theirs.from));
        assert_eq!(world.b.fake.inspect(vm).await.expect("there").power, PowerState::Running);
        let refusal = world.a.call(move |engine| async move { engine.start_vm(vm, None).await }).await;
        refused(refusal, ReturnCode::InvalidState);
        if committed {
            continue;
        }
        world.b.admit("primary.example.org", "anew").await;
        world.revert().await;
        world.a.call(move |engine| async move { engine.start_vm(vm, None).await }).await.expect("started");
        world.goes_on().await;
        world.all_fail_over(&history).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_without_its_database_finds_its_replica_and_compares() {
    let mut world = World::replicating(keep_all()).await;
    let history = world.history(3).await;
    let points = world.points().len() as u64;
    world.a_has_lost_its_database().await;
    // Nobody records this.
    world.a.fake.spoil_marks(world.vm, "a");
    world.write("a", 2 * MIB, &random(20 * KIB, 77));
    let status = world.a.status(world.vm).await;
    assert_eq!(status.health, Health::Critical, "{status:?}");
    has(&status.health_issues[0].remedy, &["standin replicate web --to", &world.link.address()]);
    let sent = world.link.forwarded();
    let enabled = world.replicate_again().await.expect("found");
    assert_eq!(enabled.found, Some(points));
    world.done(enabled.job.expect("a job")).await;
    assert!(world.link.forwarded() - sent < 200 * KIB, "{} bytes were sent", world.link.forwarded() - sent);
    world.goes_on().await;
    world.all_fail_over(&history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_without_its_database_can_end_the_relationship_that_its_claim_names() {
    let mut world = World::replicating(keep_all()).await;
    world.a_has_lost_its_database().await;
    let vm = world.vm;
    world.a.call(move |engine| async move { engine.remove(vm).await }).await.expect("ended");
    assert_eq!(world.a.status(vm).await.health, Health::NotApplicable);
    world.a.call(move |engine| async move { engine.vm_tasks().forget(vm).await }).await.expect("forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_has_failed_over_or_has_other_disks_is_not_taken_up() {
    let mut world = World::replicating(keep_all()).await;
    let history = world.history(2).await;
    let vm = world.vm;
    world.a_has_lost_its_database().await;
    world.a.fake.grow(vm, "b", 2 * MIB);
    let refusal = refused(world.replicate_again().await, ReturnCode::InvalidParameter);
    has(&refusal.message, &["disk b", "2097152"]);
    has(&refusal.remedy, &["standin unreplicate web"]);
    world.a.fake.clean_stop(vm);
    world.a.fake.grow(vm, "b", crate::world::SIZE_B);
    let order = to(None, false);
    let job = world.b.call(move |engine| async move { engine.failover(vm, order).await }).await;
    world.done_on_replica(job.expect("begun")).await;
    let refusal = refused(world.replicate_again().await, ReturnCode::InvalidState);
    has(&refusal.message, &["failed over"]);
    world.revert().await;
    world.all_fail_over(&history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_set_up_anew_takes_its_replica_up_when_somebody_says_that_it_is_the_same() {
    let mut world = World::replicating(keep_all()).await;
    let history = world.history(2).await;
    world.a.kill().await;
    let old = world.a.id();
    world.a.set_up_anew();
    world.a.start().await;
    let new = world.a.id();
    let refusal = refused(world.replicate_again().await, ReturnCode::InUse);
    has(&refusal.remedy, &[&format!("standin peer rebind {old} {new}")]);
    let same = NowKnownAs::from(new.to_string());
    let told = world.b.call(move |engine| async move { engine.rebind_host(old, same).await });
    told.await.expect("rebound");
    let enabled = world.replicate_again().await.expect("found");
    assert_eq!(enabled.found, Some(world.points().len() as u64));
    world.done(enabled.job.expect("a job")).await;
    world.goes_on().await;
    world.all_fail_over(&history).await;
    // Again, it is not known any more.
    let again = NowKnownAs::Host(new);
    let told = world.b.call(move |engine| async move { engine.rebind_host(old, again).await });
    refused(told.await, ReturnCode::FileNotFound);
}

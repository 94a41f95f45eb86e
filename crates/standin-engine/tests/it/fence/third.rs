//! A third host comes upon a VM of the same identity: by a definition, or by a QEMU that it adopts.

use super::replicating;
use crate::host::{Host, until};
use crate::names::another;
use crate::world::{World, refused, settings};
use standin_engine::Enable;
use standin_engine::vm::{AlarmKind, Asserts};
use standin_hypervisor::{Hypervisor, PowerState};
use standin_model::fence::Assertion;
use standin_model::state::ReplicationState as S;
use standin_model::{ReturnCode, VmName};

const SOCKET: &str = "/run/other/qmp.sock";

/// A third host that replicates a VM of its own to `b`, so that both speak to each other.
async fn with_a_third() -> (World, Host) {
    let world = replicating().await;
    let mut third = another(&world, "third");
    third.start().await;
    world.b.admit("third.example.org", "two").await;
    let own = third.fake.add_vm("own", &[("a", 1 << 20)]);
    let peer = format!("localhost:{}", world.b.port());
    let enable = Enable { peer, settings: settings(), start: true };
    let job = third.call(move |engine| async move { engine.enable(own, enable).await }).await;
    third.job(job.expect("enabled").job.expect("a job")).await;
    third.reaches(own, S::Replicating).await;
    until("a link", || (!third.engine().peers().linked().is_empty()).then_some(())).await;
    (world, third)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_defined_on_a_third_host_does_not_start_beside_its_namesake() {
    let (world, third) = with_a_third().await;
    let (vm, before) = (world.vm, world.points().len());
    let mut definition = world.a.fake.inspect(vm).await.expect("there").definition;
    definition.name = VmName::new("web").expect("a name");
    third
        .call(move |engine| async move { engine.define_vm(definition).await })
        .await
        .expect("a definition harms nobody");
    let started = third.call(move |engine| async move { engine.start_vm(vm, None).await }).await;
    // The replica does not run it, and knows who holds it.
    let refusal = refused(started, ReturnCode::InUse);
    assert!(refusal.message.contains("two copies") && refusal.remedy.contains("--force"), "{refusal:?}");
    assert_eq!(third.fake.inspect(vm).await.expect("there").power, PowerState::Off);
    // Nor can it take the replica over.
    let peer = format!("localhost:{}", world.b.port());
    let enable = Enable { peer, settings: settings(), start: true };
    let replicates = third.call(move |engine| async move { engine.enable(vm, enable).await }).await;
    assert!(replicates.is_err(), "{replicates:?}");
    world.both_replicate().await;
    world.proven_point().await;
    assert!(world.points().len() > before);
}

/// A primary that replicated to `b` first, then to a third host, and is dead now.
async fn two_replicas_of_a_dead_primary() -> (World, Host) {
    let world = replicating().await;
    let vm = world.vm;
    let mut third = another(&world, "third");
    third.start().await;
    third.admit("primary.example.org", "one").await;
    world.a.call(move |engine| async move { engine.remove(vm).await }).await.expect("removed");
    let enable = Enable { peer: format!("localhost:{}", third.port()), settings: settings(), start: true };
    let job = world.a.call(move |engine| async move { engine.enable(vm, enable).await }).await;
    world.a.job(job.expect("enabled").job.expect("a job")).await;
    until("a point", || third.engine().replicas().find(vm).filter(|it| !it.store().points().is_empty()))
        .await;
    let knows = |host: &Host, other: &Host| {
        let fence = host.engine().vm_tasks().fence(vm);
        fence.is_some_and(|fence| fence.hosts.contains_key(&other.engine().vm_tasks().me()))
    };
    until("they know each other", || (knows(&world.b, &third) && knows(&third, &world.b)).then_some(()))
        .await;
    world.a.fake.clean_stop(vm);
    (world, third)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_of_a_dead_primary_the_second_hears_that_the_first_has_taken_over() {
    let (mut world, third) = two_replicas_of_a_dead_primary().await;
    world.a.kill().await;
    world.took_over(Asserts::Down).await;
    assert!(world.runs_on(&world.b).await);
    let vm = world.vm;
    let failover =
        |asserts| third.call(move |engine| async move { engine.failover(vm, super::start(asserts)).await });
    let refusal = refused(failover(Asserts::Down).await, ReturnCode::InvalidState);
    assert!(refusal.message.contains("replica.example.org"), "{refusal:?}");
    assert!(!world.runs_on(&third).await);
    // Who insists has the higher claim, and both hear of it.
    third.job(failover(Asserts::Forced).await.expect("begun")).await;
    assert!(world.runs_on(&third).await);
    until("it is said", || {
        let alarm = |host: &Host| host.engine().vm_tasks().record(vm)?.alarm.map(|alarm| alarm.kind);
        (alarm(&world.b) == Some(AlarmKind::BothRanLower)).then_some(())?;
        (alarm(&third) == Some(AlarmKind::BothRanHigher)).then_some(())
    })
    .await;
    assert!(!world.runs_on(&world.b).await, "it is paused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_does_not_define_a_vm_that_it_has_a_replica_of() {
    let world = replicating().await;
    let definition = world.a.fake.inspect(world.vm).await.expect("there").definition;
    let defined = world.b.call(move |engine| async move { engine.define_vm(definition).await }).await;
    assert!(refused(defined, ReturnCode::InUse).message.contains("replica"));
    world.both_replicate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qemu_is_not_adopted_where_its_vm_has_failed_over_elsewhere() {
    let (mut world, third) = with_a_third().await;
    world.died_and_failed_over().await;
    let vm = world.vm;
    let adopt = |force: Option<Assertion>| {
        third.fake.add_foreign_as(vm, SOCKET, "web", &[("a", 1 << 20)]);
        third.call(move |engine| async move { engine.adopt_vm(SOCKET.into(), None, force).await })
    };
    let refusal = refused(adopt(None).await, ReturnCode::InvalidState);
    assert!(refusal.message.contains("replica.example.org"), "{refusal:?}");
    assert!(refusal.remedy.contains("It runs on"), "{refusal:?}");
    assert!(third.fake.inspect(vm).await.is_err(), "it is not known then");
    assert!(world.runs_on(&world.b).await);
    assert_eq!(world.b.state(vm), S::Recovered);
    // Who insists is heard.
    assert_eq!(adopt(Some(Assertion::Forced)).await, Ok(vm));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qemu_is_not_adopted_under_the_name_of_a_replica() {
    let world = replicating().await;
    let other = standin_model::VmId::random();
    let adopt = |name: Option<&str>| {
        world.b.fake.add_foreign_as(other, SOCKET, "web", &[("a", 1 << 20)]);
        let name = name.map(|name| VmName::new(name).expect("a name"));
        world.b.call(move |engine| async move { engine.adopt_vm(SOCKET.into(), name, None).await })
    };
    for name in [None, Some("web")] {
        let refusal = refused(adopt(name).await, ReturnCode::InUse);
        assert!(refusal.message.contains(&world.vm.to_string()), "{refusal}");
        assert!(world.b.fake.inspect(other).await.is_err(), "it is not known then");
    }
    assert_eq!(adopt(Some("shop")).await, Ok(other));
}

//! Jobs by `Msvm_ConcreteJob`: how they end, what they say of their errors, and that they are found again, ended
//! truthfully, after the daemon was killed in the middle of them.

use crate::client::{instances, named, number, out, string, typed};
use crate::host::End;
use crate::world::{World, keep_all, settings};
use standin_cim::{MethodAnswer, ObjectPath, Value};
use standin_hypervisor::fake::Op;
use standin_model::fence::Assertion;
use standin_provider::VIRTUALIZATION;
use standin_store::CrashPoint;

/// The job's path in an answer.
fn path(answer: &MethodAnswer) -> ObjectPath {
    assert_eq!(answer.return_value, 4096);
    match out(answer, "Job") {
        Some(Value::Reference(path)) => (**path).clone().within(VIRTUALIZATION),
        other => panic!("{other:?}"),
    }
}

/// Kills the replica's daemon, and starts it again with a hypervisor that answers.
async fn dies(world: &mut World) {
    world.b.kill().await;
    world.b.fake.faults().clear();
    world.b.start().await;
    world.link.lead_to(world.b.port());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_in_whose_middle_the_daemon_was_killed_is_undone_and_its_job_says_so() {
    let mut world = World::replicating(keep_all()).await;
    world.b.fake.faults().stall(Op::Define, 0);
    let begun = world.at_b().replication("InitiateFailover", vec![world.computer_system()]).await;
    world.b.fake.faults().stalled(Op::Define).await;
    let running = world.at_b().get(&path(&begun)).await;
    assert_eq!((number(&running, "JobState"), number(&running, "JobType")), (4, 97));
    assert_eq!(world.replica_state().await, 12);
    dies(&mut world).await;
    let job = world.at_b().get(&path(&begun)).await;
    assert_eq!(number(&job, "JobState"), 10, "{job:?}");
    assert_ne!(number(&job, "ErrorCode"), 0);
    assert!(string(&job, "ErrorDescription").contains("the daemon ended"), "{job:?}");
    let errors = world.at_b().invoke(path(&begun), "GetErrorEx", Vec::new()).await;
    let errors = instances(&errors, "Errors");
    let last = errors.last().expect("an error");
    assert_eq!(string(last, "MessageID"), number(&job, "ErrorCode").to_string());
    assert!(string(last, "Message").contains("the daemon ended"));
    // Undone: as before, and it can be asked for again.
    assert_eq!(world.replica_state().await, 3);
    world.fails_over().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revert_in_whose_middle_the_daemon_was_killed_is_finished_under_the_same_job() {
    let mut world = World::replicating(keep_all()).await;
    world.fails_over().await;
    let vm = world.vm;
    world
        .b
        .call(move |engine| async move { engine.start_vm(vm, Some(Assertion::Forced)).await })
        .await
        .expect("started");
    world.b.fake.faults().stall(Op::Stop, 0);
    let begun = world.at_b().replication("RevertFailover", vec![world.computer_system()]).await;
    world.b.fake.faults().stalled(Op::Stop).await;
    dies(&mut world).await;
    let job = world.at_b().ended_at(path(&begun)).await;
    assert_eq!((number(&job, "JobState"), number(&job, "JobType")), (7, 98), "{job:?}");
    assert_eq!(world.replica_state().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_in_whose_middle_the_daemon_was_killed_is_finished_under_the_same_job() {
    let mut world = World::replicating(keep_all()).await;
    world.point().await;
    world.link.cut();
    let crash = CrashPoint::after(i64::MAX);
    world.b.store.crash = Some(crash.clone());
    world.b.restart(End::Stop).await;
    world.fails_over().await;
    // The store dies at its second step, and the records with it.
    crash.arm(1);
    let begun = world.at_b().replication("CommitFailover", vec![world.computer_system()]).await;
    let died = crate::host::until("the death", || crash.crashed().then_some(()));
    died.await;
    world.b.store.crash = None;
    dies(&mut world).await;
    let job = world.at_b().ended_at(path(&begun)).await;
    assert_eq!((number(&job, "JobState"), number(&job, "JobType")), (7, 99), "{job:?}");
    assert_eq!(world.replica_state().await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_copy_goes_on_under_its_job_after_the_primary_was_killed() {
    let mut world = World::new().await;
    world.enable(settings(), false).await.expect("enabled");
    world.a.fake.faults().stall(Op::Read, 2);
    let start = vec![world.computer_system(), named("InitialReplicationType", typed(Value::Uint16(1)))];
    let begun = world.at_a().replication("StartReplication", start).await;
    world.a.fake.faults().stalled(Op::Read).await;
    world.a.kill().await;
    world.a.fake.faults().clear();
    world.a.start().await;
    let job = world.at_a().ended_at(path(&begun)).await;
    assert_eq!((number(&job, "JobState"), number(&job, "PercentComplete")), (7, 100), "{job:?}");
    world.both_replicate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_say_what_went_wrong_and_end_on_request_where_they_can() {
    let world = World::replicating(keep_all()).await;
    world.b.fake.faults().fail_next(Op::Define);
    let client = world.at_b();
    let begun = client.replication("InitiateFailover", vec![world.computer_system()]).await;
    let job = client.ended(&begun).await;
    assert_eq!((number(&job, "JobState"), number(&job, "HealthState")), (10, 25));
    assert!(!string(&job, "ErrorDescription").is_empty());
    let error = client.invoke(path(&begun), "GetError", Vec::new()).await;
    assert_eq!(error.return_value, 0);
    let Some(Value::Instance(error)) = out(&error, "Error") else { panic!("{error:?}") };
    assert_eq!((&*error.class, string(error, "MessageID")), ("Msvm_Error", "32768"));
    assert!(string(&job, "ErrorDescription").contains(string(error, "Message").trim_end_matches('.')));
    let request = |state: u16| vec![named("RequestedState", typed(Value::Uint16(state)))];
    // The numbers of this method are CIM's own.
    assert_eq!(client.invoke(path(&begun), "RequestStateChange", request(4)).await.return_value, 4097);
    assert_eq!(client.invoke(path(&begun), "RequestStateChange", request(2)).await.return_value, 1);
    assert_eq!(client.invoke(path(&begun), "RequestStateChange", Vec::new()).await.return_value, 5);
    // A job without an error has none.
    let well = client.replication("InitiateFailover", vec![world.computer_system()]).await;
    client.well(&well).await;
    let errors = client.invoke(path(&well), "GetErrorEx", Vec::new()).await;
    assert!(instances(&errors, "Errors").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_copy_is_ended_by_its_job() {
    let world = World::new().await;
    world.a.fake.faults().stall(Op::Read, 1);
    world.begin(settings()).await;
    world.a.fake.faults().stalled(Op::Read).await;
    let client = world.at_a();
    let job = client.all("Msvm_ConcreteJob").await.remove(0);
    assert_eq!(job.value("Cancellable"), Some(&Value::Boolean(true)));
    let path = job.path.clone().expect("a path");
    let terminate = vec![named("RequestedState", typed(Value::Uint16(4)))];
    assert_eq!(client.invoke(path.clone(), "RequestStateChange", terminate).await.return_value, 0);
    world.release();
    let job = client.ended_at(path).await;
    assert_eq!((number(&job, "JobState"), string(&job, "Status")), (8, "Terminated"));
}

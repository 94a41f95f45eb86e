//! Each of the codes 32768 to 32779 of InitiateFailover, RevertFailover, CommitFailover and
//! SetFailoverNetworkAdapterSettings, each by a situation that the test makes: a failing or full disk under the records, a
//! hypervisor that does not answer, somebody who holds the VM, a storage location that is not mounted, and what
//! clients do wrong. A refusal changes nothing: the same call is done right afterwards.

use crate::client::{
    Client, REPLICA, embedded, guid, named, number, out, reference, system, system_named, typed, with_id,
};
use crate::world::{World, keep_all};
use standin_cim::{CimType, Named, RawValue, Role, Value, schema};
use standin_hypervisor::fake::Op;
use standin_model::VmId;

const FAILED: u32 = 32768;
const ACCESS_DENIED: u32 = 32769;
const NOT_SUPPORTED: u32 = 32770;
const STATUS_UNKNOWN: u32 = 32771;
const TIMEOUT: u32 = 32772;
const INVALID_PARAMETER: u32 = 32773;
const IN_USE: u32 = 32774;
const INVALID_STATE: u32 = 32775;
const INCORRECT_TYPE: u32 = 32776;
const NOT_AVAILABLE: u32 = 32777;
const OUT_OF_MEMORY: u32 = 32778;
const NOT_FOUND: u32 = 32779;

/// What a replica in state 3 could be asked, and what one in state 5.
const REPLICATING: [&str; 2] = ["InitiateFailover", "SetFailoverNetworkAdapterSettings"];
const RECOVERED: [&str; 2] = ["RevertFailover", "CommitFailover"];

/// The codes that a method has, from its class definition.
fn declared(method: &str) -> Vec<u32> {
    let schema = schema::virtualization();
    let class = schema.class("Msvm_ReplicationService").expect("the service");
    let method = class.method(method).expect("the method");
    let map = method.qualifiers.iter().find(|qualifier| qualifier.name == "ValueMap").expect("its codes");
    let Some(Value::Array(codes)) = &map.value.value else { panic!("{map:?}") };
    let number = |code: &Option<Value>| match code {
        Some(Value::String(code)) => code.parse().expect("a number"),
        other => panic!("{other:?}"),
    };
    codes.iter().map(number).collect()
}

impl World {
    async fn card(&self) -> standin_cim::Instance {
        let mut card = self.at_b().all("Msvm_FailoverNetworkAdapterSettingData").await.remove(0);
        card.set("DHCPEnabled", CimType::Boolean, false, Some(Value::Boolean(true)));
        card.set("IPAddresses", CimType::String, true, Some(Value::Array(Vec::new())));
        card
    }
}

/// Calls a method for a VM, rightly but for what is passed as the VM.
async fn ask(client: &Client<'_>, method: &str, vm: Option<RawValue>, card: &standin_cim::Instance) -> u32 {
    let mut arguments: Vec<Named> = Vec::new();
    if let Some(vm) = vm {
        arguments.push(named("ComputerSystem", vm));
    }
    if method == "SetFailoverNetworkAdapterSettings" {
        let cards = RawValue::Array(vec![RawValue::Instance(Box::new(card.clone()))]);
        arguments.push(named("NetworkSettings", cards));
    }
    let answer = client.replication(method, arguments).await;
    let code = answer.return_value;
    assert!(declared(method).contains(&code), "{method} has no code {code}");
    if code != 4096 && declared(method).contains(&4096) {
        assert_eq!(out(&answer, "Job"), None, "{method}: a refusal has no job");
    }
    code
}

/// Asks all four methods in the state in which each would be done, while something is wrong, and then rightly.
async fn all_four(code: u32, wrong: impl Fn(&World), right: impl Fn(&World)) {
    let world = World::with_cards(&["lan"]).await;
    let card = world.card().await;
    let vm = || Some(RawValue::Reference(world.system()));
    world.link.cut();
    wrong(&world);
    for method in REPLICATING {
        assert_eq!(ask(&world.at_b(), method, vm(), &card).await, code, "{method}");
    }
    right(&world);
    assert_eq!(world.replica_state().await, 3);
    assert_eq!(ask(&world.at_b(), REPLICATING[1], vm(), &card).await, 0);
    world.fails_over().await;
    wrong(&world);
    for method in RECOVERED {
        assert_eq!(ask(&world.at_b(), method, vm(), &card).await, code, "{method}");
    }
    right(&world);
    assert_eq!(world.replica_state().await, 5);
    let commit = world.at_b().replication("CommitFailover", vec![world.computer_system()]).await;
    world.at_b().well(&commit).await;
}

/// Asks all four methods with an argument that is wrong in any state.
async fn all_with(code: u32, client: &Client<'_>, world: &World, vm: Option<RawValue>) {
    let card = world.card().await;
    for method in REPLICATING.into_iter().chain(RECOVERED) {
        assert_eq!(ask(client, method, vm.clone(), &card).await, code, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_when_the_disk_under_the_records_is_full() {
    // ENOSPC of the state store: nothing that is asked for could be kept.
    all_four(FAILED, |world| world.b.records_fail(28), |world| world.b.records_fail(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_memory_when_the_system_has_none_for_a_record() {
    // ENOMEM of the state store.
    all_four(OUT_OF_MEMORY, |world| world.b.records_fail(12), |world| world.b.records_fail(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn access_denied_to_a_viewer_and_an_operator_whatever_the_arguments() {
    let world = World::with_cards(&["lan"]).await;
    for role in [Role::Viewer, Role::Operator] {
        let client = world.at_b().with_role(role);
        all_with(ACCESS_DENIED, &client, &world, Some(RawValue::Reference(world.system()))).await;
        all_with(ACCESS_DENIED, &client, &world, None).await;
    }
    assert_eq!(world.replica_state().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn not_supported_for_the_host_which_is_no_vm() {
    let world = World::with_cards(&["lan"]).await;
    let host = RawValue::Reference(system_named(REPLICA));
    all_with(NOT_SUPPORTED, &world.at_b(), &world, Some(host)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_unknown_when_the_hypervisor_cannot_say_how_the_vm_is() {
    // Asked for on the primary, the host has to ask the hypervisor what it is to the VM, and that does not answer.
    let world = World::with_cards(&["lan"]).await;
    world.a.fake.faults().fail(Op::Inspect, 0, u64::MAX);
    let vm = Some(RawValue::Reference(world.system()));
    all_with(STATUS_UNKNOWN, &world.at_a(), &world, vm).await;
    world.a.fake.faults().heal(Op::Inspect);
    // On the replica the revert has to ask: its job ends with the code, and goes well when it is asked for again.
    world.fails_over().await;
    world.b.fake.faults().fail(Op::Inspect, 0, u64::MAX);
    let client = world.at_b();
    let job = client.ended(&client.replication("RevertFailover", vec![world.computer_system()]).await).await;
    assert_eq!((number(&job, "JobState"), number(&job, "ErrorCode")), (10, u64::from(STATUS_UNKNOWN)));
    world.b.fake.faults().heal(Op::Inspect);
    client.well(&client.replication("RevertFailover", vec![world.computer_system()]).await).await;
    assert_eq!(world.replica_state().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn timeout_when_what_holds_the_vm_does_not_let_go() {
    let world = World::with_cards(&["lan"]).await;
    let card = world.card().await;
    world.link.cut();
    for (methods, fail_over) in [(REPLICATING, false), (RECOVERED, true)] {
        if fail_over {
            world.fails_over().await;
        }
        let replica = world.b.engine().replicas().find(world.vm).expect("a replica");
        // The record of the VM is held, as by a defect of the daemon: nothing gets at it.
        let held = replica.lock().await;
        let vm = || Some(RawValue::Reference(world.system()));
        let (client, other) = (world.at_b(), world.at_b());
        let (one, two) =
            tokio::join!(ask(&client, methods[0], vm(), &card), ask(&other, methods[1], vm(), &card));
        assert_eq!((one, two), (TIMEOUT, TIMEOUT), "{methods:?}");
        drop(held);
    }
    assert_eq!(world.replica_state().await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_parameter_without_a_vm_and_for_what_is_no_point() {
    let world = World::with_cards(&["lan"]).await;
    let client = world.at_b();
    all_with(INVALID_PARAMETER, &client, &world, None).await;
    all_with(INVALID_PARAMETER, &client, &world, Some(RawValue::Null)).await;
    // A reference into another namespace.
    let elsewhere = system(world.vm).within(standin_provider::CIMV2);
    all_with(INVALID_PARAMETER, &client, &world, Some(RawValue::Reference(elsewhere))).await;
    // The VM's settings as they are instead of a point's.
    let realized = with_id("Msvm_VirtualSystemSettingData", format!("Microsoft:{}", guid(world.vm)));
    let arguments = vec![world.computer_system(), reference("SnapshotSettingData", realized)];
    assert_eq!(client.replication("InitiateFailover", arguments).await.return_value, INVALID_PARAMETER);
    // A parameter that there is not.
    let arguments = vec![world.computer_system(), named("Snapshot", RawValue::Null)];
    let service = client.all("Msvm_ReplicationService").await.remove(0).path.expect("a path");
    let error = client.try_invoke(service, "InitiateFailover", arguments).await.expect_err("unknown");
    assert_eq!(error.status, standin_cim::StatusCode::InvalidParameter, "{error}");
    // Six gateways, and settings that name no card.
    let mut card = world.card().await;
    let gateways: Vec<String> = (1..7).map(|n| format!("192.0.2.{n}")).collect();
    card.set("DefaultGateways", CimType::String, true, Some(Value::from(gateways)));
    let mut nameless = world.card().await;
    nameless.set("InstanceID", CimType::String, false, None);
    for wrong in [card, nameless] {
        let vm = Some(RawValue::Reference(world.system()));
        assert_eq!(ask(&client, REPLICATING[1], vm, &wrong).await, INVALID_PARAMETER);
    }
    assert_eq!(world.replica_state().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_use_while_another_job_works_on_the_vm() {
    let world = World::with_cards(&["lan"]).await;
    let client = world.at_b();
    // It must not run on both hosts.
    world.a.fake.clean_stop(world.vm);
    // A failover that defines the VM and does not get an answer.
    world.b.fake.faults().stall(Op::Define, 0);
    let first = client.replication("InitiateFailover", vec![world.computer_system()]).await;
    world.b.fake.faults().stalled(Op::Define).await;
    all_with(IN_USE, &client, &world, Some(RawValue::Reference(world.system()))).await;
    world.b.fake.faults().release(Op::Define);
    client.well(&first).await;
    // A start of the VM that takes long.
    world.b.fake.faults().stall(Op::Start, 0);
    let state = named("RequestedState", typed(Value::Uint16(2)));
    let start = client.invoke(world.system(), "RequestStateChange", vec![state]).await;
    world.b.fake.faults().stalled(Op::Start).await;
    all_with(IN_USE, &client, &world, Some(RawValue::Reference(world.system()))).await;
    world.b.fake.faults().release(Op::Start);
    client.well(&start).await;
    assert_eq!(world.replica_state().await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_state_for_what_comes_at_the_wrong_time() {
    let world = World::with_cards(&["lan"]).await;
    let (client, card) = (world.at_b(), world.card().await);
    let vm = || Some(RawValue::Reference(world.system()));
    for method in RECOVERED {
        assert_eq!(ask(&client, method, vm(), &card).await, INVALID_STATE, "{method} in state 3");
    }
    world.fails_over().await;
    assert_eq!(ask(&client, "InitiateFailover", vm(), &card).await, INVALID_STATE, "in state 5");
    // On the primary host.
    for method in ["InitiateFailover", "RevertFailover", "CommitFailover"] {
        assert_eq!(ask(&world.at_a(), method, vm(), &card).await, INVALID_STATE, "{method}");
    }
    // A VM that does not replicate.
    let other = world.a.fake.add_vm("other", &[("a", 1 << 20)]);
    world.a.call(move |engine| async move { engine.vm_changed(other).await }).await;
    let other = RawValue::Reference(system(other));
    all_with(INVALID_STATE, &world.at_a(), &world, Some(other)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn incorrect_data_type_for_arguments_of_another_type() {
    let world = World::with_cards(&["lan"]).await;
    let client = world.at_b();
    for wrong in [typed(Value::Uint32(7)), RawValue::Text("the web server".to_owned())] {
        all_with(INCORRECT_TYPE, &client, &world, Some(wrong)).await;
    }
    // Another class's instance where a VM is wanted.
    let service = client.all("Msvm_ReplicationService").await.remove(0);
    all_with(INCORRECT_TYPE, &client, &world, Some(RawValue::Instance(Box::new(service)))).await;
    for wrong in [
        typed(Value::Boolean(true)),
        RawValue::Text("the one of yesterday".to_owned()),
        RawValue::Array(vec![RawValue::Null]),
        RawValue::Reference(world.system()),
    ] {
        let arguments = vec![world.computer_system(), named("SnapshotSettingData", wrong.clone())];
        let code = client.replication("InitiateFailover", arguments).await.return_value;
        assert_eq!(code, INCORRECT_TYPE, "{wrong:?}");
    }
    let mut card = world.card().await;
    card.set("DHCPEnabled", CimType::String, false, Some(Value::from("perhaps")));
    let vm = Some(RawValue::Reference(world.system()));
    assert_eq!(ask(&client, REPLICATING[1], vm, &card).await, INCORRECT_TYPE);
    let cards = vec![world.computer_system(), embedded("NetworkSettings", world.card().await)];
    assert_eq!(client.replication(REPLICATING[1], cards).await.return_value, 0, "one is an array of one");
}

#[tokio::test(flavor = "multi_thread")]
async fn not_available_when_the_storage_location_is_not_mounted_or_the_daemon_stops() {
    let mut world = World::with_cards(&["lan"]).await;
    let card = world.card().await;
    let vm = RawValue::Reference(world.system());
    world.fails_over().await;
    // What is to be a job is not begun any more.
    world.b.engine().jobs().stop();
    for method in RECOVERED {
        assert_eq!(ask(&world.at_b(), method, Some(vm.clone()), &card).await, NOT_AVAILABLE, "{method}");
    }
    world.b.stop().await;
    let away = world.root().join("away");
    std::fs::rename(world.b.replicas_dir(), &away).expect("moved away");
    world.b.start().await;
    for method in REPLICATING.into_iter().chain(RECOVERED) {
        assert_eq!(ask(&world.at_b(), method, Some(vm.clone()), &card).await, NOT_AVAILABLE, "{method}");
    }
    world.b.stop().await;
    std::fs::remove_dir_all(world.b.replicas_dir()).expect("an empty one");
    std::fs::rename(&away, world.b.replicas_dir()).expect("moved back");
    world.b.start().await;
    let commit = world.at_b().replication("CommitFailover", vec![world.computer_system()]).await;
    world.at_b().well(&commit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn not_found_for_an_unknown_vm_or_point() {
    let world = World::with_cards(&["lan"]).await;
    let (client, card) = (world.at_b(), world.card().await);
    for unknown in [system(VmId::random()), system_named("web")] {
        for method in ["InitiateFailover", "RevertFailover", "CommitFailover"] {
            let vm = Some(RawValue::Reference(unknown.clone()));
            assert_eq!(ask(&client, method, vm, &card).await, NOT_FOUND, "{method} {unknown}");
        }
        // This one's codes end at 32778.
        let vm = Some(RawValue::Reference(unknown));
        assert_eq!(ask(&client, REPLICATING[1], vm, &card).await, INVALID_PARAMETER);
    }
    let point = with_id("Msvm_VirtualSystemSettingData", format!("Microsoft:{}", guid(VmId::random())));
    let arguments = vec![world.computer_system(), reference("SnapshotSettingData", point)];
    assert_eq!(client.replication("InitiateFailover", arguments).await.return_value, NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_fails_later_has_the_code_in_its_job() {
    let world = World::replicating(keep_all()).await;
    world.b.fake.faults().fail_next(Op::Define);
    let client = world.at_b();
    let answer = client.replication("InitiateFailover", vec![world.computer_system()]).await;
    let job = client.ended(&answer).await;
    assert_eq!((number(&job, "JobState"), number(&job, "ErrorCode")), (10, u64::from(FAILED)));
    assert_eq!(world.replica_state().await, 3);
    // Its directory goes while the daemon runs, as when the file system is unmounted: nothing is written in its place.
    let away = world.root().join("away");
    std::fs::rename(world.b.replicas_dir(), &away).expect("moved away");
    let answer = client.replication("InitiateFailover", vec![world.computer_system()]).await;
    assert_eq!(answer.return_value, NOT_AVAILABLE);
    assert!(!world.b.replicas_dir().exists());
    std::fs::rename(&away, world.b.replicas_dir()).expect("moved back");
    world.fails_over().await;
}

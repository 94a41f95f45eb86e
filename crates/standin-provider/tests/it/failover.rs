//! Failing over by the API: the point in every form that clients send, starting, reverting, committing.

use crate::client::{embedded, guid, named, number, reference, string, text, typed};
use crate::world::{World, keep_all};
use standin_cim::{Instance, Named, RawValue, Value, embedded as embedding};
use standin_hypervisor::{Hypervisor, PowerState};

impl World {
    /// The recovery points as a client finds them, oldest first.
    async fn snapshots(&self) -> Vec<Instance> {
        let class = "Msvm_VirtualSystemSettingData";
        let found = self.at_b().related(&self.system(), "Msvm_SnapshotOfVirtualSystem", class).await;
        let mut all: Vec<Instance> = Vec::new();
        for point in self.points() {
            let id = format!("Microsoft:{}", point.id.to_string().to_ascii_uppercase());
            let instance = found.iter().find(|one| string(one, "InstanceID") == id).expect("the point");
            all.push(instance.clone());
        }
        assert_eq!(found.len(), all.len());
        all
    }

    async fn initiates(&self, point: Option<Named>) -> standin_model::PointId {
        let arguments = std::iter::once(self.computer_system()).chain(point).collect();
        let answer = self.at_b().replication("InitiateFailover", arguments).await;
        self.at_b().well(&answer).await;
        self.b.engine().relationship(self.vm).expect("there").failed_over_to.expect("a point")
    }

    async fn reverts(&self) {
        let answer = self.at_b().replication("RevertFailover", vec![self.computer_system()]).await;
        self.at_b().well(&answer).await;
        assert_eq!(self.replica_state().await, 3);
    }

    async fn power(&self, state: u16) -> u32 {
        let state = named("RequestedState", typed(Value::Uint16(state)));
        let answer = self.at_b().invoke(self.system(), "RequestStateChange", vec![state]).await;
        if answer.return_value == 4096 {
            self.at_b().well(&answer).await;
        }
        answer.return_value
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_point_comes_as_reference_instance_text_path_or_null() {
    let world = World::replicating(keep_all()).await;
    world.point().await;
    // Between one failover and the next nothing new is to come.
    world.a.fake.clean_stop(world.vm);
    let points = world.points();
    let old = world.snapshots().await.remove(0);
    let path = old.path.clone().expect("a path");
    let full = format!("\\\\replica\\root\\virtualization\\v2:{}", {
        let mut local = path.clone();
        local.namespace = None;
        local
    });
    let name = "SnapshotSettingData";
    let forms = [
        reference(name, path.clone()),
        embedded(name, old.clone()),
        text(name, embedding::to_text(&old)),
        named(name, typed(Value::String(embedding::to_text(&old)))),
        text(name, path.to_string()),
        text(name, full),
        named(name, typed(Value::Reference(Box::new(path.clone())))),
        text("snapshotsettingdata", path.to_string()),
    ];
    for form in forms {
        assert_eq!(world.initiates(Some(form.clone())).await, points[0].id, "{form:?}");
        world.reverts().await;
    }
    let latest = points.last().expect("a point").id;
    let nothing = [
        None,
        Some(named(name, RawValue::Null)),
        Some(text(name, "")),
        Some(named(
            name,
            RawValue::Typed(standin_cim::TypedValue {
                cim_type: standin_cim::CimType::Reference,
                array: false,
                value: None,
            }),
        )),
    ];
    for form in nothing {
        assert_eq!(world.initiates(form.clone()).await, latest, "{form:?}");
        world.reverts().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vm_is_not_started_by_the_failover_and_is_by_request() {
    let world = World::replicating(keep_all()).await;
    world.point().await;
    assert_eq!(world.power(2).await, 32775, "before the failover");
    let old = world.snapshots().await.remove(0).path.expect("a path");
    // It must not run on both hosts.
    world.a.fake.clean_stop(world.vm);
    world.initiates(Some(reference("SnapshotSettingData", old.clone()))).await;
    let vm = world.at_b().get(&world.system()).await;
    assert_eq!((number(&vm, "ReplicationState"), number(&vm, "EnabledState")), (5, 3));
    assert_eq!((number(&vm, "ReplicationMode"), number(&vm, "FailedOverReplicationType")), (2, 1));
    let class = "Msvm_VirtualSystemSettingData";
    let applied = world.at_b().related(&world.system(), "Msvm_LastAppliedSnapshot", class).await;
    assert_eq!(applied[0].path, Some(old));
    assert_eq!(world.power(2).await, 4096);
    assert_eq!(world.b.fake.inspect(world.vm).await.expect("there").power, PowerState::Running);
    assert_eq!(number(&world.at_b().get(&world.system()).await, "EnabledState"), 2);
    assert_eq!(world.power(2).await, 32775, "it runs already");
    assert_eq!(world.power(9).await, 4096);
    assert_eq!(number(&world.at_b().get(&world.system()).await, "EnabledState"), 9);
    assert_eq!(world.power(2).await, 4096);
    assert_eq!(world.power(11).await, 32770);
    assert_eq!(world.power(1).await, 32773);
    assert_eq!(world.power(3).await, 4096);
    assert_eq!(number(&world.at_b().get(&world.system()).await, "EnabledState"), 3);
    assert_eq!(world.power(2).await, 4096);
    // A revert turns it off and takes it away; the next failover is to the latest, for good.
    world.reverts().await;
    let vm = world.at_b().get(&world.system()).await;
    assert_eq!((number(&vm, "EnabledState"), number(&vm, "FailedOverReplicationType")), (3, 0));
    world.initiates(None).await;
    assert_eq!(world.power(2).await, 4096);
    let commit = world.at_b().replication("CommitFailover", vec![world.computer_system()]).await;
    let job = world.at_b().well(&commit).await;
    assert_eq!((number(&job, "JobType"), string(&job, "Owner")), (99, "replica"));
    assert_eq!(world.replica_state().await, 6);
    assert!(world.snapshots().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_points_carry_their_type_time_and_vm() {
    let world = World::replicating(keep_all()).await;
    world.point().await;
    let job = world.a.ask(world.vm, standin_engine::Command::Point { application: true }).await;
    world.done(job.expect("asked").expect("a job")).await;
    let (points, found) = (world.points(), world.snapshots().await);
    assert!(points.len() >= 3);
    let mut types = Vec::new();
    for (at, (point, instance)) in points.iter().zip(&found).enumerate() {
        assert_eq!(string(instance, "VirtualSystemIdentifier"), guid(world.vm));
        types.push(string(instance, "VirtualSystemType"));
        let made = Value::Datetime(standin_cim::Datetime::utc(point.created_at));
        assert_eq!(instance.value("CreationTime"), Some(&made));
        assert_eq!(instance.value("Parent").is_some(), at > 0);
    }
    assert_eq!(types[0], "Microsoft:Hyper-V:Snapshot:Replica:Standard");
    assert_eq!(types[types.len() - 1], "Microsoft:Hyper-V:Snapshot:Replica:ApplicationConsistent");
    let relationship = world.at_b().all("Msvm_ReplicationRelationship").await.remove(0);
    assert_eq!(number(&relationship, "LastReplicationType"), 2);
    assert!(relationship.value("LastApplicationConsistentReplicationTime").is_some());
    assert!(relationship.value("LastReplicationTime").is_some());
    let applied = points.last().expect("a point").received_at;
    let applied = Value::Datetime(standin_cim::Datetime::utc(applied));
    assert_eq!(relationship.value("LastApplyTime"), Some(&applied));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_recovery_point_can_be_removed() {
    let world = World::replicating(keep_all()).await;
    world.point().await;
    let found = world.snapshots().await;
    let destroy = |point: &Instance| vec![reference("AffectedSnapshot", point.path.clone().expect("a path"))];
    let service = "Msvm_VirtualSystemSnapshotService";
    let client = world.at_b();
    let newest = found.last().expect("a point");
    assert_eq!(client.of_service(service, "DestroySnapshot", destroy(newest)).await.return_value, 32774);
    assert_eq!(client.of_service(service, "DestroySnapshot", destroy(&found[0])).await.return_value, 0);
    assert_eq!(world.snapshots().await.len(), found.len() - 1);
    assert_eq!(client.of_service(service, "DestroySnapshot", destroy(&found[0])).await.return_value, 32779);
    assert_eq!(client.of_service(service, "DestroySnapshot", Vec::new()).await.return_value, 32773);
    let take = vec![reference("AffectedSystem", world.system())];
    assert_eq!(client.of_service(service, "CreateSnapshot", take).await.return_value, 32770);
}

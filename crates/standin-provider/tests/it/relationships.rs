//! A relationship's life by the API: made, started, changed, paused, counted, removed.

use crate::client::{embedded, guid, instances, named, number, out, reference, set, string, text, typed};
use crate::world::{World, keep_all};
use standin_cim::{Datetime, Instance, Named, Value, embedded as embedding};
use standin_model::state::ReplicationState as S;

impl World {
    /// What a client edits before it enables replication: there is one for a VM that does not replicate.
    async fn to_edit(&self) -> Instance {
        self.look().await;
        let found = self.at_a().all("Msvm_ReplicationSettingData").await;
        assert_eq!(found.len(), 1);
        let mut settings = found.into_iter().next().expect("settings");
        assert_eq!(string(&settings, "VirtualSystemIdentifier"), guid(self.vm));
        assert!(settings.value("RecoveryConnectionPoint").is_none());
        let (host, port) =
            self.link.address().rsplit_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a port");
        set(&mut settings, "RecoveryConnectionPoint", host);
        set(&mut settings, "RecoveryServerPortNumber", port.parse::<u16>().expect("a port"));
        set(&mut settings, "RecoveryHistory", 4_u16);
        set(&mut settings, "ReplicationInterval", 900_u16);
        settings
    }

    async fn creates(&self, settings: Named) -> u32 {
        let arguments = vec![self.computer_system(), settings];
        self.at_a().replication("CreateReplicationRelationship", arguments).await.return_value
    }

    async fn changes_state(&self, state: u16) -> u32 {
        let arguments = vec![named("RequestedState", typed(Value::Uint16(state)))];
        self.at_a().invoke(self.system(), "RequestReplicationStateChange", arguments).await.return_value
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn created_from_edited_settings_as_text_or_instance_started_and_replicating() {
    for as_text in [true, false] {
        let world = World::new().await;
        let settings = world.to_edit().await;
        let settings = match as_text {
            true => text("ReplicationSettingData", embedding::to_text(&settings)),
            false => embedded("ReplicationSettingData", settings),
        };
        assert_eq!(world.creates(settings).await, 0);
        let shown = world.at_a().all("Msvm_ReplicationRelationship").await.remove(0);
        assert_eq!(number(&shown, "ReplicationState"), 1);
        let network = named("InitialReplicationType", typed(Value::Uint16(1)));
        let begun =
            world.at_a().replication("StartReplication", vec![world.computer_system(), network]).await;
        let job = world.at_a().well(&begun).await;
        assert_eq!(number(&job, "JobType"), 94);
        world.both_replicate().await;
        for client in [world.at_a(), world.at_b()] {
            let settings = client.all("Msvm_ReplicationSettingData").await.remove(0);
            assert_eq!(number(&settings, "RecoveryHistory"), 4);
            assert_eq!(number(&settings, "ReplicationInterval"), 900);
            assert_eq!(string(&settings, "PrimaryHostSystem"), "primary.example.org");
        }
        let ours = world.at_a().all("Msvm_ReplicationSettingData").await.remove(0);
        assert_eq!(string(&ours, "RecoveryConnectionPoint"), "localhost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_when_a_relationship_is_made() {
    let world = World::new().await;
    let settings = world.to_edit().await;
    let with = |name: &'static str, value: Value| {
        let mut changed = settings.clone();
        set(&mut changed, name, value);
        embedded("ReplicationSettingData", changed)
    };
    assert_eq!(world.creates(with("AuthenticationType", Value::Uint16(1))).await, 32770, "Kerberos");
    assert_eq!(world.creates(with("AuthenticationType", Value::Uint16(9))).await, 32773);
    assert_eq!(world.creates(with("ReplicationInterval", Value::Uint16(0))).await, 32773);
    assert_eq!(world.creates(with("CertificateThumbPrint", Value::from("AB CD"))).await, 32779);
    assert_eq!(world.creates(with("ReplicationProvider", Value::from("another"))).await, 32770);
    assert_eq!(world.creates(with("RecoveryConnectionPoint", Value::from("a b"))).await, 32773);
    assert_eq!(
        world.creates(with("RecoveryServerPortNumber", Value::Uint16(1))).await,
        32777,
        "nobody there"
    );
    let nothing = vec![world.computer_system()];
    let answer = world.at_a().replication("CreateReplicationRelationship", nothing).await;
    assert_eq!(answer.return_value, 32773);
    assert_eq!(world.a.state(world.vm), S::Disabled);
    // The host's own certificate may be named, and some of the disks.
    let service = world.at_a().all("Msvm_ReplicationServiceSettingData").await.remove(0);
    let mut right = settings.clone();
    set(&mut right, "CertificateThumbPrint", string(&service, "CertificateThumbPrint"));
    let disk = world.at_a().all("Msvm_StorageAllocationSettingData").await.remove(0);
    let disks = Value::Array(vec![Some(Value::Instance(Box::new(disk)))]);
    right.set("IncludedDisks", standin_cim::CimType::String, true, Some(disks));
    assert_eq!(world.creates(embedded("ReplicationSettingData", right)).await, 0);
    assert_eq!(world.a.engine().relationship(world.vm).expect("one").disks.len(), 1);
    assert_eq!(world.creates(embedded("ReplicationSettingData", settings.clone())).await, 32775, "twice");
    // Not the replica host's to start; and only over the network.
    let start = |kind: u16| {
        vec![world.computer_system(), named("InitialReplicationType", typed(Value::Uint16(kind)))]
    };
    assert_eq!(world.at_b().replication("StartReplication", start(1)).await.return_value, 32775);
    for (kind, code) in [(2, 32770), (3, 32770), (4, 32773)] {
        assert_eq!(world.at_a().replication("StartReplication", start(kind)).await.return_value, code);
    }
    let nothing = vec![world.computer_system()];
    assert_eq!(world.at_a().replication("StartReplication", nothing).await.return_value, 32773);
    let mut late = start(1);
    late.push(named("StartTime", typed(Value::Datetime(standin_cim::Datetime::seconds(5)))));
    assert_eq!(world.at_a().replication("StartReplication", late).await.return_value, 32773, "an interval");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_modified_and_null_changes_nothing() {
    let world = World::replicating(keep_all()).await;
    let before = world.a.engine().settings(world.vm).expect("settings");
    let mut settings = Instance::new("Msvm_ReplicationSettingData");
    set(&mut settings, "ReplicationInterval", 30_u16);
    set(&mut settings, "CompressionEnabled", false);
    let arguments = vec![world.computer_system(), embedded("ReplicationSettingData", settings.clone())];
    let answer = world.at_a().replication("ModifyReplicationSettings", arguments.clone()).await;
    assert_eq!(answer.return_value, 0);
    let now = world.a.engine().settings(world.vm).expect("settings");
    assert_eq!((now.interval_s, now.compression), (30, false));
    assert_eq!(
        (now.history, now.retention, now.auto_resync),
        (before.history, before.retention, before.auto_resync)
    );
    let answer = world.at_b().replication("ModifyReplicationSettings", arguments).await;
    assert_eq!(answer.return_value, 32775, "on the replica");
    set(&mut settings, "RecoveryHistory", 25_u16);
    let arguments = vec![world.computer_system(), embedded("ReplicationSettingData", settings)];
    let answer = world.at_a().replication("ModifyReplicationSettings", arguments).await;
    assert_eq!(answer.return_value, 32773);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recovery_connection_point_is_modified_to_where_the_replica_is_now() {
    let world = World::replicating(keep_all()).await;
    let link = crate::link::Link::new().await;
    link.lead_to(world.b.port());
    let port =
        |address: String| address.rsplit_once(':').and_then(|it| it.1.parse::<u16>().ok()).expect("a port");
    let (old, new) = (port(world.link.address()), port(link.address()));
    let client = world.at_a();
    let modify = async |settings: &Instance| {
        let arguments = vec![world.computer_system(), embedded("ReplicationSettingData", settings.clone())];
        client.replication("ModifyReplicationSettings", arguments).await.return_value
    };
    let mut settings = client.all("Msvm_ReplicationSettingData").await.remove(0);
    assert_eq!(number(&settings, "RecoveryServerPortNumber"), u64::from(old));
    assert_eq!(modify(&settings).await, 0, "given back as they were");
    set(&mut settings, "RecoveryServerPortNumber", 1_u16);
    assert_eq!(modify(&settings).await, 32777, "nobody there");
    set(&mut settings, "RecoveryServerPortNumber", new);
    assert_eq!(modify(&settings).await, 0);
    let shown = client.all("Msvm_ReplicationSettingData").await.remove(0);
    assert_eq!(number(&shown, "RecoveryServerPortNumber"), u64::from(new));
    assert_eq!(string(&shown, "RecoveryConnectionPoint"), "localhost");
    world.link.cut();
    world.write("a", 0, b"over the new address");
    world.point().await;
    let mut only_host = Instance::new("Msvm_ReplicationSettingData");
    set(&mut only_host, "RecoveryConnectionPoint", "127.0.0.1");
    assert_eq!(modify(&only_host).await, 32777, "another host, and the usual port there");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hours_of_resynchronization_are_kept_and_given_back() {
    let world = World::replicating(keep_all()).await;
    let client = world.at_a();
    let modify = |settings: &Instance| {
        vec![world.computer_system(), embedded("ReplicationSettingData", settings.clone())]
    };
    let hours = |seconds| Datetime::seconds(seconds);
    let mut settings = client.all("Msvm_ReplicationSettingData").await.remove(0);
    assert_eq!(settings.value("AutoResynchronizeIntervalStart"), Some(&Value::Datetime(hours(0))));
    set(&mut settings, "AutoResynchronizeIntervalStart", hours(66_600));
    set(&mut settings, "AutoResynchronizeIntervalEnd", hours(21_600));
    assert_eq!(client.replication("ModifyReplicationSettings", modify(&settings)).await.return_value, 0);
    let mut nothing = Instance::new("Msvm_ReplicationSettingData");
    set(&mut nothing, "ReplicationInterval", 40_u16);
    assert_eq!(client.replication("ModifyReplicationSettings", modify(&nothing)).await.return_value, 0);
    let now = client.all("Msvm_ReplicationSettingData").await.remove(0);
    let kept = ["AutoResynchronizeIntervalStart", "AutoResynchronizeIntervalEnd"]
        .map(|name| now.value(name).cloned());
    assert_eq!(
        kept,
        [66_600, 21_600].map(|seconds| Some(Value::Datetime(hours(seconds)))),
        "null changes nothing"
    );
    set(&mut settings, "AutoResynchronizeIntervalStart", hours(86_400));
    assert_eq!(client.replication("ModifyReplicationSettings", modify(&settings)).await.return_value, 32773);
    set(&mut settings, "AutoResynchronizeIntervalStart", Datetime::utc(jiff::Timestamp::UNIX_EPOCH));
    assert_eq!(client.replication("ModifyReplicationSettings", modify(&settings)).await.return_value, 32773);
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_resumed_and_removed() {
    let world = World::replicating(keep_all()).await;
    world.look().await;
    assert_eq!(world.changes_state(7).await, 0);
    assert_eq!(world.a.state(world.vm), S::Suspended);
    assert_eq!(world.changes_state(7).await, 32775, "twice");
    let shown = world.at_a().all("Msvm_ReplicationRelationship").await.remove(0);
    assert_eq!((number(&shown, "ReplicationState"), number(&shown, "ReplicationHealth")), (7, 2));
    assert_eq!(world.changes_state(3).await, 0);
    world.both_replicate().await;
    for (state, code) in [(1, 32775), (9, 32775), (2, 32770), (4, 32770), (5, 32773)] {
        assert_eq!(world.changes_state(state).await, code, "{state}");
    }
    // The form that names the relationship.
    let own = world.at_a().all("Msvm_ReplicationRelationship").await.remove(0);
    let mut others = own.clone();
    set(&mut others, "InstanceID", "Microsoft:00000000-0000-4000-8000-000000000001\\HVR\\0");
    let mut extended = own.clone();
    set(&mut extended, "InstanceID", format!("Microsoft:{}\\HVR\\1", guid(world.vm)));
    let suspend = |one: &Instance| {
        vec![
            embedded("ReplicationRelationship", one.clone()),
            named("RequestedState", typed(Value::Uint16(7))),
        ]
    };
    let ask = "RequestReplicationStateChangeEx";
    assert_eq!(world.at_a().invoke(world.system(), ask, suspend(&others)).await.return_value, 32773);
    assert_eq!(world.at_a().invoke(world.system(), ask, suspend(&extended)).await.return_value, 32770);
    assert_eq!(world.at_a().invoke(world.system(), ask, suspend(&own)).await.return_value, 0);
    let remove = vec![world.computer_system(), embedded("ReplicationRelationship", own)];
    let answer = world.at_a().replication("RemoveReplicationRelationshipEx", remove).await;
    assert_eq!(answer.return_value, 0);
    let vm = world.at_a().get(&world.system()).await;
    assert_eq!((number(&vm, "ReplicationState"), number(&vm, "ReplicationMode")), (0, 0));
    let again = vec![world.computer_system()];
    assert_eq!(world.at_a().replication("RemoveReplicationRelationship", again).await.return_value, 32775);
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_come_with_the_reasons_of_bad_health_and_begin_anew() {
    let world = World::replicating(keep_all()).await;
    world.write("a", 0, b"something");
    world.point().await;
    let client = world.at_a();
    let get = || client.replication("GetReplicationStatistics", vec![world.computer_system()]);
    let answer = get().await;
    let statistics = instances(&answer, "ReplicationStatistics");
    assert!(number(&statistics[0], "ReplicationSuccessCount") >= 1, "{statistics:?}");
    assert!(number(&statistics[0], "ReplicationSize") > 0);
    assert!(instances(&answer, "ReplicationHealthIssues").is_empty());
    assert_eq!(out(&answer, "Job"), None);
    assert_eq!(world.changes_state(7).await, 0);
    let issues = instances(&get().await, "ReplicationHealthIssues");
    assert_eq!(&*issues[0].class, "Msvm_Error");
    assert!(!string(&issues[0], "Message").is_empty());
    assert_eq!(number(&issues[0], "PerceivedSeverity"), 3);
    let reset = client.replication("ResetReplicationStatistics", vec![world.computer_system()]).await;
    assert_eq!(reset.return_value, 0);
    let statistics = instances(&get().await, "ReplicationStatistics");
    assert_eq!(number(&statistics[0], "ReplicationSuccessCount"), 0);
    // The form that names the relationship, and a VM without one.
    let own = client.all("Msvm_ReplicationRelationship").await.remove(0);
    let named = vec![world.computer_system(), embedded("ReplicationRelationship", own)];
    assert_eq!(client.replication("GetReplicationStatisticsEx", named).await.return_value, 0);
    let other = world.a.fake.add_vm("other", &[("a", 1 << 20)]);
    world.a.call(move |engine| async move { engine.vm_changed(other).await }).await;
    let other = vec![reference("ComputerSystem", crate::client::system(other))];
    assert_eq!(client.replication("GetReplicationStatistics", other).await.return_value, 32775);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_tested_without_a_relationship() {
    let world = World::new().await;
    let port = world.link.address().rsplit_once(':').expect("a port").1.parse::<u16>().expect("a number");
    let test = |port: u16| {
        vec![
            text("RecoveryConnectionPoint", "localhost"),
            named("RecoveryServerPortNumber", typed(Value::Uint16(port))),
            named("AuthenticationType", typed(Value::Uint16(2))),
        ]
    };
    let client = world.at_a();
    assert_eq!(client.replication("TestReplicationConnection", test(port)).await.return_value, 0);
    assert_eq!(client.replication("TestReplicationConnection", test(1)).await.return_value, 32777);
    assert_eq!(client.replication("TestReplicationConnection", Vec::new()).await.return_value, 32773);
}

//! Names: a VM has one on each host, no two VMs of a host have the same, and a peer's definition never passes for another
//! VM's.

use crate::host::{End, Host, State, until};
use crate::world::{KIB, MIB, World, keep_all, random, refused, to, write_identity};
use standin_engine::Enable;
use standin_engine::messages::{DiskShape, LayerKind, Offer, PointOffer, Request};
use standin_engine::peers::{Peers, TlsTransport};
use standin_engine::primary::session::Session;
use standin_engine::records::Tables;
use standin_hypervisor::{Hypervisor, PowerState, StartOptions, VmDefinition};
use standin_model::state::ReplicationState as S;
use standin_model::{Epoch, Generation, HostId, PointId, PointKind, Refusal, ReturnCode, VmId, VmName};
use standin_state::{MemoryStore, StateStore};
use standin_wire::{Hello, PROTOCOL, PkiDir};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub fn name(text: &str) -> VmName {
    VmName::new(text).expect("a name")
}

/// A further host of the world, with a certificate of the same authority.
pub fn another(world: &World, host: &'static str) -> Host {
    let pki = PkiDir::new(world.root().join("pki"));
    let names = [format!("{host}.example.org"), "localhost".into(), "127.0.0.1".into()];
    let issued = pki.issue(&names, 30).expect("a certificate");
    let dir = world.root().join(host);
    let trust = pki.identity_files().trust;
    let identity = write_identity(&dir.join("pki"), &issued.certificate, issued.key.as_str(), &trust);
    Host::new(host, dir, identity, State::Memory(Arc::new(MemoryStore::new())))
}

impl World {
    async fn rename(&self, host: &Host, to: &str) -> Result<(), Refusal> {
        let (vm, to) = (self.vm, name(to));
        host.call(move |engine| async move { engine.rename(vm, to).await }).await
    }

    async fn fails_over(&self, vm: VmId) {
        let job = self.b.call(move |engine| async move { engine.failover(vm, to(None, true)).await }).await;
        self.done_on_replica(job.expect("begun")).await;
        assert_eq!(self.b.state(vm), S::Recovered);
    }

    /// What a VM is called on the replica host, and on its primary as that host knows it.
    async fn called(&self, vm: VmId) -> (String, String) {
        let status = self.b.status(vm).await;
        (status.vm.to_string(), status.primary_name.expect("a name on the primary").to_string())
    }

    /// The replica host knows another name of the primary's.
    async fn learns(&self, on_primary: &str) {
        let (engine, vm, wanted) = (self.b.engine(), self.vm, name(on_primary));
        until(format!("the name {wanted}"), move || {
            let record = engine.replicas().find(vm)?.snapshot();
            (*record.primary_name() == wanted).then_some(())
        })
        .await;
    }
}

fn pair(here: &str, there: &str) -> (String, String) {
    (here.to_owned(), there.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_primaries_with_a_vm_of_one_name_both_fail_over_to_one_host() {
    let mut world = World::replicating(keep_all()).await;
    let mut second = another(&world, "second");
    second.start().await;
    world.b.admit("second.example.org", "two").await;
    let vm = second.fake.add_vm("web", &[("a", MIB)]);
    second.fake.write(vm, "a", 0, &random(50 * KIB, 7));
    let enable = Enable { peer: world.link.address(), settings: keep_all(), start: true };
    let job = second.call(move |engine| async move { engine.enable(vm, enable).await }).await;
    second.job(job.expect("enabled").job.expect("a job")).await;
    world.b.reaches(vm, S::Replicating).await;
    assert_eq!(world.called(world.vm).await, pair("web", "web"));
    assert_eq!(world.called(vm).await, pair("web-second", "web"));
    let engine = world.b.engine();
    assert_eq!(engine.resolve(&name("web")).await, Ok(world.vm));
    assert_eq!(engine.resolve(&name("web-second")).await, Ok(vm));
    world.a.kill().await;
    second.kill().await;
    world.fails_over(world.vm).await;
    world.fails_over(vm).await;
    for (vm, called) in [(world.vm, "web"), (vm, "web-second")] {
        let info = world.b.fake.inspect(vm).await.expect("defined");
        assert_eq!((info.name.as_str(), info.power), (called, PowerState::Running));
        assert_eq!(info.definition.uuid, vm);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_on_the_primary_onto_a_name_of_the_replica_host_keeps_the_failover() {
    let world = World::replicating(keep_all()).await;
    let shop = world.b.fake.add_vm("shop", &[("a", MIB)]);
    world.rename(&world.a, "shop").await.expect("renamed");
    assert_eq!(world.a.status(world.vm).await.vm, name("shop"));
    assert_eq!(world.a.fake.inspect(world.vm).await.expect("there").name, name("shop"));
    let point = world.proven_point().await;
    world.learns("shop").await;
    assert_eq!(world.called(world.vm).await, pair("web", "shop"));
    world.fails_over(world.vm).await;
    let info = world.b.fake.inspect(world.vm).await.expect("defined");
    assert_eq!(info.name, name("web"));
    assert_eq!(world.b.fake.inspect(shop).await.expect("there").name, name("shop"));
    assert_eq!(world.latest(), point);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_defined_anew_under_another_name_is_offered_under_it() {
    let world = World::replicating(keep_all()).await;
    let vm = world.vm;
    world.a.fake.clean_stop(vm);
    world.a.fake.redefine(vm, |definition| definition.name = name("shop"));
    let old = world.latest();
    world.a.call(move |engine| async move { engine.start_vm(vm, None).await }).await.expect("started");
    let point = world.newer_than(&old).await;
    world.equals(point.id, &world.contents());
    world.learns("shop").await;
    assert_eq!(world.a.status(vm).await.vm, name("shop"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_during_a_cycle_neither_fails_it_nor_is_lost() {
    let world = World::replicating(keep_all()).await;
    world.write("a", 0, &random(MIB, 9));
    let job = world.held_cycle(1).await;
    world.rename(&world.a, "shop").await.expect("renamed");
    world.release();
    world.done(job).await;
    world.proven_point().await;
    world.learns("shop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_renamed_also_while_it_is_failed_over_and_keeps_its_name() {
    let mut world = World::replicating(keep_all()).await;
    world.b.fake.add_vm("other", &[("a", MIB)]);
    let taken = refused(world.rename(&world.b, "other").await, ReturnCode::InUse);
    assert!(taken.remedy.contains("standin rename"), "{taken}");
    assert_eq!(world.called(world.vm).await, pair("web", "web"));
    world.rename(&world.b, "stand-in").await.expect("renamed");
    assert_eq!(world.called(world.vm).await, pair("stand-in", "web"));
    assert_eq!(world.a.status(world.vm).await.vm, name("web"));
    world.b.restart_behind(&world.link, End::Kill).await;
    assert_eq!(world.called(world.vm).await, pair("stand-in", "web"));
    world.write("a", 0, b"goes on");
    world.proven_point().await;
    world.fails_over(world.vm).await;
    assert_eq!(world.b.fake.inspect(world.vm).await.expect("defined").name, name("stand-in"));
    world.rename(&world.b, "shop").await.expect("renamed");
    let info = world.b.fake.inspect(world.vm).await.expect("defined");
    assert_eq!((info.name, info.power), (name("shop"), PowerState::Running));
    assert_eq!(world.called(world.vm).await, pair("shop", "web"));
    let vm = world.vm;
    let job = world.b.call(move |engine| async move { engine.revert(vm).await }).await.expect("begun");
    world.done_on_replica(job).await;
    assert_eq!(world.called(vm).await, pair("shop", "web"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_does_not_replicate_is_renamed_and_an_unknown_one_refused() {
    let world = World::replicating(keep_all()).await;
    let other = world.a.fake.add_vm("other", &[("a", MIB)]);
    let rename = |vm: VmId, to: &str| {
        let to = name(to);
        world.a.call(move |engine| async move { engine.rename(vm, to).await })
    };
    refused(rename(other, "web").await, ReturnCode::InUse);
    rename(other, "another").await.expect("renamed");
    assert_eq!(world.a.fake.inspect(other).await.expect("there").name, name("another"));
    rename(other, "another").await.expect("its own name is free to it");
    refused(rename(VmId::random(), "nobody").await, ReturnCode::FileNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_taken_past_the_engine_is_told_apart_at_the_failover() {
    let world = World::new().await;
    world.a.fake.redefine(world.vm, |definition| definition.serial_log = Some("/serial.log".into()));
    let job = world.begin(keep_all()).await;
    world.done(job).await;
    world.both_replicate().await;
    let foreign = world.b.fake.add_vm("web", &[("a", MIB)]);
    world.fails_over(world.vm).await;
    let info = world.b.fake.inspect(world.vm).await.expect("defined");
    assert_eq!((info.name, info.power), (name("web-primary"), PowerState::Running));
    let log = info.definition.serial_log.expect("a log of its own");
    assert!(log.ends_with("web-primary-serial.log"), "{}", log.display());
    assert_eq!(world.called(world.vm).await, pair("web-primary", "web"));
    assert_eq!(world.b.fake.inspect(foreign).await.expect("there").name, name("web"));
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_and_vms_of_one_name_are_told_apart_when_the_daemon_starts() {
    let mut world = World::replicating(keep_all()).await;
    world.b.stop().await;
    let foreign = world.b.fake.add_vm("web", &[("a", MIB)]);
    world.b.start().await;
    world.link.lead_to(world.b.port());
    assert_eq!(world.called(world.vm).await, pair("web-primary", "web"));
    let engine = world.b.engine();
    assert_eq!(engine.resolve(&name("web")).await, Ok(foreign));
    assert_eq!(engine.resolve(&name("web-primary")).await, Ok(world.vm));
    world.proven_point().await;
    world.fails_over(world.vm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_leaves_a_vm_of_its_id_that_it_did_not_make() {
    let world = World::replicating(keep_all()).await;
    let vm = world.vm;
    let foreign = VmDefinition { uuid: vm, ..VmDefinition::new(name("theirs"), 64) };
    world.b.fake.define(foreign.clone()).await.expect("defined past the engine");
    world.b.fake.start(vm, StartOptions::default()).await.expect("started");
    let job = world.b.call(move |engine| async move { engine.failover(vm, to(None, true)).await }).await;
    let error = world.b.job(job.expect("begun")).await.error.expect("it is refused");
    assert_eq!(error.code, ReturnCode::InUse, "{error}");
    assert!(error.message.contains("theirs"), "{error}");
    let left = world.b.fake.inspect(vm).await.expect("it is there");
    assert_eq!(left.definition, foreign);
    // The primary runs a VM of this id too, under the higher claim: the copy here may be paused by now, and nothing else.
    assert_ne!(left.power, PowerState::Off);
    assert_eq!(world.b.state(vm), S::Replicating);
    world.b.fake.power_off(vm).await.expect("off");
    world.b.fake.undefine(vm).await.expect("removed");
    world.fails_over(vm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_of_the_release_before_that_is_of_another_vm_harms_nobody() {
    let mut world = World::replicating(keep_all()).await;
    let victim = world.b.fake.add_vm("victim", &[("a", MIB)]);
    let before = world.b.fake.inspect(victim).await.expect("there").definition;
    world.b.stop().await;
    let mut changed = 0;
    for file in files_named(&world.b.replicas_dir(), "vm.toml") {
        let text = std::fs::read_to_string(&file).expect("a definition");
        let hostile =
            text.replace(&world.vm.to_string(), &victim.to_string()).replace("\"web\"", "\"victim\"");
        assert_ne!(text, hostile);
        std::fs::write(&file, hostile).expect("write");
        changed += 1;
    }
    assert!(changed > 0, "a recovery point has a definition");
    world.b.start().await;
    world.fails_over(world.vm).await;
    let info = world.b.fake.inspect(world.vm).await.expect("defined under the record's id");
    assert_eq!((info.name, info.power), (name("web"), PowerState::Running));
    assert_eq!(world.b.fake.inspect(victim).await.expect("there").definition, before);
}

pub fn files_named(dir: &std::path::Path, wanted: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_named(&path, wanted));
        } else if path.file_name().is_some_and(|name| name == wanted) {
            found.push(path);
        }
    }
    found
}

/// A primary that says what it likes.
struct Hostile {
    peers: Arc<Peers>,
    peer: String,
    offer: Offer,
}

impl Hostile {
    /// One that speaks the protocol up to `version`.
    async fn new(world: &World, version: u16) -> Self {
        let pki = PkiDir::new(world.root().join("pki"));
        let issued = pki.issue(&["hostile.example.org".to_owned()], 30).expect("a certificate");
        let trust = pki.identity_files().trust;
        let dir = world.root().join("hostile");
        let identity = write_identity(&dir, &issued.certificate, issued.key.as_str(), &trust);
        world.b.admit("hostile.example.org", "hostile").await;
        let disk = DiskShape { name: crate::world::disk("a"), size: MIB };
        let offer = Offer {
            vm: VmId::random(),
            name: name("theirs"),
            generation: Generation(1),
            claim: None,
            disks: vec![disk],
            settings: keep_all(),
            network: standin_model::network::NetworkSettings::default(),
            acknowledged: None,
        };
        let hello = Hello { max_version: version, ..Hello::new("hostile", "another program") };
        let transport = Arc::new(TlsTransport::new(identity, hello));
        let tables = Tables::new(&(Arc::new(MemoryStore::new()) as Arc<dyn StateStore>));
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let peers = Peers::open(transport, HostId::random(), tables, shutdown, tasks).await.expect("peers");
        Self { peers, peer: world.link.address(), offer }
    }

    /// A first copy of an empty disk.
    async fn begins(&self) {
        let mut session =
            Session::create(&self.peers, &self.peer, self.offer.clone()).await.expect("admitted");
        let base = Request::Begin { epoch: Epoch(0), kind: LayerKind::Base { fresh: true } };
        session.ask(&base).await.expect("begun");
        session.done(&Request::PassEnd { digests: BTreeMap::new() }).await.expect("nothing was sent");
        let seal = Request::Seal { point: None, definition: String::new(), files: Vec::new() };
        session.ask(&seal).await.expect("sealed");
    }

    async fn seals(&self, definition: &VmDefinition) -> Result<(), Refusal> {
        let opened = Session::open(&self.peers, &self.peer, self.offer.clone()).await;
        let mut session: Session = opened.map_err(|error| error.refusal())?;
        let epoch = session.opened().head.expect("a first copy").next();
        session.ask(&Request::Begin { epoch, kind: LayerKind::Delta }).await.expect("begun");
        session.done(&Request::PassEnd { digests: BTreeMap::new() }).await.expect("nothing was sent");
        let point = PointOffer {
            id: PointId::random(),
            created_at: jiff::Timestamp::now(),
            kind: PointKind::Standard,
        };
        let definition = definition.to_toml().expect("a definition");
        let seal = Request::Seal { point: Some(point), definition, files: Vec::new() };
        session.ask(&seal).await.map(|_| ()).map_err(|error| error.refusal())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_with_the_definition_of_another_vm_is_not_sealed() {
    let world = World::new().await;
    let victim = world.b.fake.add_vm("victim", &[("a", MIB)]);
    let before = world.b.fake.inspect(victim).await.expect("there").definition;
    let hostile = Hostile::new(&world, PROTOCOL.max).await;
    hostile.begins().await;
    let own = VmDefinition { uuid: hostile.offer.vm, ..VmDefinition::new(name("theirs"), 64) };
    let points =
        || world.b.engine().replicas().find(hostile.offer.vm).expect("a replica").store().points().len();
    for wrong in [
        VmDefinition { uuid: victim, ..own.clone() },
        VmDefinition { name: name("victim"), ..own.clone() },
        before.clone(),
    ] {
        let refusal = refused(hostile.seals(&wrong).await, ReturnCode::InvalidParameter);
        assert!(refusal.message.contains("with a recovery point of VM theirs"), "{refusal}");
        assert_eq!(points(), 0);
    }
    hostile.seals(&own).await.expect("its own is sealed");
    assert_eq!(points(), 1);
    world.fails_over(hostile.offer.vm).await;
    assert_eq!(world.b.fake.inspect(victim).await.expect("there").definition, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_of_the_version_before_may_have_renamed_its_vm_and_its_points_are_taken() {
    let world = World::new().await;
    let victim = world.b.fake.add_vm("victim", &[("a", MIB)]);
    let old = Hostile::new(&world, 1).await;
    old.begins().await;
    // It offers the name that the relationship was made with for ever, and a name that another VM here has is no matter.
    let renamed = VmDefinition { uuid: old.offer.vm, ..VmDefinition::new(name("victim"), 64) };
    old.seals(&renamed).await.expect("its own VM");
    let another = VmDefinition { uuid: victim, ..renamed };
    refused(old.seals(&another).await, ReturnCode::InvalidParameter);
    world.fails_over(old.offer.vm).await;
    let made = world.b.fake.inspect(old.offer.vm).await.expect("there").definition;
    assert_eq!(made.name, name("theirs"), "a failover defines it under the name of the record");
}

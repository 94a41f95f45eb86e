//! Failover network settings: set on either side, on their way, applied by the agent or by a disk, taken away.

use crate::host::{End, Host, until};
use crate::world::{World, keep_all, refused, to};
use standin_hypervisor::fake::Op;
use standin_hypervisor::{Hypervisor, NetworkMap, NicDefinition, NicKind, PowerState};
use standin_model::fence::Assertion;
use standin_model::network::{
    AdapterSettings, ApplyState, ApplyWay, NetworkChange, NetworkSettings, NetworkView, SettingsOrigin,
};
use standin_model::state::ReplicationState as S;
use standin_model::{Refusal, ReturnCode};
use std::path::PathBuf;
use std::time::Duration;

fn settings(address: &str) -> AdapterSettings {
    AdapterSettings { addresses: vec![address.parse().expect("an address")], ..AdapterSettings::default() }
}

pub fn change(card: Option<&str>, address: &str) -> NetworkChange {
    NetworkChange { adapter: card.map(str::to_owned), settings: Some(settings(address)) }
}

fn nic(name: &str) -> NicDefinition {
    let kind = NicKind::Bridge { bridge: "br-prod".to_owned() };
    NicDefinition { name: name.to_owned(), mac: None, model: "virtio".to_owned(), kind }
}

impl World {
    /// Replicating, with these cards in the newest point's definition.
    pub async fn with_cards(cards: &[&str], agent: bool) -> Self {
        let world = Self::new().await;
        world.a.fake.redefine(world.vm, |definition| {
            definition.nics = cards.iter().map(|name| nic(name)).collect();
            definition.guest_agent = agent;
        });
        let job = world.begin(keep_all()).await;
        world.done(job).await;
        world.both_replicate().await;
        world
    }

    pub async fn set(&self, host: &Host, changes: Vec<NetworkChange>) -> Result<NetworkView, Refusal> {
        let vm = self.vm;
        host.call(move |engine| async move { engine.set_network(vm, changes).await }).await
    }

    async fn network(&self, host: &Host) -> NetworkView {
        let vm = self.vm;
        host.call(move |engine| async move { engine.network(vm).await }).await.expect("a view")
    }

    async fn fails_over_and_starts(&self) {
        let vm = self.vm;
        let begun = self.b.call(move |engine| async move { engine.failover(vm, to(None, true)).await }).await;
        self.done_on_replica(begun.expect("begun")).await;
        assert_eq!(self.b.fake.inspect(vm).await.expect("there").power, PowerState::Running);
    }

    async fn reverts(&self) {
        let vm = self.vm;
        let begun = self.b.call(move |engine| async move { engine.revert(vm).await }).await;
        self.done_on_replica(begun.expect("begun")).await;
    }

    /// Waits until the settings of the failover in force are in this state.
    async fn applied(&self, state: ApplyState) -> NetworkView {
        let (engine, vm) = (self.b.engine(), self.vm);
        until(format!("{state:?}"), move || {
            let failover = engine.replicas().find(vm)?.snapshot().failover?;
            (failover.network?.applied.state == state).then_some(())
        })
        .await;
        self.network(&self.b).await
    }

    async fn seed(&self) -> Option<PathBuf> {
        let definition = self.b.fake.inspect(self.vm).await.expect("defined").definition;
        let disk = definition.disks.into_iter().find(|disk| disk.name.as_str() == "standin-cidata")?;
        assert!(disk.read_only, "the guest could write to it");
        Some(disk.file)
    }

    async fn stop_and_start(&self) {
        self.b.fake.clean_stop(self.vm);
        let vm = self.vm;
        self.b
            .call(move |engine| async move { engine.start_vm(vm, Some(Assertion::Forced)).await })
            .await
            .expect("started");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_primary_has_travels_and_survives_restarts_and_what_the_replica_has_goes_before_it() {
    let mut world = World::with_cards(&["lan", "dmz"], true).await;
    let changes = vec![change(Some("lan"), "192.0.2.5/24"), change(Some("dmz"), "198.51.100.5/24")];
    let view = world.set(&world.a, changes).await.expect("set");
    assert!(view.adapters.iter().all(|card| card.origin == Some(SettingsOrigin::Here)), "{view:?}");
    // Told at once: no cycle was needed.
    let view = world.network(&world.b).await;
    assert_eq!(view.adapters[0].settings, Some(settings("192.0.2.5/24")));
    assert_eq!(view.adapters[0].origin, Some(SettingsOrigin::Primary));
    world.set(&world.b, vec![change(Some("dmz"), "203.0.113.5/24")]).await.expect("set");
    world.a.restart(End::Kill).await;
    world.b.restart_behind(&world.link, End::Kill).await;
    assert_eq!(world.network(&world.a).await.adapters[1].settings, Some(settings("198.51.100.5/24")));
    let view = world.network(&world.b).await;
    assert_eq!(view.adapters[0].settings, Some(settings("192.0.2.5/24")));
    assert_eq!(view.adapters[1].settings, Some(settings("203.0.113.5/24")));
    assert_eq!(view.adapters[1].origin, Some(SettingsOrigin::Here));
    // What is cleared here lets the primary's through again.
    let clear = NetworkChange { adapter: Some("dmz".to_owned()), settings: None };
    let view = world.set(&world.b, vec![clear]).await.expect("cleared");
    assert_eq!(view.adapters[1].settings, Some(settings("198.51.100.5/24")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_while_a_cycle_runs_or_the_replica_is_away_arrives_with_the_next_session() {
    let world = World::with_cards(&["lan"], true).await;
    world.write("a", 0, b"something to send");
    let job = world.held_cycle(0).await;
    world.set(&world.a, vec![change(None, "192.0.2.5/24")]).await.expect("set");
    assert_eq!(world.network(&world.b).await.adapters[0].settings, None, "the session is in use");
    world.release();
    world.done(job).await;
    world.point().await;
    assert_eq!(world.network(&world.b).await.adapters[0].settings, Some(settings("192.0.2.5/24")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_is_told_at_the_start_and_a_revert_takes_it_away() {
    let world = World::with_cards(&["lan"], true).await;
    world.set(&world.a, vec![change(None, "192.0.2.5/24")]).await.expect("set");
    world.fails_over_and_starts().await;
    let applied = world.applied(ApplyState::Applied).await.applied.expect("applied");
    assert_eq!(applied.way, Some(ApplyWay::GuestAgent));
    let told = world.b.fake.guest_network(world.vm);
    assert_eq!(told["lan"], settings("192.0.2.5/24"));
    assert_eq!(world.seed().await, None);
    // What the guest has is not given to it again.
    world.stop_and_start().await;
    assert_eq!(world.b.fake.faults().calls(Op::Network), 1);
    world.reverts().await;
    let view = world.network(&world.b).await;
    assert_eq!(view.applied, None);
    assert_eq!(view.adapters[0].settings, Some(settings("192.0.2.5/24")), "for the next failover");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_without_a_channel_gets_a_disk_that_goes_with_the_revert_and_stays_with_the_commit() {
    let world = World::with_cards(&["lan"], false).await;
    world.set(&world.b, vec![change(None, "192.0.2.5/24")]).await.expect("set");
    world.fails_over_and_starts().await;
    let applied = world.applied(ApplyState::Offered).await.applied.expect("applied");
    assert_eq!(applied.way, Some(ApplyWay::CloudInit));
    let first = world.seed().await.expect("a disk");
    let image = std::fs::read(&first).expect("its image");
    assert!(image.windows(6).any(|bytes| bytes == b"cidata"));
    // A start with the same settings hands over the same instance; changed ones are a new one.
    world.stop_and_start().await;
    assert_eq!(std::fs::read(&first).expect("its image"), image);
    world.set(&world.b, vec![change(None, "192.0.2.6/24")]).await.expect("set");
    world.stop_and_start().await;
    assert_ne!(std::fs::read(&first).expect("its image"), image);
    world.reverts().await;
    assert!(!first.exists(), "the image goes with the overlay");
    world.fails_over_and_starts().await;
    world.applied(ApplyState::Offered).await;
    let second = world.seed().await.expect("a disk");
    let vm = world.vm;
    let begun = world.b.call(move |engine| async move { engine.commit(vm).await }).await;
    world.done_on_replica(begun.expect("begun")).await;
    assert!(second.exists(), "a commit keeps what the VM stands on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_agent_keeps_nothing_from_running_and_the_next_start_uses_the_disk() {
    let mut world = World::with_cards(&["lan"], true).await;
    world.set(&world.a, vec![change(None, "192.0.2.5/24")]).await.expect("set");
    world.b.networks.agent_patience = Duration::from_millis(50);
    world.b.restart_behind(&world.link, End::Stop).await;
    world.b.fake.faults().silence_agents(true);
    world.fails_over_and_starts().await;
    let applied = world.applied(ApplyState::Failed).await.applied.expect("failed");
    assert!(applied.message.contains("did not answer within"), "{}", applied.message);
    let error = world.b.status(world.vm).await.last_error.expect("it is said");
    assert!(error.message.contains("network settings") && error.remedy.contains("standin network web"));
    assert_eq!(world.seed().await, None);
    world.stop_and_start().await;
    world.applied(ApplyState::Offered).await;
    assert!(world.seed().await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_the_guest_refused_are_tried_again_at_the_next_start() {
    let world = World::with_cards(&["lan"], true).await;
    world.set(&world.a, vec![change(None, "192.0.2.5/24")]).await.expect("set");
    world.b.fake.faults().fail_next(Op::Network);
    world.fails_over_and_starts().await;
    world.applied(ApplyState::Failed).await;
    assert_eq!(world.b.state(world.vm), S::Recovered);
    world.stop_and_start().await;
    world.applied(ApplyState::Applied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_being_asked_when_the_daemon_died_is_asked_again() {
    let mut world = World::with_cards(&["lan"], true).await;
    world.set(&world.a, vec![change(None, "192.0.2.5/24")]).await.expect("set");
    world.b.fake.faults().stall(Op::Network, 0);
    world.fails_over_and_starts().await;
    world.b.fake.faults().stalled(Op::Network).await;
    world.b.kill().await;
    world.b.fake.faults().release(Op::Network);
    world.b.start().await;
    world.applied(ApplyState::Applied).await;
    assert_eq!(world.b.fake.guest_network(world.vm)["lan"], settings("192.0.2.5/24"));
}

#[tokio::test(flavor = "multi_thread")]
async fn cards_are_connected_to_what_stands_for_their_network_here() {
    let mut world = World::with_cards(&["lan"], true).await;
    world.b.networks.map = NetworkMap::parse([("br-prod", "br-dr")]).expect("a map");
    world.b.restart_behind(&world.link, End::Stop).await;
    let card = world.network(&world.b).await.adapters.remove(0);
    assert_eq!(card.network.as_deref(), Some("bridge:br-prod"));
    assert_eq!(card.failover_network.as_deref(), Some("bridge:br-dr"));
    world.fails_over_and_starts().await;
    let definition = world.b.fake.inspect(world.vm).await.expect("defined").definition;
    assert_eq!(definition.nics[0].kind.to_string(), "bridge:br-dr");
    let card = world.network(&world.b).await.adapters.remove(0);
    assert_eq!(card.network.as_deref(), Some("bridge:br-dr"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_without_settings_asks_no_agent_and_makes_no_disk() {
    let world = World::with_cards(&["lan"], true).await;
    world.fails_over_and_starts().await;
    assert_eq!(world.b.fake.faults().calls(Op::Network), 0);
    assert_eq!(world.seed().await, None);
    assert_eq!(world.network(&world.b).await.applied, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_and_nothing_is_kept_of_it() {
    let world = World::with_cards(&["lan", "dmz"], true).await;
    let none = NetworkChange { adapter: Some("lan".into()), settings: Some(AdapterSettings::default()) };
    for (changes, says) in [
        (vec![change(None, "192.0.2.5/24")], "2 network cards"),
        (vec![change(Some("eth9"), "192.0.2.5/24")], "eth9"),
        (vec![change(Some("lan"), "192.0.2.5/24"), none], "no address"),
    ] {
        for host in [&world.a, &world.b] {
            let refusal = refused(world.set(host, changes.clone()).await, ReturnCode::InvalidParameter);
            assert!(refusal.message.contains(says), "{refusal}");
            assert!(world.network(host).await.adapters.iter().all(|card| card.settings.is_none()));
        }
    }
    let other = world.a.fake.add_vm("plain", &[]);
    let asked = world.a.call(move |engine| async move { engine.network(other).await }).await;
    refused(asked, ReturnCode::InvalidState);
    // By hardware address and by id as well as by name.
    let card = world.network(&world.a).await.adapters.remove(1);
    let mac = card.mac.expect("an address").to_string();
    let view = world.set(&world.a, vec![change(Some(&mac), "192.0.2.7/24")]).await.expect("set");
    assert_eq!(view.adapters[1].settings, Some(settings("192.0.2.7/24")));
    let id = card.id.to_string();
    let view = world.set(&world.a, vec![change(Some(&id), "192.0.2.8/24")]).await.expect("set");
    assert_eq!(view.adapters[1].settings, Some(settings("192.0.2.8/24")));
    let record = world.a.engine().primary(world.vm).expect("a primary").snapshot().record;
    assert_eq!(record.network, NetworkSettings([("dmz".to_owned(), settings("192.0.2.8/24"))].into()));
}

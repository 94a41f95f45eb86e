//! An authorization entry is removed and added again: the replica is bound to its primary's host, not to the entry.

use super::has;
use crate::host::End;
use crate::names::another;
use crate::world::{SIZE_A, SIZE_B, World, disk, keep_all, refused};
use standin_engine::Command;
use standin_hypervisor::{DiskDefinition, DiskFormat, Hypervisor, VmDefinition};
use standin_model::state::ReplicationState as S;
use standin_model::{AuthId, ReturnCode};

impl World {
    async fn remove_entries(&self) {
        for entry in self.b.engine().replicas().entries() {
            let id = entry.id;
            let removed = self.b.call(move |engine| async move { engine.replicas().remove_entry(id).await });
            removed.await.expect("removed");
        }
    }

    fn bound_to(&self) -> AuthId {
        self.b.engine().replicas().find(self.vm).expect("a replica").snapshot().auth
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_was_removed_and_added_again_lets_replication_go_on() {
    for restart in [None, Some("a"), Some("b")] {
        let mut world = World::replicating(keep_all()).await;
        let history = world.history(3).await;
        world.remove_entries().await;
        has(&world.says(&world.b, "no authorization entry").await, &["standin auth add primary.example.org"]);
        let job = world.order_point().await;
        assert_eq!(world.a.job(job).await.return_code, Some(ReturnCode::AccessDenied));
        has(&world.says(&world.a, "not authorised").await, &["standin auth add"]);
        match restart {
            Some("a") => world.a.restart(End::Kill).await,
            Some(_) => world.b.restart_behind(&world.link, End::Kill).await,
            None => {}
        }
        let read = world.a.fake.bytes_read();
        let entry = world.b.admit("primary.example.org", "another group").await;
        world.goes_on().await;
        assert_eq!(world.bound_to(), entry);
        assert!(!world.was_compared(), "what changed was known");
        assert!(world.a.fake.bytes_read() - read < 1 << 20, "the disks were read again");
        world.all_fail_over(&history).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_does_not_take_a_replica_over_because_its_entry_is_gone() {
    let world = World::replicating(keep_all()).await;
    world.remove_entries().await;
    let mut second = another(&world, "second");
    second.start().await;
    world.b.admit("second.example.org", "one").await;
    let (vm, peer) = (world.vm, world.link.address());
    let mut definition = VmDefinition::new(crate::names::name("web"), 256);
    definition.uuid = vm;
    for (name, size) in [("a", SIZE_A), ("b", SIZE_B)] {
        let file = world.root().join(format!("copy-of-{name}"));
        std::fs::File::create(&file).and_then(|file| file.set_len(size)).expect("made");
        definition.disks.push(DiskDefinition::new(disk(name), file, DiskFormat::Raw));
    }
    second.fake.define(definition).await.expect("defined");
    let enable = standin_engine::Enable { peer, settings: keep_all(), start: true };
    let refusal = second.call(move |engine| async move { engine.enable(vm, enable).await }).await;
    let refusal = refused(refusal, ReturnCode::InUse);
    has(&refusal.message, &["belongs to primary.example.org"]);
    has(&refusal.remedy, &["standin peer rebind", &second.id().to_string(), "standin unreplicate"]);
    assert!(world.is(&world.b, S::Replicating));
    refused(world.b.ask(vm, Command::Point { application: false }).await, ReturnCode::InvalidState);
}

//! A host gets another certificate, another name, another address: its id is what it is known by.

use super::has;
use crate::host::End;
use crate::world::{World, keep_all, refused, write_identity};
use standin_engine::NowKnownAs;
use standin_model::health::Health;
use standin_model::{HostId, ReturnCode};
use standin_wire::{Identity, PkiDir};

impl World {
    /// A new certificate of the authority.
    fn issue(&self, host: &str) -> Identity {
        let pki = PkiDir::new(self.root().join("pki"));
        let names = [format!("{host}.example.org"), "localhost".into(), "127.0.0.1".into()];
        let issued = pki.issue(&names, 30).expect("a certificate");
        let dir = self.root().join(format!("renewed-{host}"));
        write_identity(&dir, &issued.certificate, issued.key.as_str(), &pki.identity_files().trust)
    }
}

fn now(name: &str) -> NowKnownAs {
    NowKnownAs::from(format!("{name}.example.org"))
}

#[tokio::test(flavor = "multi_thread")]
async fn new_certificates_of_the_same_names_change_nothing() {
    let mut world = World::replicating(keep_all()).await;
    let history = world.history(2).await;
    let (a, b) = (world.issue("primary"), world.issue("replica"));
    world.a.certificate(a);
    world.a.restart(End::Stop).await;
    world.b.certificate(b);
    world.b.restart_behind(&world.link, End::Stop).await;
    world.goes_on().await;
    assert!(!world.was_compared());
    world.all_fail_over(&history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_with_another_name_is_told_what_to_do_and_goes_on() {
    let mut world = World::replicating(keep_all()).await;
    let history = world.history(2).await;
    let renamed = world.issue("primary2");
    world.a.certificate(renamed);
    world.a.restart(End::Stop).await;
    let id = world.a.id();
    let rebind = format!("standin peer rebind {id} primary2.example.org");
    let add = "standin auth add primary2.example.org";
    let job = world.order_point().await;
    assert_eq!(world.a.job(job).await.return_code, Some(ReturnCode::AccessDenied));
    has(&world.says(&world.a, "presents the host id").await, &[&rebind, add]);
    has(&world.says(&world.b, "presents the host id").await, &[&rebind, add]);
    let told = world.b.call(move |engine| async move { engine.rebind_host(id, now("primary2")).await });
    told.await.expect("rebound");
    has(&world.says(&world.a, "not authorised").await, &["standin auth add"]);
    world.b.admit("primary2.example.org", "two").await;
    world.goes_on().await;
    assert_eq!(world.b.status(world.vm).await.peer.as_deref(), Some("primary2.example.org"));
    assert!(!world.was_compared());
    world.all_fail_over(&history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_host_with_another_name_is_told_of_and_goes_on() {
    let mut world = World::replicating(keep_all()).await;
    let history = world.history(2).await;
    let renamed = world.issue("replica2");
    world.b.certificate(renamed);
    world.b.restart_behind(&world.link, End::Stop).await;
    let id: HostId = world.b.id();
    let job = world.order_point().await;
    assert_eq!(world.a.job(job).await.return_code, Some(ReturnCode::AccessDenied));
    let remedy = world.says(&world.a, "presents the host id").await;
    has(&remedy, &[&format!("standin peer rebind {id} replica2.example.org")]);
    assert_eq!(world.a.status(world.vm).await.health, Health::Critical);
    let told = world.a.call(move |engine| async move { engine.rebind_host(id, now("replica2")).await });
    told.await.expect("rebound");
    world.goes_on().await;
    assert!(!world.was_compared());
    world.all_fail_over(&history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_with_another_address_and_without_its_database_goes_on() {
    let mut world = World::replicating(keep_all()).await;
    let history = world.history(2).await;
    world.b_has_lost_its_database().await;
    world.link.cut();
    let link = world.another_address().await;
    let refusal = refused(world.moves(&link.address()).await, ReturnCode::AccessDenied);
    has(&refusal.remedy, &["standin auth add"]);
    world.b.admit("primary.example.org", "anew").await;
    world.moves(&link.address()).await.expect("moved");
    world.goes_on().await;
    world.all_fail_over(&history).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_without_its_database_finds_a_replica_that_has_another_address() {
    let mut world = World::replicating(keep_all()).await;
    let history = world.history(2).await;
    world.a_has_lost_its_database().await;
    world.link.cut();
    let link = world.another_address().await;
    let enabled = world.replicate_to(link.address()).await.expect("found");
    assert_eq!(enabled.found, Some(world.points().len() as u64));
    world.done(enabled.job.expect("a job")).await;
    world.goes_on().await;
    world.all_fail_over(&history).await;
}

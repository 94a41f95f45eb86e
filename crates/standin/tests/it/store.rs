//! `standin store`: what is asked of the service, what people and programs read, and what is asked of people.

use crate::scripted::Scripted;
use crate::world::World;

#[tokio::test]
async fn the_list_shows_what_was_kept_and_what_can_be_done_with_it() {
    let world = World::new(Scripted::default());
    let ran = world.run("store list").await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    for word in ["web", "kept", "alpha.example.org", "12", "/srv/replicas/web.kept-17", "standin store adopt"]
    {
        assert!(ran.stdout.contains(word), "{word:?} is missing in {}", ran.stdout);
    }
    let found = &world.run("store list --json").await.json()[0];
    assert_eq!((&found["kind"], &found["points"]), (&"kept".into(), &12.into()));
    assert_eq!(found["size_bytes"], 3 << 20);
}

#[tokio::test]
async fn a_directory_is_adopted_by_its_path_and_deleted_only_when_somebody_says_so() {
    let world = World::new(Scripted::default());
    let ran = world.run("store adopt /srv/replicas/web.kept-17").await;
    assert!(ran.status == 0 && ran.stdout.contains("standin points web"), "{}{}", ran.stdout, ran.stderr);
    let ran = world.run("store remove /srv/replicas/web.kept-17").await;
    assert!(ran.status == 2 && ran.stderr.contains("--yes"), "{}", ran.stderr);
    let ran = world.run("store remove /srv/replicas/web.kept-17 --yes").await;
    assert!(ran.status == 0 && ran.stdout.contains("is deleted"), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(
        world.service.asked(),
        ["adopt /srv/replicas/web.kept-17", "remove /srv/replicas/web.kept-17"]
    );
}

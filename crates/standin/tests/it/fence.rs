//! What the command line says of who may run a VM, and how that is set.

use crate::scripted::{Scripted, point_ids};
use crate::world::World;

#[tokio::test]
async fn status_says_what_each_host_does_when_the_other_one_is_silent() {
    let world = World::new(Scripted::default());
    let ran = world.run("status web").await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let line = |text: &str| ran.stdout.lines().any(|line| line.contains(text));
    assert!(line("when another host is silent") && line("refuse (set for this VM)"), "{}", ran.stdout);
    assert!(line("alpha has start-after 2m (as of "), "{}", ran.stdout);
    assert!(line("gamma:28444: answers for alpha"), "{}", ran.stdout);
    let json = world.run("status web --json").await.json();
    assert_eq!(json["fence"]["hosts"][0]["when_peer_is_silent"], "start-after 2m");
    assert_eq!(json["fence"]["hosts"][0]["role"], "source");
}

#[tokio::test]
async fn a_dry_run_says_what_a_failover_would_meet_and_asks_for_none() {
    let world = World::new(Scripted::default());
    let ran = world.run("failover web --dry-run").await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    for text in ["alpha", "nothing", "start-after 2m", "would not be started", "--yes"] {
        assert!(ran.stdout.contains(text), "{text}: {}", ran.stdout);
    }
    let json = world.run("failover web --dry-run --point 2 --json").await.json();
    assert_eq!(
        (&json["primary_says"], &json["point"]),
        (&"silent".into(), &point_ids()[1].to_string().into())
    );
    assert_eq!(json["refusal"]["remedy"], "Repeat this with `--yes`.");
    let asked = world.service.asked();
    assert!(asked.iter().all(|asked| !asked.starts_with("failover")), "{asked:?}");
    for wrong in ["--dry-run --yes", "--dry-run --commit", "--dry-run --keep here"] {
        assert_eq!(world.run(&format!("failover web {wrong}")).await.status, 2, "{wrong}");
    }
}

#[tokio::test]
async fn a_point_is_pinned_and_unpinned_by_its_epoch_or_id() {
    let world = World::new(Scripted::default());
    for (option, asked) in [
        ("--pin 2", format!("pin web {} true", point_ids()[1])),
        ("--unpin bbbb0000", format!("pin web {} false", point_ids()[2])),
    ] {
        let ran = world.run(&format!("points web {option}")).await;
        assert_eq!(ran.status, 0, "{option}: {}", ran.stderr);
        assert!(ran.stdout.contains("PINNED"), "{}", ran.stdout);
        assert!(world.service.asked().contains(&asked), "{:?}", world.service.asked());
    }
    assert_eq!(world.run("points web --pin latest").await.status, 3, "it is another one in a moment");
    assert_eq!(world.run("points web --pin 2 --unpin 2").await.status, 2);
}

#[tokio::test]
async fn what_silence_means_is_set_for_one_vm() {
    let world = World::new(Scripted::default());
    let shown = world.run("set web").await.stdout;
    assert!(shown.contains("refuse (set for this host)"), "{shown}");
    for (option, asked) in
        [("refuse", "refuse"), ("start-after=2m", ""), ("default", "default"), ("start-after", "")]
    {
        let ran = world.run(&format!("set web --when-peer-is-silent {option}")).await;
        match asked {
            "" => assert_eq!(ran.status, 3, "{option}: {}", ran.stderr),
            asked => {
                let sent = world.service.asked().pop().expect("it was asked");
                assert!(sent.starts_with(&format!("modify web None {asked}: ")), "{sent}");
            }
        }
    }
    let mut command = world.command("set web --when-peer-is-silent");
    command.arg("start-after 2m");
    assert_eq!(crate::world::ran(command).await.status, 0);
    let sent = world.service.asked().pop().expect("it was asked");
    assert!(sent.starts_with("modify web None start-after 2m: "), "{sent}");
}

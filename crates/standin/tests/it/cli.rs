//! Verbs that answer at once: what is asked of the service, what is printed, how it ends.

use crate::scripted::{Scripted, point_ids, vm_id};
use crate::world::{World, binary, ran};
use standin_model::{Refusal, ReturnCode};

#[tokio::test]
async fn without_a_daemon_every_verb_says_so_and_ends_with_5() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("web.toml");
    std::fs::write(&file, "name = 'web'\nmemory_mib = 64\n").unwrap();
    let define = format!("vm define {}", file.display());
    for line in
        ["status", "vm list", "jobs", "points web", "failover web", "store check", "auth list", &define]
    {
        let mut command = binary();
        command.arg("--socket").arg(dir.path().join("none.sock")).args(line.split_whitespace());
        let ran = ran(command).await;
        assert_eq!(ran.status, 5, "{line}: {}", ran.stderr);
        assert!(ran.stderr.contains("none.sock") && ran.stderr.contains("standin serve"), "{}", ran.stderr);
        assert_eq!(ran.stdout, "", "{line}");
    }
}

#[tokio::test]
async fn a_wrong_command_line_ends_with_2_and_help_with_0() {
    for line in ["", "frobnicate", "replicate web", "failover web --revert --commit", "vm stop"] {
        let mut command = binary();
        command.args(line.split_whitespace());
        assert_eq!(ran(command).await.status, 2, "{line:?}");
    }
    for line in ["--help", "replicate --help", "failover --help", "--version"] {
        let mut command = binary();
        command.args(line.split_whitespace());
        let ran = ran(command).await;
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{line:?}");
        assert!(!ran.stdout.is_empty());
    }
}

#[tokio::test]
async fn a_refusal_ends_with_3_and_shows_the_code_and_the_remedy() {
    let refusal = Refusal::told(
        ReturnCode::InvalidState,
        "replicates_already",
        "web replicates already",
        "Remove that first.",
    );
    let world = World::new(Scripted { refuse: Some(refusal), ..Scripted::default() });
    for line in
        ["replicate web --to b", "suspend web", "failover web", "point web", "vm start web", "resync web"]
    {
        let ran = world.run(line).await;
        assert_eq!(ran.status, 3, "{line}");
        assert_eq!(
            ran.stderr, "refused (32775): web replicates already\nwhat to do: Remove that first.\n",
            "{line}"
        );
        assert_eq!(ran.stdout, "", "{line}");
    }
    let ran = world.run("suspend web --json").await;
    assert_eq!(ran.status, 3);
    assert_eq!(ran.json()["return_code"], 32775);
    assert_eq!(ran.json()["reason"], "replicates_already");
    assert_eq!(ran.json()["remedy"], "Remove that first.");
}

#[tokio::test]
async fn an_unknown_vm_is_refused_with_32779() {
    let world = World::new(Scripted::default());
    let ran = world.run("status nobody").await;
    assert_eq!(ran.status, 3);
    assert!(ran.stderr.starts_with("refused (32779): there is no VM nobody"), "{}", ran.stderr);
}

#[tokio::test]
async fn names_that_could_become_paths_never_reach_the_service() {
    let world = World::new(Scripted::default());
    let long = "x".repeat(300);
    for name in ["../../etc", "a/b", "..", ".", "a\tb", &long, "web?x=1", "%2e%2e"] {
        for verb in ["suspend", "unreplicate", "failover"] {
            let mut command = world.command("");
            command.args([verb, name]);
            let ran = ran(command).await;
            assert_eq!(ran.status, 3, "{verb} {name:?}: {} {}", ran.stdout, ran.stderr);
            assert!(ran.stderr.starts_with("refused (32773)"), "{verb} {name:?}: {}", ran.stderr);
        }
    }
    assert_eq!(world.service.asked(), [""; 0]);
}

#[tokio::test]
async fn status_has_the_promised_fields() {
    let world = World::new(Scripted::default());
    let all = world.run("status --json").await.json();
    let one = world.run("status web --json").await.json();
    assert_eq!(all[0], one);
    for field in [
        "vm",
        "primary_name",
        "id",
        "mode",
        "state",
        "state_code",
        "health",
        "peer",
        "interval_s",
        "last_point_at",
        "lag_s",
        "pending_bytes",
        "last_error",
    ] {
        assert!(one.get(field).is_some(), "{field} is missing in {one}");
    }
    assert_eq!((&one["state"], &one["state_code"]), (&"replicating".into(), &3.into()));
    let text = world.run("status").await.stdout;
    assert!(text.contains("web") && text.contains("64.0 KiB") && text.contains("12s"), "{text}");
    assert!(!text.contains('\u{1b}'), "colours without a terminal");
}

#[tokio::test]
async fn points_are_shown_newest_first_with_the_promised_fields() {
    let world = World::new(Scripted::default());
    let points = world.run("points web --json").await.json();
    let epochs: Vec<_> =
        points.as_array().unwrap().iter().map(|point| point["epoch"].as_u64().unwrap()).collect();
    assert_eq!(epochs, [3, 2, 1]);
    for field in
        ["vm", "primary_name", "id", "epoch", "created_at", "kind", "changed_bytes", "stored_bytes", "digest"]
    {
        assert!(points[0].get(field).is_some(), "{field} is missing");
    }
    let text = world.run("points web").await.stdout;
    assert!(text.contains("2023-11-14 22:14:50") && text.contains("ago"), "{text}");
    assert!(text.starts_with("web, on its primary shop\n"), "{text}");
}

#[tokio::test]
async fn a_point_is_named_by_id_prefix_epoch_or_latest() {
    let world = World::new(Scripted::default());
    let [first, second, third] = point_ids();
    let cases = [
        ("--point latest".to_owned(), "latest".to_owned()),
        (String::new(), "latest".to_owned()),
        ("--point 2".to_owned(), second.to_string()),
        ("--point bbbb".to_owned(), third.to_string()),
        (format!("--point {first}"), first.to_string()),
    ];
    for (option, _) in &cases {
        let ran = world.run(&format!("failover web {option} --no-wait")).await;
        assert_eq!(ran.status, 0, "{option}: {}", ran.stderr);
    }
    let expected: Vec<_> = cases.iter().map(|(_, point)| format!("failover web {point} false")).collect();
    assert_eq!(world.service.asked(), expected);
    for (option, code) in [("aaaa", 32773), ("9", 32779), ("cccc", 32779), ("bb", 32773), ("no-such", 32779)]
    {
        let ran = world.run(&format!("failover web --point {option}")).await;
        assert_eq!(ran.status, 3, "{option}");
        assert!(ran.stderr.starts_with(&format!("refused ({code})")), "{option}: {}", ran.stderr);
    }
    assert_eq!(world.service.asked().len(), cases.len());
}

#[tokio::test]
async fn a_definition_keeps_the_identity_and_its_paths_count_from_the_file() {
    let world = World::new(Scripted::default());
    let sub = world.dir.path().join("a dir");
    std::fs::create_dir(&sub).unwrap();
    std::fs::write(sub.join("web.toml"), "name = 'web'\nmemory_mib = 64\nkernel = 'vmlinuz'\n").unwrap();
    let mut command = world.command("vm define");
    command.arg("a dir/web.toml");
    let ran = ran(command).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let kernel = sub.join("vmlinuz").display().to_string();
    assert_eq!(world.service.asked(), [format!("define web {} Some({kernel:?})", vm_id())]);
}

#[tokio::test]
async fn a_definition_that_is_wrong_is_refused_and_one_that_is_missing_is_a_usage_error() {
    let world = World::new(Scripted::default());
    std::fs::write(world.dir.path().join("bad.toml"), "name = 'web'\nmemory_mib = 64\ncpus = 2\n").unwrap();
    let ran = world.run("vm define bad.toml").await;
    assert_eq!(ran.status, 3);
    assert!(ran.stderr.contains("32773") && ran.stderr.contains("cpus"), "{}", ran.stderr);
    assert_eq!(world.run("vm define missing.toml").await.status, 2);
    assert_eq!(world.run("vm define .").await.status, 2);
    assert_eq!(world.service.asked(), [""; 0]);
}

#[tokio::test]
async fn replicate_asks_for_what_was_typed_and_the_daemon_fills_in_the_rest() {
    let world = World::new(Scripted::default());
    let line = "replicate web --to b:7 --interval 5s --history 24 --disks root,data --no-start --no-compression \
                --granularity 4KiB --application-consistent-hours 2 --no-wait";
    assert_eq!(world.run(line).await.status, 0);
    let asked = world.service.asked().remove(0);
    for part in [
        "host: \"b\", port: 7",
        "start: false",
        "interval_s: 5,",
        "history: 24",
        "application_consistent_hours: 2",
        "compression: false",
        "granularity: 4096",
        "root",
        "data",
        "scratch_reserve: 4242",
    ] {
        assert!(asked.contains(part), "{part} is missing in {asked}");
    }
    for wrong in ["--interval 2d", "--interval 0", "--history 25", "--granularity 5000", "--disks a,../b"] {
        let ran = world.run(&format!("replicate web --to b {wrong}")).await;
        assert_eq!(ran.status, 3, "{wrong}");
        assert!(
            ran.stderr.starts_with("refused (32773)") && ran.stderr.contains("what to do"),
            "{}",
            ran.stderr
        );
    }
    assert_eq!(world.service.asked().len(), 1);
}

#[tokio::test]
async fn hosts_are_let_in_and_out_again() {
    let world = World::new(Scripted::default());
    let ran = world.run("auth add *.example.org --trust-group lab --storage here --json").await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let here = world.dir.path().join("here").display().to_string();
    assert_eq!(ran.json()["storage_location"], here);
    assert_eq!(world.run("auth list --json").await.json()[0]["allowed_primary"], "*");
    assert_eq!(world.run("auth remove 6f2c").await.status, 0);
    assert_eq!(world.run("auth remove *").await.stdout, "the entry * is removed\n");
    assert_eq!(
        world.service.asked()[1..],
        [format!("auth_remove {}", vm_id()), format!("auth_remove {}", vm_id())]
    );
    for unknown in ["7777", "*.example.org", "6f2"] {
        let ran = world.run(&format!("auth remove {unknown}")).await;
        assert_eq!(ran.status, 3);
        assert!(ran.stderr.contains(&format!("there is * ({})", vm_id())), "{}", ran.stderr);
    }
    assert_eq!(world.service.asked().len(), 3);
}

#[tokio::test]
async fn set_without_options_shows_what_was_agreed() {
    let world = World::new(Scripted::default());
    let ran = world.run("set web").await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    for part in ["replica:28444", "30s", "24", "1h 00m", "every 4h", "on", "4.00 KiB"] {
        assert!(ran.stdout.contains(part), "{part:?} is missing in\n{}", ran.stdout);
    }
    let json = world.run("set web --json").await.json();
    assert_eq!((&json["interval_s"], &json["keep_all_for_s"]), (&30.into(), &3600.into()));
    assert_eq!(world.service.asked(), ["settings web", "settings web"]);
}

#[tokio::test]
async fn set_sends_what_was_typed_and_leaves_the_rest() {
    let world = World::new(Scripted::default());
    let sent = async |options: &str| {
        let ran = world.run(&format!("set web {options}")).await;
        assert_eq!(ran.status, 0, "{options}: {}", ran.stderr);
        let asked = world.service.asked().pop().expect("it was asked");
        let (peer, settings) =
            asked.strip_prefix("modify web ").and_then(|text| text.split_once(": ")).unwrap();
        let mut settings: serde_json::Value = serde_json::from_str(settings).unwrap();
        settings.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        (peer.to_owned(), settings)
    };
    let (peer, settings) = sent("--to 192.0.2.8").await;
    assert_eq!((peer.as_str(), settings), ("Some(\"192.0.2.8:28444\")", serde_json::json!({})));
    let (peer, settings) = sent("--interval 5m --history 0 --keep-all-for 0s --compression off").await;
    let wanted =
        serde_json::json!({ "interval_s": 300, "history": 0, "keep_all_for_s": 0, "compression": false });
    assert_eq!((peer.as_str(), settings), ("None", wanted));
    let line =
        "--auto-resync on --freeze-deadline 20s --scratch-reserve 2GiB --application-consistent-hours 2";
    let wanted = serde_json::json!({ "auto_resync": true, "freeze_deadline_s": 20,
        "scratch_reserve": 2_u64 << 30, "application_consistent_hours": 2 });
    assert_eq!(sent(line).await.1, wanted);
    let (_, settings) = sent("--disks root --granularity 64KiB").await;
    assert_eq!(settings, serde_json::json!({ "disks": ["root"], "granularity": 65536 }));
    let asked = world.service.asked().len();
    for wrong in ["--to b:0", "--disks a/b"] {
        let ran = world.run(&format!("set web {wrong}")).await;
        assert!(ran.status == 3 && ran.stderr.starts_with("refused (32773)"), "{wrong}: {}", ran.stderr);
    }
    assert_eq!(world.service.asked().len(), asked);
}

#[tokio::test]
async fn rename_shows_the_name_here_and_that_on_the_primary() {
    let world = World::new(Scripted::default());
    let ran = world.run("rename web web-2").await;
    assert_eq!(ran.stdout, "web is called web-2 on this host; on its primary it is web\n", "{}", ran.stderr);
    let json = world.run("rename web web-2 --json").await.json();
    assert_eq!((&json["vm"], &json["primary_name"]), (&"web-2".into(), &"web".into()));
    let ran = world.run("rename web ../etc").await;
    assert!(ran.status == 3 && ran.stderr.starts_with("refused (32773)"), "{}", ran.stderr);
    assert_eq!(world.service.asked(), ["rename web web-2", "rename web web-2"]);
}

#[tokio::test]
async fn vms_are_listed_shown_started_stopped_adopted_and_removed() {
    let world = World::new(Scripted::default());
    assert_eq!(world.run("vm list --json").await.json()[0]["vm"], "web");
    let by_id = world.run(&format!("vm show {} --json", vm_id())).await;
    assert_eq!(by_id.json()["id"], vm_id().to_string());
    assert!(world.run("vm show web").await.stdout.contains("tcg: the probe guest did not run"));
    assert_eq!(world.run("vm start web").await.stdout, "web runs by tcg: the probe guest did not run\n");
    assert_eq!(world.run("vm stop web --timeout 2m").await.stdout, "web is off\n");
    assert_eq!(world.run("vm stop web --force").await.status, 0);
    assert_eq!(world.run("vm adopt --qmp q.sock --name other").await.status, 0);
    assert_eq!(world.run("vm remove web --json").await.json()["return_code"], 0);
    let socket = world.dir.path().join("q.sock").display().to_string();
    let asked: Vec<_> = world.service.asked().into_iter().filter(|what| what != "stopped").collect();
    assert_eq!(
        asked,
        [
            "start web".to_owned(),
            "stop web false 120s".to_owned(),
            "stop web true 60s".to_owned(),
            format!("adopt {socket} Some(VmName(\"other\"))"),
            "remove web".to_owned(),
        ]
    );
}

#[tokio::test]
async fn network_shows_the_cards_and_sends_a_change_as_it_was_typed() {
    let world = World::new(Scripted::default());
    let ran = world.run("network web").await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    for part in [
        "lan",
        "52:54:00:12:34:56",
        "bridge:br-prod, here bridge:br-dr",
        "192.0.2.5/24",
        "on the primary",
        "as it is",
        "lan: gateways 192.0.2.1",
        "applied: ens3 of the guest has the settings of lan, by ifupdown",
    ] {
        assert!(ran.stdout.contains(part), "{part:?} is missing in\n{}", ran.stdout);
    }
    let set = "network web --adapter lan --address 192.0.2.7/255.255.255.0 --gateway 192.0.2.1 --json";
    assert_eq!(world.run(set).await.json()["adapters"][1]["settings"], serde_json::Value::Null);
    assert_eq!(world.run("network web --adapter lan --clear").await.status, 0);
    let asked = world.service.asked();
    assert_eq!(asked[0], "network web");
    let (what, changes) = asked[1].split_once(": ").unwrap();
    assert_eq!(what, "set network web");
    let changes: serde_json::Value = serde_json::from_str(changes).unwrap();
    let settings = serde_json::json!({ "dhcp4": false, "dhcp6": false, "addresses": ["192.0.2.7/24"],
        "gateways": ["192.0.2.1"], "dns": [] });
    assert_eq!(changes, serde_json::json!([{ "adapter": "lan", "settings": settings }]));
    assert_eq!(asked[2], r#"set network web: [{"adapter":"lan","settings":null}]"#);
    let ran = world.run("network web --gateway 192.0.2.1").await;
    assert_eq!((ran.status, world.service.asked().len()), (3, 3), "{}", ran.stderr);
    assert!(ran.stderr.contains("what to do: "), "{}", ran.stderr);
}

//! Verbs that start a job: waiting, progress, failure, Ctrl-C, a daemon that restarts.

use crate::scripted::{Plan, Scripted};
use crate::world::{Ran, World, ran};
use standin_model::{JobType, Refusal, ReturnCode};
use std::process::Stdio;
use std::time::Duration;

fn failing() -> Scripted {
    let refusal = Refusal::told(
        ReturnCode::NotAvailable,
        "link_failed",
        "replica cannot be reached",
        "Check the network.",
    );
    Scripted { plan: Plan::Fails(refusal), ..Scripted::default() }
}

#[tokio::test]
async fn a_verb_waits_for_its_job_and_shows_its_progress() {
    let world = World::new(Scripted::default());
    let ran = world.run("replicate web --to b").await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("web replicates to b:28444"), "{}", ran.stdout);
    assert!(
        ran.stderr.contains("web: Start initial replication") && ran.stderr.contains('%'),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn a_replica_that_was_found_is_said_with_its_points() {
    for no_jobs in [false, true] {
        let world = World::new(Scripted { found_points: Some(12), no_jobs, ..Scripted::default() });
        let ran = world.run("replicate web --to b").await;
        let found = "found 12 recovery points of this VM on b:28444; comparing instead of copying";
        assert!(ran.status == 0 && ran.stderr.contains(found), "{}", ran.stderr);
        let ran = world.run("replicate web --to b --json").await;
        assert_eq!((ran.status, &ran.json()["found_points"]), (0, &serde_json::json!(12)));
        let ran = world.run("replicate web --to b --no-wait --json").await;
        assert_eq!((ran.status, &ran.json()["found_points"]), (0, &serde_json::json!(12)));
        let ran = world.run("resync web --json").await;
        assert_eq!(ran.json().get("found_points"), None, "{}", ran.stdout);
    }
}

#[tokio::test]
async fn a_copy_of_a_vm_that_is_off_is_not_waited_for_and_says_what_starts_it() {
    let world = World::new(Scripted { off: true, plan: Plan::Stays, ..Scripted::default() });
    for line in ["replicate web --to b", "resync web"] {
        let ran = world.run(line).await;
        assert_eq!(ran.status, 0, "{line}: {}", ran.stderr);
        assert!(
            ran.stdout.contains("web is off") && ran.stdout.contains("standin vm start web"),
            "{}",
            ran.stdout
        );
    }
    let ran = world.run("replicate web --to b --json").await;
    assert_eq!((ran.status, &ran.json()["return_code"]), (0, &serde_json::Value::Null));
}

#[tokio::test]
async fn with_json_the_job_is_printed_once_as_it_ended() {
    let world = World::new(Scripted::default());
    for line in [
        "replicate web --to b",
        "suspend web",
        "resume web",
        "unreplicate web",
        "point web",
        "failover web",
        "failover web --revert",
        "failover web --commit",
        "resync web",
    ] {
        let ran = world.run(&format!("{line} --json")).await;
        assert_eq!(ran.status, 0, "{line}: {}", ran.stderr);
        let job = ran.json();
        for field in ["id", "type_code", "state", "state_code", "percent", "return_code", "error"] {
            assert!(job.get(field).is_some(), "{line}: {field} is missing in {job}");
        }
        assert_eq!(
            (&job["state_code"], &job["percent"], &job["return_code"]),
            (&7.into(), &100.into(), &0.into())
        );
        assert_eq!(ran.stderr, "", "{line}");
    }
}

#[tokio::test]
async fn a_job_that_fails_ends_the_verb_with_4_the_reason_and_the_remedy() {
    let world = World::new(failing());
    let ran = world.run("point web").await;
    assert_eq!(ran.status, 4);
    assert!(ran.stderr.contains("(32777): replica cannot be reached"), "{}", ran.stderr);
    assert!(ran.stderr.ends_with("what to do: Check the network.\n"), "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
    let ran = world.run("point web --json").await;
    assert_eq!((ran.status, &ran.json()["state_code"]), (4, &10.into()));
    assert_eq!(ran.json()["error"], "replica cannot be reached");
}

#[tokio::test]
async fn no_wait_prints_the_job_and_returns_at_once() {
    let world = World::new(Scripted { plan: Plan::Stays, ..Scripted::default() });
    let ran = world.run("resync web --no-wait --json").await;
    assert_eq!(ran.status, 0);
    assert_eq!(ran.json()["state"], "running");
    let text = world.run("resync web --no-wait").await.stdout;
    assert!(text.contains("--watch"), "{text}");
}

#[tokio::test]
async fn what_is_done_at_once_needs_no_job() {
    let world = World::new(Scripted { no_jobs: true, ..Scripted::default() });
    assert_eq!(world.run("suspend web").await.stdout, "web: replication is paused\n");
    let json = world.run("suspend web --json").await.json();
    assert_eq!(json, serde_json::json!({ "return_code": 0 }));
}

#[tokio::test]
async fn jobs_are_listed_shown_cancelled_and_found_by_the_beginning_of_their_id() {
    let world = World::new(Scripted { plan: Plan::Stays, ..Scripted::default() });
    let id = world.service.job_now(JobType::SendDelta).id.to_string();
    assert_eq!(world.run("jobs --json").await.json()[0]["id"], id);
    assert!(world.run("jobs").await.stdout.contains(&id));
    let short = &id[..8];
    assert_eq!(world.run(&format!("jobs {short} --json")).await.json()["id"], id);
    assert_eq!(world.run(&format!("jobs cancel {short}")).await.status, 0);
    assert_eq!(world.service.asked(), [format!("cancel {id}")]);
    assert_eq!(world.run("jobs 00000000-0000-0000-0000-000000000000").await.status, 3);
    assert_eq!(world.run("jobs zzzz").await.status, 3);
}

#[tokio::test]
async fn a_watched_job_is_a_line_of_json_a_change_and_its_end_is_the_status() {
    let world = World::new(failing());
    let id = world.service.job_now(JobType::SendDelta).id;
    let ran = world.run(&format!("jobs {id} --watch --json")).await;
    assert_eq!(ran.status, 4);
    let lines: Vec<serde_json::Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() >= 2, "{lines:?}");
    assert_eq!(lines.last().unwrap()["state_code"], 10);
    let percents: Vec<_> = lines.iter().map(|line| line["percent"].as_u64().unwrap()).collect();
    assert!(percents.is_sorted(), "{percents:?}");
}

#[tokio::test]
async fn ctrl_c_while_waiting_leaves_the_job_running_and_says_how_to_find_it() {
    let world = World::new(Scripted { plan: Plan::Stays, ..Scripted::default() });
    let mut command = world.command("point web");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The job is there once the verb has asked for it; then it waits.
    while world.service.asked().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran: Ran = child.wait_with_output().await.unwrap().into();
    assert_eq!(ran.status, 130);
    assert!(ran.stderr.contains("the job goes on") && ran.stderr.contains("standin jobs "), "{}", ran.stderr);
    assert_eq!(world.service.asked(), ["point web false"], "it was cancelled");
}

#[tokio::test]
async fn a_daemon_that_restarts_while_a_verb_waits_does_not_end_the_wait() {
    let mut world = World::new(Scripted { plan: Plan::Stays, ..Scripted::default() });
    let child =
        world.command("point web --json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while world.service.asked().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.stop().await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    world.service.finish_all();
    world.serve();
    let ran: Ran = child.wait_with_output().await.unwrap().into();
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(ran.json()["state_code"], 7);
}

#[tokio::test]
async fn a_check_that_finds_damage_names_the_point_and_ends_with_4() {
    let good = World::new(Scripted::default());
    let ran = good.run("store check").await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("web: good"), "{}", ran.stdout);
    let bad = World::new(Scripted { damaged: true, ..Scripted::default() });
    let ran = bad.run("store check web").await;
    assert_eq!(ran.status, 4);
    assert!(ran.stdout.contains("BAD") && ran.stdout.contains("damaged at 4096"), "{}", ran.stdout);
    let ran = bad.run("store check web --json").await;
    assert_eq!((ran.status, &ran.json()[0]["points"][0]["good"]), (4, &false.into()));
    assert_eq!(bad.service.asked(), ["check web", "check web"]);
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let world = World::new(Scripted::default());
    let mut shell = tokio::process::Command::new("sh");
    shell.env_clear().env("STANDIN_SOCKET", world.socket());
    shell.arg("-c").arg(format!("{} status --json | true; echo ended", env!("CARGO_BIN_EXE_standin")));
    let ran = ran(shell).await;
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("ended\n", ""));
}

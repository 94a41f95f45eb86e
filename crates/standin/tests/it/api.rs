//! The local API on the wire: statuses, limits, permissions, the orderly end.

use crate::scripted::{Plan, Scripted};
use crate::world::World;
use standin::api::server::Server;
use standin_model::{JobType, Refusal, ReturnCode};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// One request as text; the status and the body of the answer.
async fn exchange(world: &World, head: &str, body: &[u8]) -> (u16, serde_json::Value) {
    let mut stream = UnixStream::connect(world.socket()).await.unwrap();
    let head =
        format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    // A server that refuses a body may close before it has read all of it.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body:?}")))
}

#[tokio::test]
async fn return_codes_have_fitting_http_statuses() {
    for (code, status) in [
        (ReturnCode::AccessDenied, 403),
        (ReturnCode::NotSupported, 501),
        (ReturnCode::Timeout, 504),
        (ReturnCode::InvalidParameter, 400),
        (ReturnCode::InUse, 409),
        (ReturnCode::InvalidState, 409),
        (ReturnCode::NotAvailable, 503),
        (ReturnCode::FileNotFound, 404),
        (ReturnCode::Failed, 500),
    ] {
        let refuse = Some(Refusal::told(code, "not_now", "no", "wait"));
        let world = World::new(Scripted { refuse, ..Scripted::default() });
        let (got, body) = exchange(&world, "POST /v1/vms/web/suspend", b"").await;
        assert_eq!(got, status, "{code:?}");
        assert_eq!(
            body,
            serde_json::json!({
                "return_code": u32::from(code), "reason": "not_now", "message": "no", "remedy": "wait"
            })
        );
    }
}

#[tokio::test]
async fn a_started_job_is_202_and_a_finished_request_200() {
    let world = World::new(Scripted::default());
    let (status, body) =
        exchange(&world, "POST /v1/vms/web/points", b"{\"application_consistent\":true}").await;
    assert_eq!((status, &body["return_code"]), (202, &4096.into()));
    assert!(body["job"]["id"].is_string());
    assert_eq!(world.service.asked(), ["point web true"]);
    let world = World::new(Scripted { no_jobs: true, ..Scripted::default() });
    let (status, body) = exchange(&world, "POST /v1/vms/web/suspend", b"").await;
    assert_eq!((status, body), (200, serde_json::json!({ "return_code": 0 })));
}

#[tokio::test]
async fn whatever_is_wrong_with_a_request_is_told_in_one_shape() {
    let world = World::new(Scripted::default());
    let large = vec![b' '; (1 << 20) + 1];
    for (head, body, status) in [
        ("GET /v2/host", &b""[..], 404),
        ("GET /", b"", 404),
        ("PUT /v1/vms", b"", 405),
        ("POST /v1/vms/web/replicate", b"{", 400),
        ("POST /v1/vms/web/replicate", b"{\"to\":\"b\",\"extra\":1}", 400),
        ("POST /v1/vms/web/replicate", b"[]", 400),
        ("POST /v1/vms/web/points", b"\xff\xfe", 400),
        ("POST /v1/vms", b"\xff\xfe", 400),
        ("POST /v1/vms", b"name = 'x'\nmemory_mib = 64\nkernel = 'relative'", 400),
        ("POST /v1/vms?base_dir=relative", b"name = 'x'\nmemory_mib = 64", 400),
        ("POST /v1/vms?other=1", b"", 400),
        ("POST /v1/vms/a%2Fb/start", b"", 400),
        ("POST /v1/vms/%ff/start", b"", 400),
        ("POST /v1/vms/web/stop", b"{\"timeout_s\":4000000000}", 400),
        ("POST /v1/adopt", b"{\"qmp\":\"relative\"}", 400),
        ("GET /v1/jobs/zzzz", b"", 404),
        ("GET /v1/jobs/6f2c1f0e-0000-4000-8000-00000000000f/watch?timeout=x", b"", 400),
        ("POST /v1/vms/web/replicate", &large, 413),
        ("POST /v1/vms", &large, 413),
    ] {
        let (got, answer) = exchange(&world, head, body).await;
        assert_eq!(got, status, "{head}: {answer}");
        for field in ["return_code", "message", "remedy"] {
            assert!(answer.get(field).is_some(), "{head}: no {field} in {answer}");
        }
    }
    assert_eq!(world.service.asked(), [""; 0]);
}

#[tokio::test]
async fn a_definition_can_be_json_too() {
    let world = World::new(Scripted::default());
    let mut stream = UnixStream::connect(world.socket()).await.unwrap();
    let body = r#"{"name":"new","memory_mib":64,"kernel":"/boot/vmlinuz"}"#;
    let head = format!(
        "POST /v1/vms HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(world.service.asked()[0].starts_with("define new "), "{:?}", world.service.asked());
}

#[tokio::test]
async fn a_long_poll_answers_when_the_job_moves_and_not_before() {
    let world = World::new(Scripted { plan: Plan::Stays, ..Scripted::default() });
    let job = world.service.job_now(JobType::SendDelta);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let path = |percent: u8| {
        format!("GET /v1/jobs/{}/watch?after_percent={percent}&after_state=4&timeout=1", job.id)
    };
    let begin = Instant::now();
    let (_, moved) = exchange(&world, &path(0), b"").await;
    assert!(begin.elapsed() < Duration::from_millis(900), "it waited though the job had moved");
    assert_eq!(moved["percent"], 75);
    let begin = Instant::now();
    exchange(&world, &path(75), b"").await;
    assert!(begin.elapsed() >= Duration::from_millis(900), "it answered though nothing had moved");
}

#[tokio::test]
async fn a_change_goes_on_when_its_client_goes_away_and_the_end_waits_for_it() {
    let mut world = World::new(Scripted { slow: Duration::from_millis(600), ..Scripted::default() });
    let mut stream = UnixStream::connect(world.socket()).await.unwrap();
    stream
        .write_all(b"POST /v1/vms/web/stop HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    while world.service.asked().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(stream);
    world.stop().await;
    let asked = world.service.asked();
    assert!(asked.contains(&"stopped".to_owned()), "{asked:?}");
    assert!(asked.contains(&"shutdown".to_owned()), "{asked:?}");
}

#[tokio::test]
async fn the_end_does_not_wait_for_long_polls_and_removes_the_socket() {
    let mut world = World::new(Scripted { plan: Plan::Stays, ..Scripted::default() });
    let job = world.service.job_now(JobType::SendDelta);
    let mut stream = UnixStream::connect(world.socket()).await.unwrap();
    let request = format!(
        "GET /v1/jobs/{}/watch?after_percent=75&after_state=4&timeout=60 HTTP/1.1\r\nhost: x\r\n\r\n",
        job.id
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    let begin = Instant::now();
    world.stop().await;
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert!(!world.socket().exists());
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
}

#[tokio::test]
async fn the_socket_is_for_its_owner_and_group_only() {
    let world = World::new(Scripted::default());
    let mode = std::fs::metadata(world.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[tokio::test]
async fn a_socket_in_use_is_refused_and_one_left_behind_is_replaced() {
    let world = World::new(Scripted::default());
    let error = Server::bind(world.options()).err().expect("two daemons on one socket").to_string();
    assert!(error.contains("another daemon answers") && error.contains("s.sock"), "{error}");
    let mut options = world.options();
    options.socket = world.dir.path().join("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&options.socket).unwrap());
    Server::bind(options.clone()).expect("a socket that nobody listens on is replaced");
    options.socket = world.dir.path().join("file");
    std::fs::write(&options.socket, "precious").unwrap();
    let error = Server::bind(options.clone()).err().expect("a file was taken for a socket").to_string();
    assert!(error.contains("in the way"), "{error}");
    assert_eq!(std::fs::read_to_string(&options.socket).unwrap(), "precious");
}

#[tokio::test]
async fn an_unknown_group_is_told_by_name() {
    let world = World::new(Scripted::default());
    let mut options = world.options();
    options.socket = world.dir.path().join("other.sock");
    options.group = Some("no-such-group".to_owned());
    let error = Server::bind(options).err().expect("the group does not exist").to_string();
    assert!(error.contains("no-such-group") && error.contains("groupadd"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_api_that_is_told_to_stop_ends_well_and_shuts_the_service_down() {
    // Whether the listener or the service hears of it first is up to the scheduler.
    let mut world = World::new(Scripted::default());
    for round in 1..=50 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        world.stop().await;
        let asked = world.service.asked();
        assert_eq!(asked.iter().filter(|what| *what == "shutdown").count(), round);
        world.serve();
    }
    world.stop().await;
}

//! Application-consistent cuts, with a scripted agent on the socket where QEMU's would be.

use crate::qemu_harness::*;
use standin_hypervisor::{Consistency, CutRequest, DiskFormat, Hypervisor, View};
use standin_model::VmId;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

/// How the agent behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    Honest,
    /// Says it froze, and that nothing is frozen.
    Liar,
    /// Freezes and says nothing for a while.
    Hangs,
    /// Freezes and ends the conversation.
    Dies,
}

#[derive(Debug, Default)]
struct Guest {
    frozen: AtomicBool,
    thaws: AtomicUsize,
}

fn agent_socket(host: &Host, vm: VmId) -> PathBuf {
    host.path("run").join(format!("{}.ga", vm.0.simple()))
}

fn serve(host: &Host, vm: VmId, manner: Manner) -> Arc<Guest> {
    let socket = agent_socket(host, vm);
    std::fs::remove_file(&socket).expect("QEMU's own socket");
    let listener = UnixListener::bind(&socket).expect("bind");
    let guest = Arc::new(Guest::default());
    let shared = Arc::clone(&guest);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            talk(stream, manner, &shared).await;
        }
    });
    guest
}

async fn talk(stream: tokio::net::UnixStream, manner: Manner, guest: &Guest) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let start = line.iter().position(|byte| *byte == b'{').expect("a request");
        let request: serde_json::Value = serde_json::from_slice(&line[start..]).expect("JSON");
        let answer = match request["execute"].as_str().expect("a command") {
            "guest-sync-delimited" => {
                write.write_all(&[0xff]).await.expect("write");
                request["arguments"]["id"].clone()
            }
            "guest-fsfreeze-status" if manner == Manner::Liar => "thawed".into(),
            "guest-fsfreeze-status" if guest.frozen.load(Ordering::SeqCst) => "frozen".into(),
            "guest-fsfreeze-status" => "thawed".into(),
            "guest-fsfreeze-freeze" => {
                guest.frozen.store(true, Ordering::SeqCst);
                match manner {
                    Manner::Dies => return,
                    Manner::Hangs => tokio::time::sleep(Duration::from_secs(2)).await,
                    Manner::Honest | Manner::Liar => {}
                }
                1.into()
            }
            "guest-fsfreeze-thaw" => {
                guest.thaws.fetch_add(1, Ordering::SeqCst);
                u64::from(guest.frozen.swap(false, Ordering::SeqCst)).into()
            }
            other => panic!("{other}"),
        };
        let answer = serde_json::json!({ "return": answer }).to_string() + "\n";
        if write.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn guest(host: &Host, manner: Manner) -> (VmId, Arc<Guest>) {
    let mut definition = host.definition(&[("a", DiskFormat::Qcow2, 16 * MIB)]);
    definition.guest_agent = true;
    let vm = host.start(&definition).await;
    host.first_mark(vm, &["a"]).await;
    let guest = serve(host, vm, manner);
    (vm, guest)
}

fn frozen(host: &Host) -> CutRequest {
    let mut request = host.cut(&["a"], 0, 1);
    request.consistency = Consistency::Application { deadline: Duration::from_secs(1) };
    request
}

async fn cut(host: &Host, vm: VmId) -> Box<dyn View> {
    host.driver().cut(vm, frozen(host)).await.expect("a freeze that fails is no failed cut")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_guest_gives_an_application_consistent_cut_and_is_thawed() {
    let host = Host::new().await;
    let (vm, guest) = guest(&host, Manner::Honest).await;
    let view = cut(&host, vm).await;
    assert!(view.info().application_consistent);
    assert_eq!(view.info().freeze_error, None);
    assert!(!guest.frozen.load(Ordering::SeqCst));
    assert_eq!(guest.thaws.load(Ordering::SeqCst), 1);
    view.close().await.expect("close");
}

async fn still_cut_and_thawed(manner: Manner, reason: &str) {
    let host = Host::new().await;
    let (vm, guest) = guest(&host, manner).await;
    let view = cut(&host, vm).await;
    assert!(!view.info().application_consistent);
    let said = view.info().freeze_error.clone().expect("a reason");
    assert!(said.contains(reason), "{said}");
    assert_eq!(pattern(&*view, "a", 0, 4096).await, 0);
    view.close().await.expect("close");
    eventually("the guest is thawed", async || !guest.frozen.load(Ordering::SeqCst)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_lies_gives_a_crash_consistent_cut() {
    still_cut_and_thawed(Manner::Liar, "none is").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_hangs_gives_a_crash_consistent_cut_and_a_late_thaw() {
    still_cut_and_thawed(Manner::Hangs, "did not end within").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_dies_gives_a_crash_consistent_cut_and_is_asked_again() {
    still_cut_and_thawed(Manner::Dies, "connection").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_without_a_channel_for_an_agent_says_so() {
    let host = Host::new().await;
    let vm = host.start(&host.definition(&[("a", DiskFormat::Qcow2, 16 * MIB)])).await;
    host.first_mark(vm, &["a"]).await;
    let view = cut(&host, vm).await;
    let said = view.info().freeze_error.clone().expect("a reason");
    assert!(said.contains("guest_agent = true"), "{said}");
    view.close().await.expect("close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_that_fails_thaws_all_the_same() {
    let host = Host::new().await;
    let (vm, guest) = guest(&host, Manner::Honest).await;
    let mut odd = frozen(&host);
    odd.granularity = 5000;
    assert!(host.driver().cut(vm, odd).await.is_err());
    assert!(!guest.frozen.load(Ordering::SeqCst));
    assert_eq!(guest.thaws.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_a_killed_daemon_left_frozen_is_thawed_by_the_next() {
    let mut host = Host::new().await;
    let (vm, guest) = guest(&host, Manner::Honest).await;
    // What is there when the daemon is killed between freeze and thaw.
    guest.frozen.store(true, Ordering::SeqCst);
    let socket = agent_socket(&host, vm);
    let marker = socket.with_extension("frozen");
    std::fs::write(&marker, socket.to_str().expect("text")).expect("write");
    host.reopen().await;
    eventually("the guest is thawed", async || !guest.frozen.load(Ordering::SeqCst)).await;
    eventually("the marker goes", async || !marker.exists()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_the_release_before_left_frozen_is_thawed_too() {
    let mut host = Host::new().await;
    let (vm, guest) = guest(&host, Manner::Honest).await;
    guest.frozen.store(true, Ordering::SeqCst);
    host.close().await;
    host.shorten_runtime_names(vm);
    let short = host.short_runtime_file(vm, "ga");
    std::fs::write(short.with_extension("frozen"), short.to_str().expect("text")).expect("write");
    host.reopen().await;
    eventually("the guest is thawed", async || !guest.frozen.load(Ordering::SeqCst)).await;
    let marker = agent_socket(&host, vm).with_extension("frozen");
    eventually("the marker goes", async || !marker.exists()).await;
    let view = cut(&host, vm).await;
    assert!(view.info().application_consistent, "its agent is found: {:?}", view.info().freeze_error);
    view.close().await.expect("close");
}

//! The server against libnbd's tools, QEMU's tools and our own client.

use crate::programs::{noise, run_aside};
use async_trait::async_trait;
use bytes::Bytes;
use standin_nbd::{
    CONTEXT_ALLOCATION, Client, Error, FLAG_HOLE, FLAG_ZERO, Server, Source, StatusExtent, Target, merge,
};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Allocation is told in pieces of this.
const CLUSTER: usize = 64 << 10;

/// A disk in memory. Reading `broken` fails; reading anything takes `delay`.
pub struct Memory {
    pub bytes: Vec<u8>,
    pub broken: Option<u64>,
    pub delay: Duration,
    pub running: AtomicUsize,
    pub most: AtomicUsize,
}

impl Memory {
    pub fn new(bytes: Vec<u8>) -> Self {
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { bytes, broken: None, delay: Duration::ZERO, running, most }
    }
}

#[async_trait]
impl Source for Memory {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    async fn read(&self, offset: u64, length: u32) -> io::Result<Bytes> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        tokio::time::sleep(self.delay).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        if self.broken.is_some_and(|at| (offset..offset + u64::from(length)).contains(&at)) {
            return Err(io::Error::other("the layer is damaged"));
        }
        let at = usize::try_from(offset).unwrap();
        Ok(Bytes::copy_from_slice(&self.bytes[at..at + usize::try_from(length).unwrap()]))
    }

    async fn status(&self, offset: u64, length: u64) -> io::Result<Vec<StatusExtent>> {
        let (start, end) = (usize::try_from(offset).unwrap(), usize::try_from(offset + length).unwrap());
        let mut list = Vec::new();
        let mut at = start;
        while at < end {
            let next = ((at / CLUSTER + 1) * CLUSTER).min(self.bytes.len());
            let zero = self.bytes[at / CLUSTER * CLUSTER..next].iter().all(|byte| *byte == 0);
            let flags = if zero { FLAG_HOLE | FLAG_ZERO } else { 0 };
            list.push(StatusExtent { length: (next - at) as u64, flags });
            at = next;
        }
        Ok(merge(list))
    }
}

/// A server that runs in this test's runtime.
pub struct Running {
    dir: TempDir,
    stop: watch::Sender<bool>,
    pub task: JoinHandle<Result<(), Error>>,
}

impl Running {
    pub fn start(exports: impl IntoIterator<Item = (&'static str, Memory)>) -> Self {
        let shared = exports.into_iter().map(|(name, memory)| (name, Arc::new(memory)));
        Self::start_shared(shared)
    }

    pub fn start_shared(exports: impl IntoIterator<Item = (&'static str, Arc<Memory>)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("server.sock")).unwrap();
        let (stop, stopped) = watch::channel(false);
        let exports: BTreeMap<String, Arc<dyn Source>> =
            exports.into_iter().map(|(name, source)| (name.to_owned(), source as Arc<dyn Source>)).collect();
        let task = tokio::spawn(Server::serve(listener, exports, stopped));
        Self { dir, stop, task }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("server.sock")
    }

    fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket().display())
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    pub async fn client(&self, export: &str, context: Option<&str>) -> Result<Client, Error> {
        Client::connect(&Target::unix(self.socket(), export), context).await
    }

    pub async fn stop(self) {
        self.stop.send(true).unwrap();
        tokio::time::timeout(Duration::from_secs(10), self.task).await.unwrap().unwrap().unwrap();
    }
}

/// 9 MiB and a bit: noise, a run of zeros, noise, an end that is no whole block.
pub fn disk() -> Vec<u8> {
    let mut bytes = noise((9 << 20) + 512, 11);
    bytes[2 << 20..6 << 20].fill(0);
    bytes
}

fn strings(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|text| (*text).to_owned()).collect()
}

async fn succeed(program: &'static str, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = run_aside(program, strings(arguments)).await;
    assert!(status.success(), "{program} {arguments:?}: {status} {}", String::from_utf8_lossy(&stderr));
    // Where no `file` is installed, nbdinfo 1.14 prints what its memory happened to hold as the content's kind.
    String::from_utf8_lossy(&stdout).into_owned()
}

#[tokio::test]
async fn nbdinfo_sees_what_is_served() {
    let server = Running::start([("vda", Memory::new(disk())), ("", Memory::new(vec![0; 4096]))]);
    let list = succeed("nbdinfo", &["--list", &server.uri("")]).await;
    assert!(list.contains("export=\"vda\"") && list.contains("export=\"\""), "{list}");
    let info = succeed("nbdinfo", &[&server.uri("vda")]).await;
    let facts = [
        "newstyle-fixed without TLS, using structured packets",
        "export-size: 9437696",
        "is_read_only: true",
        "can_multi_conn: true",
        "can_df: true",
        "can_trim: false",
        "base:allocation",
    ];
    for fact in facts {
        assert!(info.contains(fact), "{fact:?} is missing in {info}");
    }
    let map = succeed("nbdinfo", &["--map", &server.uri("vda")]).await;
    let rows: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().collect()).collect();
    let expected = [
        ["0", "2097152", "0", "data"],
        ["2097152", "4194304", "3", "hole,zero"],
        ["6291456", "3146240", "0", "data"],
    ];
    assert_eq!(rows, expected);
    server.stop().await;
}

#[tokio::test]
async fn nbdcopy_and_qemu_img_copy_every_byte() {
    let server = Running::start([("vda", Memory::new(disk()))]);
    let (copied, converted) = (server.file("copied"), server.file("converted.qcow2"));
    succeed("nbdcopy", &[&server.uri("vda"), &copied]).await;
    assert!(std::fs::read(&copied).unwrap() == disk());
    succeed("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &server.uri("vda"), &converted]).await;
    succeed("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &server.uri("vda"), &converted]).await;
    let mut other = disk();
    other[5 << 20] = 1;
    std::fs::write(&copied, other).unwrap();
    let differs =
        run_aside("qemu-img", strings(&["compare", "-f", "raw", "-F", "raw", &server.uri("vda"), &copied]))
            .await;
    assert_eq!(differs.status.code(), Some(1), "a difference of one byte is seen");
    server.stop().await;
}

#[tokio::test]
async fn an_overlay_of_qemu_stands_on_an_export() {
    let server = Running::start([("vda", Memory::new(disk()))]);
    let overlay = server.file("overlay.qcow2");
    succeed("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &server.uri("vda"), &overlay])
        .await;
    succeed(
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 0x5a 1M 10000", "-c", "write -P 0xa5 3M 1", &overlay],
    )
    .await;
    let flat = server.file("flat.raw");
    succeed("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", &overlay, &flat]).await;
    let mut expected = disk();
    expected[1 << 20..(1 << 20) + 10_000].fill(0x5a);
    expected[3 << 20] = 0xa5;
    assert!(std::fs::read(&flat).unwrap() == expected);
    server.stop().await;
}

#[tokio::test]
async fn our_own_client_reads_the_same() {
    let server = Running::start([("vda", Memory::new(disk()))]);
    let client = server.client("vda", Some(CONTEXT_ALLOCATION)).await.unwrap();
    assert!(client.read_only() && client.multi_connection());
    assert!(client.read(0, (9 << 20) + 512).await.unwrap() == disk());
    assert!(client.read(1_999_999, 300_001).await.unwrap() == disk()[1_999_999..2_300_000]);
    let zeros = client.read(3 << 20, 1 << 20).await.unwrap();
    assert!(zeros.len() == 1 << 20 && zeros.iter().all(|byte| *byte == 0));
    let expected = [(1 << 20, 0), (4 << 20, 3), (3 << 20, 0)];
    let expected = expected.map(|(length, flags)| StatusExtent { length, flags });
    assert_eq!(client.block_status(1 << 20, 8 << 20).await.unwrap(), expected);
    let error = server.client("vdb", None).await.unwrap_err();
    assert!(matches!(&error, Error::Handshake { message, .. } if message.contains("no export")), "{error}");
    let error = server.client("vda", Some("qemu:dirty-bitmap:x")).await.unwrap_err();
    assert!(matches!(&error, Error::Handshake { .. }), "{error}");
    server.stop().await;
}

#[tokio::test]
async fn a_source_that_fails_is_an_error_for_that_read_only() {
    let broken = Memory { broken: Some(5000), ..Memory::new(disk()) };
    let server = Running::start([("vda", broken)]);
    let client = server.client("vda", None).await.unwrap();
    let error = client.read(4096, 4096).await.unwrap_err();
    let Error::Server { errno: 5, message, .. } = &error else { panic!("{error:?}") };
    assert!(message.contains("the layer is damaged"), "{message}");
    assert!(client.read(8192, 4096).await.unwrap() == disk()[8192..12_288]);
    server.stop().await;
}

#[tokio::test]
async fn stopping_answers_what_was_asked_and_refuses_what_comes_after() {
    let slow = Memory { delay: Duration::from_millis(500), ..Memory::new(disk()) };
    let server = Running::start([("vda", slow)]);
    let client = server.client("vda", None).await.unwrap();
    let reader = client.clone();
    let read = tokio::spawn(async move { reader.read(0, 4096).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let socket = server.socket();
    server.stop().await;
    assert!(read.await.unwrap().unwrap() == disk()[..4096]);
    assert!(matches!(client.read(0, 1).await.unwrap_err(), Error::Closed { .. }));
    assert!(matches!(
        Client::connect(&Target::unix(socket, "vda"), None).await.unwrap_err(),
        Error::Connect { .. }
    ));
}

#[tokio::test]
async fn a_dropped_stop_sender_stops_the_server() {
    let Running { stop, task, .. } = Running::start([("vda", Memory::new(vec![1; 512]))]);
    drop(stop);
    tokio::time::timeout(Duration::from_secs(10), task).await.unwrap().unwrap().unwrap();
}

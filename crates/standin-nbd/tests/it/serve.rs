//! The server against libnbd's tools, QEMU's tools, our own client, and clients that misbehave.

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
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Allocation is told in pieces of this.
const CLUSTER: usize = 64 << 10;

/// A disk in memory. Reading `broken` fails; reading anything takes `delay`.
struct Memory {
    bytes: Vec<u8>,
    broken: Option<u64>,
    delay: Duration,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Memory {
    fn new(bytes: Vec<u8>) -> Self {
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
struct Running {
    dir: TempDir,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    fn start(exports: impl IntoIterator<Item = (&'static str, Memory)>) -> Self {
        let shared = exports.into_iter().map(|(name, memory)| (name, Arc::new(memory)));
        Self::start_shared(shared)
    }

    fn start_shared(exports: impl IntoIterator<Item = (&'static str, Arc<Memory>)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("server.sock")).unwrap();
        let (stop, stopped) = watch::channel(false);
        let exports: BTreeMap<String, Arc<dyn Source>> =
            exports.into_iter().map(|(name, source)| (name.to_owned(), source as Arc<dyn Source>)).collect();
        let task = tokio::spawn(Server::serve(listener, exports, stopped));
        Self { dir, stop, task }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("server.sock")
    }

    fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket().display())
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    async fn client(&self, export: &str, context: Option<&str>) -> Result<Client, Error> {
        Client::connect(&Target::unix(self.socket(), export), context).await
    }

    async fn stop(self) {
        self.stop.send(true).unwrap();
        tokio::time::timeout(Duration::from_secs(10), self.task).await.unwrap().unwrap().unwrap();
    }
}

/// 9 MiB and a bit: noise, a run of zeros, noise, an end that is no whole block.
fn disk() -> Vec<u8> {
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
    String::from_utf8(stdout).unwrap()
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

/// Greets as an old client does and sends `options`.
async fn rude(server: &Running, flags: u32, options: &[(u32, &[u8])]) -> UnixStream {
    let mut stream = UnixStream::connect(server.socket()).await.unwrap();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).await.unwrap();
    stream.write_u32(flags).await.unwrap();
    for (number, data) in options {
        stream.write_all(b"IHAVEOPT").await.unwrap();
        stream.write_u32(*number).await.unwrap();
        stream.write_u32(u32::try_from(data.len()).unwrap()).await.unwrap();
        stream.write_all(data).await.unwrap();
    }
    stream
}

async fn request(stream: &mut UnixStream, command: u16, cookie: u64, offset: u64, length: u32) {
    let mut out = 0x2560_9513_u32.to_be_bytes().to_vec();
    out.extend([0_u16.to_be_bytes(), command.to_be_bytes()].concat());
    out.extend([cookie.to_be_bytes(), offset.to_be_bytes()].concat());
    out.extend(length.to_be_bytes());
    stream.write_all(&out).await.unwrap();
}

/// A simple reply: errno and cookie.
async fn simple(stream: &mut UnixStream) -> (u32, u64) {
    assert_eq!(stream.read_u32().await.unwrap(), 0x6744_6698);
    (stream.read_u32().await.unwrap(), stream.read_u64().await.unwrap())
}

async fn closed(mut stream: UnixStream) {
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
    // A reset is as good as an end.
    let _ = end.expect("the server keeps the connection open");
}

#[tokio::test]
async fn an_old_client_gets_simple_replies_and_may_not_write() {
    let server = Running::start([("vda", Memory::new(disk()))]);
    // Without NO_ZEROES: 124 zero bytes follow size and flags.
    let mut stream = rude(&server, 1, &[(1, b"vda")]).await;
    let mut head = [0; 134];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(u64::from_be_bytes(head[..8].try_into().unwrap()), (9 << 20) + 512);
    assert_eq!(head[9] & 3, 3, "has flags, read-only");
    assert!(head[10..].iter().all(|byte| *byte == 0));
    request(&mut stream, 0, 7, 100, 50).await;
    assert_eq!(simple(&mut stream).await, (0, 7));
    let mut data = [0; 50];
    stream.read_exact(&mut data).await.unwrap();
    assert_eq!(data[..], disk()[100..150]);
    request(&mut stream, 1, 8, 0, 100_000).await;
    stream.write_all(&vec![9; 100_000]).await.unwrap();
    for (command, cookie) in [(4, 9), (6, 10)] {
        request(&mut stream, command, cookie, 0, 4096).await;
    }
    request(&mut stream, 3, 11, 0, 0).await;
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(simple(&mut stream).await);
    }
    answers.sort_by_key(|(_, cookie)| *cookie);
    assert_eq!(answers, [(1, 8), (1, 9), (1, 10), (0, 11)], "EPERM for all that writes, success for a flush");
    for (command, offset, length) in
        [(0, (9 << 20) + 512, 1), (0, u64::MAX, 2), (0, 0, 0), (0, 0, u32::MAX), (7, 0, 512), (99, 0, 1)]
    {
        request(&mut stream, command, 12, offset, length).await;
        assert_eq!(simple(&mut stream).await, (22, 12), "command {command} {length} at {offset}");
    }
    request(&mut stream, 2, 0, 0, 0).await;
    closed(stream).await;
    server.stop().await;
}

#[tokio::test]
async fn clients_that_break_the_protocol_are_closed_and_the_server_goes_on() {
    let server = Running::start([("vda", Memory::new(disk()))]);
    closed(rude(&server, 0, &[]).await).await;
    closed(rude(&server, 0xffff, &[]).await).await;
    closed(rude(&server, 3, &[(1, b"no such export")]).await).await;
    closed(rude(&server, 3, &[(1, &[0xff, 0xfe])]).await).await;
    closed(rude(&server, 3, &[(2, b"")]).await).await;
    let mut stream = rude(&server, 3, &[]).await;
    stream.write_all(b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff").await.unwrap();
    closed(stream).await;
    let mut stream = rude(&server, 3, &[]).await;
    stream.write_all(&[1; 16]).await.unwrap();
    closed(stream).await;
    let mut stream = rude(&server, 3, &[(1, b"vda")]).await;
    stream.write_all(&[2; 28]).await.unwrap();
    closed(stream).await;
    let mut stream = rude(&server, 3, &[(1, b"vda")]).await;
    request(&mut stream, 1, 1, 0, u32::MAX).await;
    closed(stream).await;
    let client = server.client("vda", None).await.unwrap();
    assert!(client.read(0, 512).await.unwrap() == disk()[..512]);
    server.stop().await;
}

#[tokio::test]
async fn malformed_options_are_refused_one_by_one() {
    let server = Running::start([("vda", Memory::new(disk()))]);
    const ERROR: u32 = 1 << 31;
    let cases: [(u32, &[u8], u32); 9] = [
        (5, b"", ERROR | 1),
        (77, b"x", ERROR | 1),
        (3, b"x", ERROR | 3),
        (8, b"x", ERROR | 3),
        (7, b"\0\0\0\x09vda\0\0", ERROR | 3),
        (7, b"\0\0\0\x03vda\0\x05\0\x03", ERROR | 3),
        (6, b"\0\0\0\x03vdz\0\0", ERROR | 6),
        // A context before structured replies, and then a count of queries that is a lie.
        (10, b"\0\0\0\x03vda\0\0\0\0", ERROR | 3),
        (10, b"\0\0\0\x03vda\xff\xff\xff\xff", ERROR | 3),
    ];
    let options: Vec<(u32, &[u8])> = cases.iter().map(|(number, data, _)| (*number, *data)).collect();
    let mut stream = rude(&server, 3, &options).await;
    for (number, data, expected) in cases {
        assert_eq!(stream.read_u64().await.unwrap(), 0x0003_e889_0455_65a9);
        assert_eq!(stream.read_u32().await.unwrap(), number);
        assert_eq!(stream.read_u32().await.unwrap(), expected, "option {number} {data:?}");
        let length = stream.read_u32().await.unwrap();
        let mut text = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut text).await.unwrap();
    }
    server.stop().await;
}

#[tokio::test]
async fn requests_are_answered_side_by_side_but_not_without_bound() {
    let memory = Arc::new(Memory { delay: Duration::from_millis(100), ..Memory::new(disk()) });
    let server = Running::start_shared([("vda", Arc::clone(&memory))]);
    // 200 small reads from a client that takes no answer.
    let mut stream = rude(&server, 3, &[(1, b"vda")]).await;
    for cookie in 0..200 {
        request(&mut stream, 0, cookie, cookie * 512, 512).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let most = memory.most.swap(0, Ordering::SeqCst);
    assert!((16..=64).contains(&most), "{most} at once");
    // 20 reads of 8 MiB: no more than 32 MiB are held for one client.
    let mut stream = rude(&server, 3, &[(1, b"vda")]).await;
    for cookie in 0..20 {
        request(&mut stream, 0, cookie, 0, 8 << 20).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let most = memory.most.load(Ordering::SeqCst);
    assert!((2..=4).contains(&most), "{most} at once");
    // That client never reads: stopping must not wait for it longer than its limit.
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

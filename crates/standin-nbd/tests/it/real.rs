//! The client against the servers of QEMU, and against nbdkit where those are too well behaved.

use crate::programs::{Daemon, noise, run};
use standin_nbd::{
    CONTEXT_ALLOCATION, Client, Error, FLAG_DIRTY, FLAG_HOLE, FLAG_ZERO, StatusExtent, Target, dirty_context,
};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;

fn extent(length: u64, flags: u32) -> StatusExtent {
    StatusExtent { length, flags }
}

fn raw_image(dir: &Path, bytes: &[u8]) -> PathBuf {
    let image = dir.join("disk.raw");
    std::fs::write(&image, bytes).unwrap();
    image
}

/// Reads all of `client` in steps, `in_flight` at a time, and puts them together.
async fn read_all(client: &Client, step: u32, in_flight: usize) -> Vec<u8> {
    let mut whole = Vec::new();
    let offsets: Vec<u64> = (0..client.size()).step_by(usize::try_from(step).unwrap()).collect();
    for group in offsets.chunks(in_flight) {
        let reads: Vec<_> = group
            .iter()
            .map(|&offset| {
                let (client, length) = (client.clone(), u64::from(step).min(client.size() - offset));
                tokio::spawn(async move { client.read(offset, u32::try_from(length).unwrap()).await })
            })
            .collect();
        for read in reads {
            whole.extend_from_slice(&read.await.unwrap().unwrap());
        }
    }
    whole
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_of_a_disk_comes_from_qemu_nbd_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = noise(9 << 20, 1);
    bytes[1 << 20..3 << 20].fill(0);
    let image = raw_image(dir.path(), &bytes);
    let server = Daemon::qemu_nbd(dir.path(), &image, "raw", &[]);
    let client = server.client("", None).await.unwrap();
    assert_eq!(client.size(), 9 << 20);
    assert!(client.read_only());
    assert!(read_all(&client, 256 << 10, 16).await == bytes);
    assert!(read_all(&client, 1_000_003, 3).await == bytes, "odd lengths");
    let whole = client.read(0, 9 << 20).await.unwrap();
    assert!(whole == bytes, "in one request");
    for (offset, length) in [(0, 1), (1, 511), (1_048_575, 3), (3_145_727, 2), (9_437_183, 1)] {
        let data = client.read(offset, length).await.unwrap();
        let at = usize::try_from(offset).unwrap();
        assert_eq!(data, bytes[at..at + data.len()], "{length} at {offset}");
        assert_eq!(data.len(), usize::try_from(length).unwrap());
    }
    client.disconnect().await;
}

#[tokio::test]
async fn a_sparse_read_is_put_together_from_data_and_holes() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.raw");
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(4 << 20).unwrap();
    let mut bytes = vec![0; 4 << 20];
    for cluster in (0..64_usize).step_by(3) {
        let at = cluster * (64 << 10);
        bytes[at..at + 4096].copy_from_slice(&noise(4096, cluster as u64));
        file.write_all_at(&bytes[at..at + 4096], at as u64).unwrap();
    }
    let server = Daemon::qemu_nbd(dir.path(), &image, "raw", &[]);
    let client = server.client("", Some(CONTEXT_ALLOCATION)).await.unwrap();
    assert!(client.read(0, 4 << 20).await.unwrap() == bytes);
    let hole = client.read(64 << 10, 128 << 10).await.unwrap();
    assert!(hole.len() == 128 << 10 && hole.iter().all(|byte| *byte == 0));
    let status = client.block_status(0, 4 << 20).await.unwrap();
    let data: u64 = status.iter().filter(|extent| extent.flags == 0).map(|extent| extent.length).sum();
    assert_eq!(data, 22 * 4096, "only the written blocks are data: {status:?}");
}

#[tokio::test]
async fn allocation_of_a_disk_beyond_the_two_gib_step_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.raw");
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(3 * GIB).unwrap();
    // One block that straddles the step, and the disk's last one.
    file.write_all_at(&noise(128 << 10, 1), 2 * GIB - 64 * KIB).unwrap();
    file.write_all_at(&noise(64 << 10, 2), 3 * GIB - 64 * KIB).unwrap();
    let server = Daemon::qemu_nbd(dir.path(), &image, "raw", &[]);
    let client = server.client("", Some(CONTEXT_ALLOCATION)).await.unwrap();
    let zero = FLAG_HOLE | FLAG_ZERO;
    let expected = [
        extent(2 * GIB - 64 * KIB, zero),
        extent(128 * KIB, 0),
        extent(GIB - 128 * KIB, zero),
        extent(64 * KIB, 0),
    ];
    assert_eq!(client.block_status(0, 3 * GIB).await.unwrap(), expected);
    let part = client.block_status(2 * GIB - 65 * KIB, 2 * KIB).await.unwrap();
    assert_eq!(part, [extent(KIB, zero), extent(KIB, 0)]);
}

#[tokio::test]
async fn a_dirty_bitmap_is_read_exactly_and_merged_over_the_step() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.qcow2");
    let path = image.to_str().unwrap();
    run("qemu-img", &["create", "-q", "-f", "qcow2", path, "5G"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write 0 1M", path]);
    run("qemu-img", &["bitmap", "--add", "-g", "4096", path, "mark-1"]);
    let writes = [
        "write 4096 4096",
        "write -z 1M 64k",
        "write 2147479552 8k",
        "write 5368705024 4k",
        "discard 512k 64k",
    ];
    for write in writes {
        run("qemu-io", &["-f", "qcow2", "-c", write, path]);
    }
    let server = Daemon::qemu_nbd(dir.path(), &image, "qcow2", &["--bitmap=mark-1"]);
    let client = server.client("", Some(&dirty_context("mark-1"))).await.unwrap();
    let expected = [
        extent(4 * KIB, 0),
        extent(4 * KIB, FLAG_DIRTY),
        extent(504 * KIB, 0),
        extent(64 * KIB, FLAG_DIRTY),
        extent(448 * KIB, 0),
        extent(64 * KIB, FLAG_DIRTY),
        extent(2 * GIB - 4 * KIB - 1088 * KIB, 0),
        extent(8 * KIB, FLAG_DIRTY),
        extent(3 * GIB - 8 * KIB, 0),
        extent(4 * KIB, FLAG_DIRTY),
    ];
    assert_eq!(client.block_status(0, 5 * GIB).await.unwrap(), expected);
    assert_eq!(client.block_status(5000, 2000).await.unwrap(), [extent(2000, FLAG_DIRTY)]);
    let error = server.client("", Some(&dirty_context("mark-2"))).await.unwrap_err();
    assert!(matches!(&error, Error::Handshake { .. }) && error.to_string().contains("mark-2"), "{error}");
}

#[tokio::test]
async fn more_extents_than_one_reply_holds_are_all_read() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("disk.qcow2");
    let path = image.to_str().unwrap();
    // Every second sector dirty at the finest granularity: 196608 extents. QEMU sends at most 131072 in one reply, so
    // the range is asked for twice.
    run("qemu-img", &["create", "-q", "-f", "qcow2", path, "96M"]);
    run("qemu-img", &["bitmap", "--add", "-g", "512", path, "fine"]);
    let script = dir.path().join("writes");
    let writes: String =
        (0..96 * 2048).step_by(2).map(|sector| format!("write -q {}  512\n", sector * 512)).collect();
    std::fs::write(&script, writes).unwrap();
    let shell = format!("qemu-io -f qcow2 -t unsafe {path} < {} > {path}.log", script.to_str().unwrap());
    run("sh", &["-c", &shell]);
    let server = Daemon::qemu_nbd(dir.path(), &image, "qcow2", &["--bitmap=fine"]);
    let client = server.client("", Some(&dirty_context("fine"))).await.unwrap();
    let status = client.block_status(0, 96 << 20).await.unwrap();
    assert_eq!(status.len(), 96 * 2048);
    assert!(status.iter().enumerate().all(|(n, e)| *e == extent(512, u32::from(n % 2 == 0))));
}

#[tokio::test]
async fn the_storage_daemon_is_read_and_names_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = noise(3 << 20, 7);
    let image = raw_image(dir.path(), &bytes);
    let socket = dir.path().join("qsd.sock");
    let arguments = [
        "--blockdev".to_owned(),
        format!("driver=raw,node-name=d,file.driver=file,file.filename={}", image.display()),
        "--nbd-server".to_owned(),
        format!("addr.type=unix,addr.path={},max-connections=4", socket.display()),
        "--export".to_owned(),
        "type=nbd,id=e,node-name=d,name=vda".to_owned(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let server = Daemon::start("qemu-storage-daemon", &arguments, socket);
    let client = server.client("vda", Some(CONTEXT_ALLOCATION)).await.unwrap();
    assert!(read_all(&client, 300_000, 16).await == bytes);
    assert_eq!(client.block_status(0, 3 << 20).await.unwrap(), [extent(3 << 20, 0)]);
    let error = server.client("vdb", None).await.unwrap_err();
    assert!(matches!(&error, Error::Handshake { .. }), "{error:?}");
    assert!(error.to_string().contains("\"vdb\"") && error.to_string().contains("no export"), "{error}");
}

#[tokio::test]
async fn a_client_over_tcp_reads_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = noise(1 << 20, 3);
    let image = raw_image(dir.path(), &bytes);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut child = std::process::Command::new("qemu-nbd")
        .args(["-r", "-t", "-f", "raw", "-b", "127.0.0.1", "-p", &port.to_string(), image.to_str().unwrap()])
        .spawn()
        .unwrap();
    let target = Target::tcp(([127, 0, 0, 1], port).into(), "");
    let mut client = Client::connect(&target, None).await;
    for _ in 0..200 {
        if client.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        client = Client::connect(&target, None).await;
    }
    let client = client.unwrap();
    assert!(read_all(&client, 64 << 10, 4).await == bytes);
    client.disconnect().await;
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_reads_do_not_mix_up_what_others_read() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = noise(16 << 20, 5);
    let image = raw_image(dir.path(), &bytes);
    let server = Daemon::qemu_nbd(dir.path(), &image, "raw", &[]);
    let client = server.client("", None).await.unwrap();
    for round in 0..20_u64 {
        let doomed: Vec<_> = (0..40_u64)
            .map(|n| {
                let client = client.clone();
                tokio::spawn(async move { client.read(n * 300_000, 300_000).await })
            })
            .collect();
        tokio::time::sleep(std::time::Duration::from_micros(round * 500)).await;
        doomed.iter().for_each(tokio::task::JoinHandle::abort);
        let at = usize::try_from(round).unwrap() * 700_001;
        let data = client.read(at as u64, 65_537).await.unwrap();
        assert!(data == bytes[at..at + 65_537], "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_fails_every_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let image = raw_image(dir.path(), &noise(16 << 20, 5));
    let mut server = Daemon::qemu_nbd(dir.path(), &image, "raw", &[]);
    let client = server.client("", None).await.unwrap();
    client.read(0, 1 << 20).await.unwrap();
    let reads: Vec<_> = (0..64_u64)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                loop {
                    if let Err(error) = client.read((n % 16) << 20, 1 << 20).await {
                        return error;
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    server.kill();
    for read in reads {
        let error = tokio::time::timeout(std::time::Duration::from_secs(10), read).await.unwrap().unwrap();
        assert!(matches!(error, Error::Closed { .. }), "{error:?}");
    }
    assert!(matches!(server.client("", None).await.unwrap_err(), Error::Connect { .. }));
}

fn nbdkit(dir: &Path, arguments: &[&str]) -> Daemon {
    let socket = dir.join("nbdkit.sock");
    let mut all = vec!["-f", "-U", socket.to_str().unwrap()];
    all.extend(arguments);
    Daemon::start("nbdkit", &all, socket.clone())
}

/// What nbdkit's pattern plugin holds: every aligned eight bytes are their own offset.
fn pattern(offset: u64, length: u32) -> Vec<u8> {
    (offset..offset + u64::from(length))
        .map(|at| (at & !7).to_be_bytes()[usize::try_from(at % 8).unwrap()])
        .collect()
}

#[tokio::test]
async fn a_server_without_structured_replies_serves_reads_but_no_status() {
    let dir = tempfile::tempdir().unwrap();
    let server = nbdkit(dir.path(), &["--no-sr", "pattern", "4M"]);
    let client = server.client("", None).await.unwrap();
    assert!(read_all(&client, 100_000, 16).await == pattern(0, 4 << 20));
    assert!(matches!(client.block_status(0, 1).await.unwrap_err(), Error::Request { .. }));
    let error = server.client("", Some(CONTEXT_ALLOCATION)).await.unwrap_err();
    assert!(matches!(&error, Error::Handshake { .. }) && error.to_string().contains("structured"), "{error}");
}

#[tokio::test]
async fn a_servers_read_error_carries_its_number_and_the_connection_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken");
    let trigger = format!("error-file={}", broken.display());
    let arguments =
        ["--filter=error", "pattern", "1M", "error-pread=ENOSPC", "error-pread-rate=100%", &trigger];
    let server = nbdkit(dir.path(), &arguments);
    let client = server.client("", None).await.unwrap();
    assert_eq!(client.read(8, 8).await.unwrap(), pattern(8, 8));
    std::fs::write(&broken, "").unwrap();
    let error = client.read(4096, 512).await.unwrap_err();
    assert!(matches!(error, Error::Server { errno: 28, .. }), "{error:?}");
    assert!(error.to_string().contains("512 bytes at 4096"), "{error}");
    std::fs::remove_file(&broken).unwrap();
    assert_eq!(client.read(8, 8).await.unwrap(), pattern(8, 8));
}

#[tokio::test]
async fn a_server_that_insists_on_whole_blocks_gets_them() {
    let dir = tempfile::tempdir().unwrap();
    let policy = ["blocksize-minimum=4096", "blocksize-maximum=1M", "blocksize-error-policy=error"];
    let server = nbdkit(dir.path(), &[&["--filter=blocksize-policy", "pattern", "4M"][..], &policy].concat());
    let client = server.client("", None).await.unwrap();
    assert_eq!((client.block_sizes().min, client.block_sizes().max), (4096, 1 << 20));
    for (offset, length) in [(1, 1), (4095, 2), (100, 9000), ((4 << 20) - 1, 1)] {
        assert!(
            client.read(offset, length).await.unwrap() == pattern(offset, length),
            "{length} at {offset}"
        );
    }
}

//! The server against clients that are old, malformed, greedy or hostile, byte by byte.

use crate::programs::noise;
use crate::serve::{Memory, Running, disk};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

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
async fn a_server_survives_seeded_garbage() {
    let server = Running::start([("vda", Memory::new(disk()))]);
    for seed in 1..200_u64 {
        // Garbage instead of options; instead of requests; and proper headers with garbage in their fields.
        let garbage = noise(300, seed);
        let mut stream = match seed % 3 {
            0 => rude(&server, 3, &[]).await,
            1 => rude(&server, 3, &[(u32::from(garbage[0] % 12), &garbage[1..40]), (1, b"vda")]).await,
            _ => rude(&server, 3, &[(8, b""), (1, b"vda")]).await,
        };
        for fields in garbage.chunks_exact(24) {
            let magic: &[u8] = if seed % 3 == 2 { &[0x25, 0x60, 0x95, 0x13, 0, 0, 0] } else { &fields[..7] };
            let command = [fields[0] % 10];
            // The server may have closed already; that is its right.
            let _ = stream.write_all(&[magic, &command, &fields[4..24]].concat()).await;
        }
        stream.shutdown().await.unwrap_or_default();
        closed(stream).await;
    }
    assert!(!server.task.is_finished());
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

//! Connections that work: messages and blocks, both ways, at length, idle, and against a peer that is slow.

use crate::support::{attempt, hello, host, pair, quick, random, replication};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use standin_wire::block::{encode, zero};
use standin_wire::{BlockData, Compression, Error, Frame, Receiver, Sender, Settings};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    text: String,
    number: u64,
}

async fn note(receiver: &mut Receiver) -> Note {
    match receiver.next().await.unwrap() {
        Some(Frame::Control(control)) => control.parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn a_note(number: u64) -> Note {
    Note { text: "a note".to_owned(), number }
}

#[tokio::test]
async fn messages_and_blocks_arrive_in_order_and_the_end_is_orderly() {
    let (client, server, _host) = pair(quick()).await;
    assert_eq!(client.peer_hello().host, "server");
    assert_eq!(server.peer_hello().host, "client");
    assert_eq!(server.peer().names, ["host-a.example", "localhost"]);
    assert_eq!(client.version(), 2);
    let (mut sender, _receiver) = client.split();
    let (_back, mut receiver) = server.split();
    let data = Bytes::from(random(300_000, 1));
    sender.control(&a_note(1)).await.unwrap();
    sender.block(encode(4, 0, data.clone(), 4096, Compression::Zstd(3)).unwrap()).await.unwrap();
    sender.block(zero(4, 1 << 30, 1 << 40).unwrap()).await.unwrap();
    sender.control(&a_note(2)).await.unwrap();
    let sent = sender.bytes_sent();
    sender.close().await.unwrap();
    assert_eq!(note(&mut receiver).await, a_note(1));
    let Some(Frame::Block(block)) = receiver.next().await.unwrap() else { panic!("no block") };
    assert_eq!(block.decode().unwrap().data, BlockData::Data(data));
    let Some(Frame::Block(block)) = receiver.next().await.unwrap() else { panic!("no zeros") };
    assert_eq!(block.decode().unwrap().data, BlockData::Zero);
    assert_eq!(note(&mut receiver).await, a_note(2));
    assert_eq!(receiver.next().await.unwrap(), None);
    assert_eq!(receiver.next().await.unwrap(), None, "the end stays the end");
    assert!(sent > 300_000 && sent < 310_000, "{sent} bytes sent");
    assert!(receiver.bytes_received() >= sent);
}

#[tokio::test]
async fn small_blocks_share_records_so_that_random_writes_stay_cheap() {
    let (client, server, _host) = pair(quick()).await;
    let (mut sender, _receiver) = client.split();
    let before = sender.bytes_sent();
    let reading = tokio::spawn(async move {
        let (_back, mut receiver) = server.split();
        let mut got = 0;
        while let Some(Frame::Block(block)) = receiver.next().await.unwrap() {
            block.decode().unwrap();
            got += 1;
        }
        got
    });
    for number in 0..2000_u64 {
        let data = Bytes::from(random(4096, number));
        sender.block(encode(0, number << 20, data, 4096, Compression::Zstd(3)).unwrap()).await.unwrap();
    }
    sender.flush().await.unwrap();
    let on_the_wire = sender.bytes_sent() - before;
    sender.close().await.unwrap();
    assert_eq!(reading.await.unwrap(), 2000);
    assert!(on_the_wire * 100 < 2000 * 4096 * 103, "{on_the_wire} bytes for {}", 2000 * 4096);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_carry_bulk_at_the_same_time() {
    async fn pour(mut sender: Sender) {
        for number in 0..200_u64 {
            let data = Bytes::from(random(100_000, number));
            sender.block(encode(0, number << 20, data, 65536, Compression::Off).unwrap()).await.unwrap();
        }
        sender.close().await.unwrap();
    }
    async fn drink(mut receiver: Receiver) {
        for number in 0..200_u64 {
            let Some(Frame::Block(block)) = receiver.next().await.unwrap() else { panic!("no block") };
            let block = block.decode().unwrap();
            assert_eq!(block.offset, number << 20);
            assert_eq!(block.data, BlockData::Data(Bytes::from(random(100_000, number))));
        }
        assert_eq!(receiver.next().await.unwrap(), None);
    }
    let (client, server, _host) = pair(quick()).await;
    let ((s1, r1), (s2, r2)) = (client.split(), server.split());
    let tasks =
        [tokio::spawn(pour(s1)), tokio::spawn(pour(s2)), tokio::spawn(drink(r1)), tokio::spawn(drink(r2))];
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn an_idle_connection_lives_while_both_sides_do() {
    let settings = Settings { idle_timeout: Duration::from_millis(400), ..quick() };
    let (client, server, _host) = pair(settings).await;
    let (mut sender, mut answers) = client.split();
    let (mut back, mut receiver) = server.split();
    let silence = tokio::time::timeout(Duration::from_secs(2), answers.next());
    let listening = tokio::spawn(async move {
        let note = note(&mut receiver).await;
        back.control(&note).await.unwrap();
        (back, receiver)
    });
    assert!(silence.await.is_err(), "an idle connection ended");
    sender.control(&a_note(7)).await.unwrap();
    assert_eq!(note(&mut answers).await, a_note(7));
    listening.await.unwrap();
}

#[tokio::test]
async fn a_peer_that_pings_more_often_than_we_do_is_answered() {
    let host = host();
    let (listener, address) = crate::support::listener().await;
    let hasty = Settings { idle_timeout: Duration::from_millis(500), ..quick() };
    let patient = Settings { idle_timeout: Duration::from_secs(60), ..quick() };
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        standin_wire::accept_with(stream, &host.identity, hello("patient"), &patient).await
    };
    let connecting = standin_wire::connect_with(&address, &host.identity, hello("hasty"), &hasty);
    let (client, server) = tokio::join!(connecting, serving);
    let (_sender, mut answers) = client.unwrap().split();
    let (_back, mut receiver) = replication(server.unwrap()).split();
    let listening = tokio::spawn(async move { receiver.next().await });
    let heard = tokio::time::timeout(Duration::from_millis(1500), answers.next()).await;
    assert!(heard.is_err(), "the patient side pings every 20 s, but it answers: {heard:?}");
    listening.abort();
}

#[tokio::test]
async fn a_silent_peer_is_given_up_and_the_sender_with_it() {
    let host = host();
    let (listener, address) = crate::support::listener().await;
    // Its server side never wakes up: it is frozen after the handshake, as a host that lost its power.
    let frozen = Settings { idle_timeout: Duration::from_secs(3600), ..quick() };
    let settings = Settings { idle_timeout: Duration::from_millis(300), ..quick() };
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        standin_wire::accept_with(stream, &host.identity, hello("frozen"), &frozen).await
    };
    let connecting = standin_wire::connect_with(&address, &host.identity, hello("client"), &settings);
    let (client, server) = tokio::join!(connecting, serving);
    let _frozen = server.unwrap();
    let (mut sender, mut receiver) = client.unwrap().split();
    let began = Instant::now();
    let filling = tokio::spawn(async move {
        loop {
            let block = encode(0, 0, Bytes::from(random(1 << 20, 1)), 4096, Compression::Off).unwrap();
            if let Err(error) = sender.block(block).await {
                return error;
            }
        }
    });
    assert!(matches!(receiver.next().await, Err(Error::Silent { .. })));
    assert!(began.elapsed() < Duration::from_secs(3));
    // The sender hung in a full socket; it must not hang there for ever.
    let error = tokio::time::timeout(Duration::from_secs(2), filling).await.unwrap().unwrap();
    assert!(matches!(error, Error::Closed { .. }), "{error:?}");
}

/// A receiver that was busy writing to a disk for longer than the idle timeout finds the peer's signs of life in
/// the socket, and not silence.
#[tokio::test]
async fn a_slow_consumer_does_not_take_its_own_pause_for_silence() {
    let settings = Settings { idle_timeout: Duration::from_millis(300), ..quick() };
    let (client, server, _host) = pair(settings).await;
    let (mut sender, _receiver) = client.split();
    let (_back, mut receiver) = server.split();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    sender.control(&a_note(1)).await.unwrap();
    assert_eq!(note(&mut receiver).await, a_note(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_makes_the_writer_wait() {
    let settings = Settings { idle_timeout: Duration::from_secs(30), ..quick() };
    let (client, server, _host) = pair(settings).await;
    let (mut sender, _receiver) = client.split();
    let (_back, mut receiver) = server.split();
    let accepted = Arc::new(AtomicU64::new(0));
    let counter = accepted.clone();
    let block = encode(0, 0, Bytes::from(random(1 << 20, 1)), 1 << 20, Compression::Off).unwrap();
    let writing = tokio::spawn(async move {
        for _ in 0..200 {
            sender.block(block.clone()).await.unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
        }
        sender.close().await.unwrap();
    });
    let mut before = u64::MAX;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = accepted.load(Ordering::Relaxed);
        if now == before {
            break;
        }
        before = now;
    }
    // What the kernel buffers on loopback: up to 4 MiB to send and 6 MiB received, and one block with us.
    assert!(before < 32, "{before} MiB were taken from the writer though nobody reads");
    let mut got = 0;
    while let Some(Frame::Block(block)) = receiver.next().await.unwrap() {
        block.decode().unwrap();
        got += 1;
    }
    writing.await.unwrap();
    assert_eq!(got, 200);
}

#[tokio::test]
async fn next_may_be_cancelled_at_any_time() {
    let (client, server, _host) = pair(quick()).await;
    let (mut sender, _receiver) = client.split();
    let (_back, mut receiver) = server.split();
    let sending = tokio::spawn(async move {
        for number in 0..100_u64 {
            let data = Bytes::from(random(50_000, number));
            sender.block(encode(0, number << 20, data, 4096, Compression::Off).unwrap()).await.unwrap();
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        sender.close().await.unwrap();
    });
    let mut got = 0_u64;
    let mut cancelled = 0;
    loop {
        match tokio::time::timeout(Duration::from_micros(50), receiver.next()).await {
            Err(_) => cancelled += 1,
            Ok(frame) => match frame.unwrap() {
                Some(Frame::Block(block)) => {
                    assert_eq!(block.decode().unwrap().offset, got << 20);
                    got += 1;
                }
                Some(other) => panic!("{other:?}"),
                None => break,
            },
        }
    }
    sending.await.unwrap();
    assert_eq!(got, 100);
    assert!(cancelled > 0, "nothing was cancelled, so nothing was tested");
}

/// A send that is cancelled while the socket is full has queued its frame whole.
#[tokio::test]
async fn a_cancelled_send_does_not_tear_a_frame() {
    let (client, server, _host) = pair(quick()).await;
    let (mut sender, _receiver) = client.split();
    let (_back, mut receiver) = server.split();
    let mut tried = 0_u64;
    let mut cancelled = 0;
    while cancelled < 3 {
        let block =
            encode(0, tried << 20, Bytes::from(random(1 << 20, tried)), 4096, Compression::Off).unwrap();
        if tokio::time::timeout(Duration::from_millis(200), sender.block(block)).await.is_err() {
            cancelled += 1;
        }
        tried += 1;
    }
    let finishing = tokio::spawn(async move { sender.close().await });
    let mut got = 0;
    while let Some(Frame::Block(block)) = receiver.next().await.unwrap() {
        assert_eq!(block.decode().unwrap().offset, got << 20);
        got += 1;
    }
    finishing.await.unwrap().unwrap();
    assert_eq!(got, tried);
}

#[tokio::test]
async fn a_refusal_after_the_handshake_reaches_the_peer_as_a_sentence() {
    let (client, server, _host) = pair(quick()).await;
    let (_sender, mut receiver) = client.split();
    let (back, _requests) = server.split();
    back.refuse("host-a.example may not replicate to here;\n add it with `standin auth add`").await.unwrap();
    match receiver.next().await {
        Err(Error::Refused { reason }) => {
            assert!(reason.contains("standin auth add") && !reason.contains('\n'), "{reason:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_peer_that_vanishes_is_not_taken_for_an_orderly_end() {
    let (client, server, _host) = pair(quick()).await;
    drop(server);
    let (_sender, mut receiver) = client.split();
    assert!(matches!(receiver.next().await, Err(Error::Closed { .. } | Error::Io { .. })));
    assert!(matches!(receiver.next().await, Err(Error::Closed { .. })), "and it stays over");
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_before_anything_is_sent() {
    let (client, server, _host) = pair(quick()).await;
    let (mut sender, _receiver) = client.split();
    let (_back, mut receiver) = server.split();
    assert!(matches!(sender.control(&"x".repeat(2 << 20)).await, Err(Error::Frame { .. })));
    sender.control(&a_note(3)).await.unwrap();
    assert_eq!(note(&mut receiver).await, a_note(3));
}

#[tokio::test]
async fn two_versions_that_do_not_meet_say_so_on_both_sides() {
    let host = host();
    for (client_range, server_range) in [((1, 2), (3, 5)), ((6, 9), (3, 5))] {
        let with = |name: &str, (min, max): (u16, u16)| {
            let mut hello = hello(name);
            (hello.min_version, hello.max_version) = (min, max);
            hello
        };
        let (client, server) = attempt(
            (&host.identity, with("c", client_range)),
            (&host.identity, with("s", server_range)),
            quick(),
        )
        .await;
        let client = client.unwrap_err();
        let server = server.unwrap_err();
        for (error, ours, theirs) in
            [(&client, client_range, server_range), (&server, server_range, client_range)]
        {
            match error {
                Error::Version { ours: o, theirs: t, .. } => {
                    assert_eq!(((o.min, o.max), (t.min, t.max)), (ours, theirs));
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(client.to_string().contains("3 to 5"), "{client}");
        assert!(client.remedy().contains("release"), "{}", client.remedy());
    }
}

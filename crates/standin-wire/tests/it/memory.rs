//! Connections in memory do what those over TLS do, in simulated time.

use crate::support::{hello, random};
use bytes::Bytes;
use standin_wire::block::encode;
use standin_wire::memory::{Cable, Direction, End, Network, pair};
use standin_wire::{BlockData, Compression, Connection, Error, Frame, Hello, Receiver, Sender, Settings};
use std::time::Duration;
use tokio::time::{Instant, timeout};

fn end(name: &str) -> End {
    End::new(&["localhost", &format!("{name}.example")], "192.0.2.1:8444".parse().unwrap(), hello(name))
}

type Halves = (Sender, Receiver);

fn connected() -> (Halves, Halves, Cable) {
    let (a, b, cable) = pair(&end("a"), &end("b")).unwrap();
    (a.split(), b.split(), cable)
}

async fn text(receiver: &mut Receiver) -> String {
    match receiver.next().await {
        Ok(Some(Frame::Control(control))) => control.parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn both_ends_know_each_other_and_frames_arrive_in_order_until_the_end() {
    let (a, b, _cable) = pair(&end("a"), &end("b")).unwrap();
    assert_eq!((a.peer().names[1].as_str(), a.peer_hello().host.as_str()), ("b.example", "b"));
    assert_eq!((b.peer().names[1].as_str(), b.peer_hello().host.as_str()), ("a.example", "a"));
    assert_ne!(a.peer().fingerprint, b.peer().fingerprint);
    assert_eq!((a.version(), b.version()), (2, 2));
    let ((mut sender, mut back), (mut answer, mut receiver)) = (a.split(), b.split());
    let data = Bytes::from(random(300_000, 1));
    sender.control("one").await.unwrap();
    sender.block(encode(4, 0, data.clone(), 4096, Compression::Zstd(3)).unwrap()).await.unwrap();
    sender.control("two").await.unwrap();
    answer.control("three").await.unwrap();
    let sent = sender.bytes_sent();
    assert!(matches!(sender.control(&"x".repeat(2 << 20)).await, Err(Error::Frame { .. })));
    sender.close().await.unwrap();
    assert_eq!(text(&mut receiver).await, "one");
    let Some(Frame::Block(block)) = receiver.next().await.unwrap() else { panic!("no block") };
    assert_eq!(block.decode().unwrap().data, BlockData::Data(data));
    assert_eq!(text(&mut receiver).await, "two");
    assert_eq!(receiver.next().await.unwrap(), None);
    assert_eq!(receiver.next().await.unwrap(), None, "the end stays the end");
    assert_eq!(text(&mut back).await, "three", "the other direction goes on");
    assert!(sent > 300_000 && receiver.bytes_received() >= sent);
}

#[tokio::test(start_paused = true)]
async fn the_first_frame_is_seen_before_the_connection_is_split() {
    let (a, mut b, _cable) = pair(&end("a"), &end("b")).unwrap();
    let (mut sender, _receiver) = a.split();
    sender.control("one").await.unwrap();
    sender.control("two").await.unwrap();
    let Ok(Some(Frame::Control(first))) = b.next().await else { panic!("no frame") };
    assert_eq!(first.parse::<String>().unwrap(), "one");
    let (_sender, mut receiver) = b.split();
    assert_eq!(text(&mut receiver).await, "two");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_arrives_with_its_sentence() {
    let ((sender, _a), (_b, mut receiver), _cable) = connected();
    sender.refuse("not today").await.unwrap();
    assert!(matches!(receiver.next().await, Err(Error::Refused { reason }) if reason == "not today"));
}

#[tokio::test(start_paused = true)]
async fn a_sender_waits_for_a_receiver_that_does_not_read() {
    let ((mut sender, _a), (_b, mut receiver), _cable) = connected();
    let block = || encode(0, 0, Bytes::from(random(1 << 18, 3)), 4096, Compression::Off).unwrap();
    let mut sent = 0;
    while timeout(Duration::from_secs(1), sender.block(block())).await.is_ok() {
        sent += 1;
        assert!(sent < 100, "nobody holds it back");
    }
    let mut got = 0;
    let reading = async {
        while let Ok(Some(Frame::Block(block))) = receiver.next().await {
            block.decode().unwrap();
            got += 1;
        }
    };
    let closing = async {
        sender.flush().await.unwrap();
        sender.close().await.unwrap();
    };
    tokio::join!(reading, closing);
    assert_eq!(got, sent + 1, "the one that was cancelled was queued whole");
}

#[tokio::test(start_paused = true)]
async fn a_cut_ends_both_ends_after_what_had_arrived() {
    let ((mut sender, mut back), (mut answer, mut receiver), cable) = connected();
    sender.control("one").await.unwrap();
    assert!(!cable.is_over());
    cable.cut();
    assert!(cable.is_over());
    assert!(sender.control("two").await.is_err());
    assert!(answer.control("three").await.is_err());
    assert_eq!(text(&mut receiver).await, "one");
    assert!(matches!(receiver.next().await, Err(Error::Closed { mid_frame: false })));
    assert!(matches!(back.next().await, Err(Error::Closed { mid_frame: false })));
}

#[tokio::test(start_paused = true)]
async fn a_cut_ends_a_sender_that_waits() {
    let ((mut sender, _a), _b, cable) = connected();
    let filling = async {
        loop {
            let block = encode(0, 0, Bytes::from(random(1 << 18, 3)), 4096, Compression::Off).unwrap();
            if let Err(error) = sender.block(block).await {
                return error;
            }
        }
    };
    let cutting = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cable.cut();
    };
    let (error, ()) = tokio::join!(filling, cutting);
    assert!(matches!(error, Error::Closed { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_dropped_is_not_taken_for_an_orderly_end() {
    let (a, (mut answer, mut receiver), cable) = connected();
    drop(a);
    assert!(matches!(receiver.next().await, Err(Error::Closed { .. })));
    assert!(answer.control("?").await.is_err());
    drop((answer, receiver));
    // The task that sends signs of life ends with its sender, at its next turn.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(cable.is_over());
}

#[tokio::test(start_paused = true)]
async fn what_is_held_arrives_later_and_what_is_lost_never() {
    let ((mut sender, mut back), (mut answer, mut receiver), cable) = connected();
    cable.hold(Direction::Forth);
    sender.control("held").await.unwrap();
    let soon = timeout(Duration::from_secs(5), receiver.next()).await;
    assert!(soon.is_err(), "{soon:?}");
    answer.control("back").await.unwrap();
    assert_eq!(text(&mut back).await, "back", "the other direction goes on");
    cable.flow(Direction::Forth);
    assert_eq!(text(&mut receiver).await, "held");
    cable.lose(Direction::Forth);
    sender.control("lost").await.unwrap();
    cable.flow(Direction::Forth);
    sender.control("kept").await.unwrap();
    assert_eq!(text(&mut receiver).await, "kept");
}

#[tokio::test(start_paused = true)]
async fn idle_ends_hear_each_other_and_one_that_hears_nothing_gives_up() {
    let ((_sender, mut back), (_answer, mut receiver), cable) = connected();
    let idle = tokio::join!(
        timeout(Duration::from_secs(600), back.next()),
        timeout(Duration::from_secs(600), receiver.next())
    );
    assert!(idle.0.is_err() && idle.1.is_err(), "{idle:?}");
    cable.hold(Direction::Forth);
    let begun = Instant::now();
    let deaf = async { (receiver.next().await, begun.elapsed()) };
    let hearing = async { (back.next().await, begun.elapsed()) };
    let ((there, there_after), (here, here_after)) = tokio::join!(deaf, hearing);
    assert!(matches!(there, Err(Error::Silent { .. })), "{there:?}");
    // An end that gave up sends no more signs of life: the other gives up by their absence, and not before.
    assert!(matches!(here, Err(Error::Silent { .. })), "{here:?}");
    assert!(there_after <= Duration::from_secs(31), "{there_after:?}");
    assert!(here_after > there_after + Duration::from_secs(15), "{there_after:?} {here_after:?}");
    assert!(here_after < Duration::from_secs(65), "{here_after:?}");
}

#[tokio::test(start_paused = true)]
async fn versions_that_do_not_meet_are_told() {
    let newer = Hello { min_version: 7, max_version: 9, ..hello("b") };
    let error = pair(&end("a"), &End { hello: newer, ..end("b") }).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Version { .. }), "{error}");
}

async fn accepted(listening: &mut tokio::sync::mpsc::UnboundedReceiver<Connection>) -> Connection {
    timeout(Duration::from_secs(1), listening.recv()).await.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn hosts_reach_each_other_where_somebody_listens_and_the_way_is_not_cut() {
    let network = Network::new(Settings::default());
    let refused = network.connect(&end("a"), "b:1").await;
    assert!(matches!(refused, Err(Error::Connect { .. })), "{refused:?}");
    let mut listening = network.listen("b:1", end("b"));
    let ours = network.connect(&end("a"), "b:1").await.unwrap();
    let theirs = accepted(&mut listening).await;
    assert_eq!((ours.peer_hello().host.as_str(), theirs.peer_hello().host.as_str()), ("b", "a"));
    assert_eq!(network.connections_to("b"), 1);
    network.cut("b", "a");
    let (_sender, mut receiver) = ours.split();
    assert!(receiver.next().await.is_err());
    assert!(network.connect(&end("a"), "b:1").await.is_err());
    assert!(network.connect(&end("c"), "b:1").await.is_ok(), "another host is not cut off");
    network.mend("a", "b");
    assert!(network.connect(&end("a"), "b:1").await.is_ok());
    network.remove("b");
    assert_eq!(network.connections_to("b"), 0);
    assert!(network.connect(&end("a"), "b:1").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_way_that_is_held_lets_nobody_connect_until_it_is_mended() {
    let network = Network::default();
    let mut listening = network.listen("b:1", end("b"));
    network.hold("b", "a");
    let begun = Instant::now();
    let slow = network.connect(&end("a"), "b:1").await;
    assert!(matches!(slow, Err(Error::Slow { .. })), "{slow:?}");
    assert_eq!(begun.elapsed(), Duration::from_secs(10));
    let from = end("a");
    let mending = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        network.mend("a", "b");
    };
    let (connected, ()) = tokio::join!(network.connect(&from, "b:1"), mending);
    let (mut sender, _receiver) = connected.unwrap().split();
    let (_back, mut receiver) = accepted(&mut listening).await.split();
    network.lose("a", "b");
    sender.control("lost").await.unwrap();
    network.mend("a", "b");
    sender.control("kept").await.unwrap();
    assert_eq!(text(&mut receiver).await, "kept");
    network.power_off("b");
    sender.control("into the void").await.unwrap();
    let (error, begun) = (receiver.next().await, Instant::now());
    assert!(matches!(error, Err(Error::Silent { .. })), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(31));
}

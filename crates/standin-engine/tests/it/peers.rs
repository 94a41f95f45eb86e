//! Hosts that call each other: over connections in memory and in simulated time, and once over TLS.

mod hosts;
mod tls;

use hosts::{World, ask, fact, id, peer, vm};
use standin_engine::messages::{Reply, Request};
use standin_engine::peers::{Address, Answer, Call, Silence};
use standin_model::fence::Place;
use standin_model::{HostId, ReturnCode};
use standin_wire::{Frame, Hello};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn whoever_dialled_both_call_each_other_on_one_link() {
    let world = World::new();
    let (a, b) = (world.host("a", 1), world.host("b", 2));
    b.script.places([Place::NotHere]);
    a.script.places([Place::Runs]);
    let said = a.peers.call(id(2), &peer("b"), ask(vm(7)), 5 * SECOND).await;
    assert_eq!(hosts::place(&said), Place::NotHere);
    // B knows no address of A, and needs none.
    let said = b.peers.call(id(1), &[], ask(vm(7)), 5 * SECOND).await;
    assert_eq!(hosts::place(&said), Place::Runs);
    assert_eq!((a.connections(), b.connections()), (0, 1));
    assert_eq!(b.script.calls(), [("a.example".to_owned(), ask(vm(7)))]);
    assert_eq!((a.peers.linked(), b.peers.linked()), (vec![id(2)], vec![id(1)]));
    assert_eq!(b.peers.name(id(1)).as_deref(), Some("a.example"));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_does_not_answer_is_silent_at_the_deadline() {
    let world = World::new();
    let (a, b) = (world.host("a", 1), world.host("b", 2));
    b.script.stall();
    let begun = Instant::now();
    let said = a.peers.call(id(2), &peer("b"), ask(vm(7)), 5 * SECOND).await;
    assert_eq!(said, Err(Silence::NoAnswer { host: "b.example".into() }));
    assert_eq!(begun.elapsed(), 5 * SECOND);
    // The link is not to blame.
    assert!(a.peers.watch(id(2)).borrow().up);
    assert_eq!(b.script.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_cannot_be_reached_is_silent_with_the_reason() {
    let world = World::new();
    let a = world.host("a", 1);
    let said = a.peers.call(id(2), &peer("b"), ask(vm(7)), 5 * SECOND).await;
    let Err(Silence::Unreachable(refusal)) = said else { panic!("{said:?}") };
    assert_eq!(refusal.code, ReturnCode::NotAvailable);
    assert!(refusal.message.contains("cannot connect to b:1"), "{refusal}");
    let said = a.peers.call(id(2), &[], ask(vm(7)), 5 * SECOND).await;
    assert_eq!(said, Err(Silence::NoAddress { host: id(2).to_string() }));
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_wanted_comes_back_after_a_cut_and_all_is_told_again() {
    let world = World::new();
    let (a, b) = (world.host("a", 1), world.host("b", 2));
    a.script.knows([fact(vm(7), Place::Runs)]);
    a.peers.keep(Address { host: Some(id(2)), addresses: peer("b") });
    hosts::up(&a, id(2)).await;
    b.script.heard(vm(7), Place::Runs).await;
    world.network.cut("a", "b");
    hosts::down(&a, id(2)).await;
    hosts::down(&b, id(1)).await;
    let said = b.peers.call(id(1), &[], ask(vm(7)), 5 * SECOND).await;
    assert!(said.is_err(), "{said:?}");
    sleep(40 * SECOND).await;
    b.script.forget();
    a.script.knows([fact(vm(7), Place::Lives)]);
    world.network.mend("a", "b");
    let begun = Instant::now();
    hosts::up(&b, id(1)).await;
    b.script.heard(vm(7), Place::Lives).await;
    assert!(begun.elapsed() <= 61 * SECOND, "{:?}", begun.elapsed());
    a.peers.forget(&Address { host: Some(id(2)), addresses: peer("b") });
    world.network.cut("a", "b");
    hosts::down(&a, id(2)).await;
    world.network.mend("a", "b");
    sleep(600 * SECOND).await;
    assert_eq!(a.peers.linked(), [], "nobody wants it any more");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_has_moved_is_held_at_its_new_address_alone() {
    let world = World::new();
    let (a, _b) = (world.host("a", 1), world.host("b", 2));
    let at = |name: &str| Address { host: Some(id(2)), addresses: peer(name) };
    a.peers.keep(at("nowhere"));
    sleep(5 * SECOND).await;
    a.peers.keep(at("b"));
    hosts::up(&a, id(2)).await;
    a.peers.forget(&at("nowhere"));
    a.peers.forget(&at("b"));
    world.network.cut("a", "b");
    hosts::down(&a, id(2)).await;
    sleep(60 * SECOND).await;
    let dialled = a.dials();
    sleep(600 * SECOND).await;
    assert_eq!(a.dials(), dialled, "nobody wants it, at neither address");
}

#[tokio::test(start_paused = true)]
async fn a_cut_in_one_direction_is_silence_and_then_the_end_of_the_link() {
    for lost in [false, true] {
        let world = World::new();
        let (a, b) = (world.host("a", 1), world.host("b", 2));
        a.peers.keep(Address { host: Some(id(2)), addresses: peer("b") });
        hosts::up(&a, id(2)).await;
        if lost {
            world.network.lose("b", "a")
        } else {
            world.network.hold("b", "a")
        }
        let begun = Instant::now();
        let said = a.peers.call(id(2), &peer("b"), ask(vm(7)), 5 * SECOND).await;
        assert_eq!(said, Err(Silence::NoAnswer { host: "b.example".into() }), "lost: {lost}");
        assert_eq!(begun.elapsed(), 5 * SECOND);
        assert_eq!(b.script.calls().len(), 1, "it was heard");
        // No sign of life comes either.
        hosts::down(&a, id(2)).await;
        assert!(begun.elapsed() <= 35 * SECOND, "{:?}", begun.elapsed());
        world.network.mend("a", "b");
        hosts::up(&a, id(2)).await;
        let said = a.peers.call(id(2), &peer("b"), ask(vm(8)), 5 * SECOND).await;
        assert!(said.is_ok(), "{said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_that_dial_each_other_at_once_settle_on_one_link() {
    let world = World::new();
    let (a, b) = (world.host("a", 1), world.host("b", 2));
    a.peers.keep(Address { host: None, addresses: peer("b") });
    b.peers.keep(Address { host: None, addresses: peer("a") });
    let (to_a, to_b) = (peer("a"), peer("b"));
    let (from_a, from_b) = tokio::join!(
        a.peers.call(id(2), &to_b, ask(vm(7)), 5 * SECOND),
        b.peers.call(id(1), &to_a, ask(vm(7)), 5 * SECOND),
    );
    assert!(from_a.is_ok() && from_b.is_ok(), "{from_a:?} {from_b:?}");
    sleep(300 * SECOND).await;
    assert!(a.connections() >= 1 && b.connections() >= 1, "both have dialled");
    // The one that A, with the smaller id, has dialled.
    assert_eq!((a.open_connections(), b.open_connections()), (0, 1));
    assert_eq!((a.peers.linked(), b.peers.linked()), (vec![id(2)], vec![id(1)]));
    for _ in 0..3 {
        let (from_a, from_b) = tokio::join!(
            a.peers.call(id(2), &[], ask(vm(7)), 5 * SECOND),
            b.peers.call(id(1), &[], ask(vm(7)), 5 * SECOND),
        );
        assert!(from_a.is_ok() && from_b.is_ok(), "{from_a:?} {from_b:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_lost_its_power_is_linked_anew_as_soon_as_it_is_back() {
    let world = World::new();
    let a = world.host("a", 1);
    let before = world.host("b", 2);
    let said = a.peers.call(id(2), &peer("b"), ask(vm(7)), 5 * SECOND).await;
    assert!(said.is_ok());
    // Nothing tells A that B is gone.
    world.network.power_off("b");
    let b = world.host("b", 2);
    let said = b.peers.call(id(1), &peer("a"), ask(vm(7)), 5 * SECOND).await;
    assert!(said.is_ok(), "{said:?}");
    let said = a.peers.call(id(2), &[], ask(vm(8)), 5 * SECOND).await;
    assert!(said.is_ok(), "{said:?}");
    assert_eq!(
        (b.script.calls().len(), before.script.calls().len()),
        (1, 1),
        "it reaches the process that is there"
    );
}

#[tokio::test(start_paused = true)]
async fn a_host_of_protocol_version_1_is_silent_with_the_reason() {
    let world = World::new();
    let a = world.host("a", 1);
    let old = Hello { max_version: 1, ..Hello::new("b", "standin 0") };
    let mut listening = world.listen("b", old);
    let said = a.peers.call(HostId::of_name("b.example"), &peer("b"), ask(vm(7)), 5 * SECOND).await;
    assert_eq!(said, Err(Silence::OldVersion { host: "b:1".into() }));
    // It is told nothing that it does not understand.
    let mut connection = listening.recv().await.expect("a connection");
    assert_eq!(connection.next().await.expect("an orderly end"), None);
}

#[tokio::test(start_paused = true)]
async fn a_host_id_with_another_certificate_is_refused() {
    let world = World::new();
    let (a, b) = (world.host("a", 1), world.host("b", 2));
    assert!(a.peers.call(id(2), &peer("b"), ask(vm(7)), 5 * SECOND).await.is_ok());
    let thief = world.host("c", 2);
    let said = thief.peers.call(id(1), &peer("a"), ask(vm(7)), 5 * SECOND).await;
    let Err(Silence::Refused(refusal)) = said else { panic!("{said:?}") };
    assert_eq!(refusal.code, ReturnCode::AccessDenied);
    assert!(refusal.message.contains("bound to b.example"), "{refusal}");
    assert_eq!(a.script.calls(), [], "it was not asked");
    // Dialled at the address of another host, it is not taken for that either.
    let said = a.peers.call(id(3), &peer("b"), ask(vm(7)), 5 * SECOND).await;
    let found = Silence::OtherHost { address: "b:1".into(), name: "b.example".into(), found: id(2) };
    assert_eq!(said, Err(found));
    let said = a.peers.call(id(2), &[], ask(vm(8)), 5 * SECOND).await;
    assert!(said.is_ok(), "the true one is linked: {said:?}");
    assert_eq!(b.script.calls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_newer_host_says_is_refused_or_passed_over_and_ends_nothing() {
    let world = World::new();
    let (a, end) = (world.host("a", 1), world.end("b", Hello::new("b", "standin 9").of(id(2), 1)));
    let connection = world.network.connect(&end, "a:1").await.expect("connected");
    let (mut sender, mut receiver) = connection.split();
    sender.control(&Request::Link { run: Uuid::from_u128(9), number: 1 }).await.expect("sent");
    let mut next = async || match receiver.next().await {
        Ok(Some(Frame::Control(control))) => control.parse::<serde_json::Value>().expect("JSON"),
        other => panic!("{other:?}"),
    };
    let linked: Reply = serde_json::from_value(next().await).expect("a reply");
    assert!(matches!(linked, Reply::Linked { .. }), "{linked:?}");
    let messages = [
        r#"{"id":1,"body":{"call":{"migrate":{"vm":"x"}}}}"#,
        r#"{"id":2,"body":{"cancel":{"id":1}}}"#,
        r#"{"id":77,"body":{"answer":{"ask":{"claim":null,"place":"runs"}}}}"#,
        r#"{"id":3,"body":{"call":{"claims":[]}}}"#,
    ];
    for message in messages {
        let message: serde_json::Value = serde_json::from_str(message).expect("JSON");
        sender.control(&message).await.expect("sent");
    }
    let refused = next().await;
    assert_eq!(refused["id"], 1);
    let refusal = &refused["body"]["answer"]["refused"];
    assert_eq!(refusal["code"], u32::from(ReturnCode::NotSupported), "{refused}");
    assert_eq!(next().await, serde_json::json!({"id": 3, "body": {"answer": {"claims": []}}}));
    assert_eq!(a.peers.linked(), [id(2)]);
    // An answer that this release cannot read is none.
    let answering = async {
        let asked = next().await;
        assert!(asked["body"]["call"]["ask"].is_object(), "{asked}");
        let body = serde_json::json!({"answer": {"perhaps": {}}});
        sender.control(&serde_json::json!({"id": asked["id"], "body": body})).await.expect("sent");
    };
    let (said, ()) = tokio::join!(a.peers.call(id(2), &[], ask(vm(7)), 5 * SECOND), answering);
    assert!(
        matches!(&said, Err(Silence::Unreadable { reason, .. }) if reason.contains("perhaps")),
        "{said:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn calls_beyond_what_a_host_answers_are_refused_and_its_own_still_go_through() {
    let world = World::new();
    let (a, end) = (world.host("a", 1), world.end("b", Hello::new("b", "standin 9").of(id(2), 1)));
    a.script.stall();
    let connection = world.network.connect(&end, "a:1").await.expect("connected");
    let (mut sender, mut receiver) = connection.split();
    sender.control(&Request::Link { run: Uuid::from_u128(9), number: 1 }).await.expect("sent");
    assert!(receiver.next().await.expect("a reply").is_some());
    let call = serde_json::to_value(ask(vm(7))).expect("JSON");
    for number in 0..200 {
        sender.control(&serde_json::json!({"id": number, "body": {"call": call}})).await.expect("sent");
    }
    for _ in 128..200 {
        let Ok(Some(Frame::Control(control))) = receiver.next().await else { panic!("no refusal") };
        let refused: serde_json::Value = control.parse().expect("JSON");
        assert_eq!(refused["body"]["answer"]["refused"]["code"], u32::from(ReturnCode::InUse), "{refused}");
    }
    assert_eq!(a.script.calls().len(), 128);
    let asking = a.peers.call(id(2), &[], ask(vm(9)), 5 * SECOND);
    let answering = async {
        let Ok(Some(Frame::Control(control))) = receiver.next().await else { panic!("no call") };
        let asked: serde_json::Value = control.parse().expect("JSON");
        let body = serde_json::json!({"answer": {"claims": []}});
        sender.control(&serde_json::json!({"id": asked["id"], "body": body})).await.expect("sent");
    };
    let (said, ()) = tokio::join!(asking, answering);
    assert_eq!(said, Ok(Answer::Claims(Vec::new())));
}

#[tokio::test(start_paused = true)]
async fn of_many_changes_a_host_is_told_the_last_and_never_an_older_one_after_it() {
    let world = World::new();
    let (a, b) = (world.host("a", 1), world.host("b", 2));
    a.peers.keep(Address { host: Some(id(2)), addresses: peer("b") });
    hosts::up(&a, id(2)).await;
    b.script.stall();
    for _ in 0..50 {
        a.peers.announce(id(2), &peer("b"), vec![fact(vm(7), Place::Runs)]);
        tokio::task::yield_now().await;
    }
    a.peers.announce(id(2), &peer("b"), vec![fact(vm(7), Place::Lives)]);
    sleep(SECOND).await;
    b.script.resume();
    b.script.heard(vm(7), Place::Lives).await;
    let told: Vec<_> = b.script.claims(vm(7));
    assert!(told.len() <= 3, "{told:?}");
    assert_eq!(told.last(), Some(&Place::Lives));
    // And what B knows of it came back.
    a.script.was_answered().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_told_to_a_host_without_a_link_makes_one() {
    let world = World::new();
    let (a, b) = (world.host("a", 1), world.host("b", 2));
    a.peers.announce(id(2), &peer("b"), vec![fact(vm(7), Place::Runs)]);
    b.script.heard(vm(7), Place::Runs).await;
    assert_eq!(b.peers.linked(), [id(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_host_is_met_at_an_address_and_found_under_the_id_of_its_name() {
    let world = World::new();
    let (a, _b) = (world.host("a", 1), world.host("b", 2));
    let met = a.peers.meet(&Address { host: None, addresses: peer("b") }, 5 * SECOND).await.expect("met");
    assert_eq!((met.id, met.name.as_str(), met.address.as_deref()), (id(2), "b.example", Some("b:1")));
    // Its release before told no id.
    let former = HostId::of_name("b.example");
    let said = a.peers.call(former, &[], ask(vm(7)), 5 * SECOND).await;
    assert!(said.is_ok(), "{said:?}");
    assert_eq!(a.dials(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_stops_ends_its_links_and_what_waits_for_them() {
    let world = World::new();
    let (a, b) = (world.host("a", 1), world.host("b", 2));
    b.script.stall();
    let to_b = peer("b");
    let call = a.peers.call(id(2), &to_b, ask(vm(7)), 600 * SECOND);
    let stop = async {
        sleep(SECOND).await;
        b.stop().await;
    };
    let (said, ()) = tokio::join!(call, stop);
    assert!(said.is_err(), "{said:?}");
    hosts::down(&a, id(2)).await;
    let begun = Instant::now();
    a.stop().await;
    assert!(begun.elapsed() <= 2 * SECOND, "{:?}", begun.elapsed());
    let said = a.peers.call(id(2), &peer("b"), ask(vm(7)), 5 * SECOND).await;
    assert_eq!(said, Err(Silence::Stopping));
}

#[tokio::test(start_paused = true)]
async fn a_call_too_long_for_a_message_fails_alone() {
    let world = World::new();
    let (a, b) = (world.host("a", 1), world.host("b", 2));
    let long = Call::Ask { vm: vm(7), claim: None, seen: vec![id(5); 40_000] };
    let said = a.peers.call(id(2), &peer("b"), long, 5 * SECOND).await;
    assert!(matches!(said, Err(Silence::Unsendable { .. })), "{said:?}");
    let said = a.peers.call(id(2), &peer("b"), ask(vm(7)), 5 * SECOND).await;
    assert!(said.is_ok(), "{said:?}");
    assert_eq!((a.dials(), b.script.calls().len()), (1, 1));
}

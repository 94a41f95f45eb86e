use super::*;
use standin_model::ReturnCode;
use standin_state::{MemoryStore, StateStore};
use std::sync::Arc;
use uuid::Uuid;

fn tables() -> Tables {
    Tables::new(&(Arc::new(MemoryStore::new()) as Arc<dyn StateStore>))
}

fn identity(names: &[&str]) -> PeerIdentity {
    PeerIdentity {
        names: names.iter().map(ToString::to_string).collect(),
        fingerprint: String::new(),
        address: "192.0.2.7:40000".parse().expect("an address"),
        not_after: Timestamp::MAX,
    }
}

fn hello(id: HostId) -> Hello {
    Hello::new("b", "standin test").of(id, 8444)
}

fn id(number: u128) -> HostId {
    HostId(Uuid::from_u128(number))
}

async fn book() -> Book {
    Book::load(id(1), tables()).await.expect("a book")
}

#[tokio::test]
async fn an_id_with_another_certificate_is_refused_until_it_is_bound_anew() {
    let (tables, known) = (tables(), identity(&["localhost", "b.example"]));
    let book = Book::load(id(1), tables.clone()).await.expect("a book");
    let peer = book.admit(&known, &hello(id(2)), None).await.expect("admitted");
    assert_eq!((peer.id, peer.name.as_str()), (id(2), "b.example"));
    // Neither a name that every host has nor a restart of the daemon helps.
    let other = identity(&["c.example", "localhost"]);
    let book = Book::load(id(1), tables).await.expect("a book");
    let refusal = book.admit(&other, &hello(id(2)), None).await.expect_err("refused");
    assert_eq!(refusal.code, ReturnCode::AccessDenied);
    assert!(refusal.message.contains("c.example") && refusal.message.contains("b.example"), "{refusal}");
    let renewed = identity(&["alias.example", "b.example"]);
    book.admit(&renewed, &hello(id(2)), None).await.expect("a renewed certificate");
    book.rebind(id(2), vec!["c.example".into()]).await.expect("bound anew");
    book.admit(&other, &hello(id(2)), None).await.expect("admitted");
    book.admit(&known, &hello(id(2)), None).await.expect_err("refused");
    let unknown = book.rebind(id(9), vec!["c.example".into()]).await.expect_err("unknown");
    assert_eq!(unknown.code, ReturnCode::FileNotFound);
}

#[tokio::test]
async fn an_id_made_of_a_name_belongs_to_the_certificate_with_that_name() {
    let book = book().await;
    let old = Hello::new("b", "standin 0");
    let peer = book.admit(&identity(&["b.example"]), &old, None).await.expect("admitted");
    assert_eq!(peer.id, HostId::of_name("b.example"));
    let thief = hello(HostId::of_name("d.example"));
    book.admit(&identity(&["c.example"]), &thief, None).await.expect_err("refused");
    book.admit(&identity(&["d.example"]), &thief, None).await.expect("its own");
}

#[tokio::test]
async fn this_hosts_own_id_and_a_certificate_without_a_name_are_refused() {
    let book = book().await;
    let own = book.admit(&identity(&["b.example"]), &hello(id(1)), None).await.expect_err("refused");
    assert!(own.remedy.contains("host-id"), "{own:?}");
    book.admit(&identity(&["localhost"]), &hello(id(2)), None).await.expect_err("refused");
    assert_eq!(book.all(), []);
}

#[tokio::test]
async fn an_address_that_was_dialled_comes_before_those_that_were_told() {
    let book = book().await;
    let known = identity(&["b.example", "localhost"]);
    let told = book.admit(&known, &hello(id(2)), None).await.expect("admitted");
    assert_eq!(told.address.as_deref(), Some("b.example:8444"));
    let dialled = book.admit(&known, &hello(id(2)), Some("b:9")).await.expect("admitted");
    assert_eq!(dialled.address.as_deref(), Some("b:9"));
    let addresses = || book.get(id(2)).expect("known").addresses;
    assert_eq!(addresses(), ["b:9", "b.example:8444", "192.0.2.7:8444"]);
    for port in 1..100 {
        let hello = hello(id(2)).of(id(2), port);
        book.admit(&known, &hello, None).await.expect("admitted");
    }
    let kept = addresses();
    assert!(kept.len() <= ADDRESSES && kept[0] == "b:9" && kept.contains(&"192.0.2.7:99".into()), "{kept:?}");
}

#[tokio::test]
async fn a_host_that_makes_ids_up_takes_no_more_room_than_a_few() {
    let book = book().await;
    book.admit(&identity(&["b.example"]), &hello(id(2)), None).await.expect("admitted");
    for number in 100..150 {
        book.admit(&identity(&["c.example"]), &hello(id(number)), None).await.expect("admitted");
    }
    let known = book.all();
    assert_eq!(known.len(), 1 + IDS);
    assert_eq!(records::list(&book.tables.peers).await.expect("records").len(), 1 + IDS);
    assert!(book.get(id(2)).is_some() && book.get(id(149)).is_some());
}

#[tokio::test]
async fn a_host_is_known_from_before_by_the_address_that_was_dialled_and_by_none_that_it_calls_from() {
    let book = book().await;
    let (known, by_address) = (identity(&["b.example"]), HostId::of_name("192.0.2.7"));
    let calls = book.admit(&known, &hello(id(2)), None).await.expect("admitted");
    assert!(calls.former_ids().all(|former| former != by_address));
    let dialled = book.admit(&known, &hello(id(2)), Some("192.0.2.7:8444")).await.expect("admitted");
    assert!(dialled.former_ids().any(|former| former == by_address));
    assert!(dialled.former_ids().any(|former| former == HostId::of_name("b.example")));
}

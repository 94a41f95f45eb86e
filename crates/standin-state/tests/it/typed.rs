use serde::{Deserialize, Serialize};
use serde_json::json;
use standin_model::VmId;
use standin_state::typed::Upgrade;
use standin_state::{Expect, MemoryStore, StateError, StateStore, Typed};
use std::sync::Arc;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Host {
    name: String,
    port: u16,
}

fn host(name: &str) -> Host {
    Host { name: name.to_owned(), port: 8443 }
}

fn hosts(store: &Arc<dyn StateStore>, upgrades: &'static [Upgrade]) -> Typed<Host> {
    Typed::new(Arc::clone(store), "host", upgrades)
}

/// A step that changes nothing, for tests of what has many of them.
const SAME: Upgrade = |record| Ok(record);

fn memory() -> Arc<dyn StateStore> {
    Arc::new(MemoryStore::new())
}

#[tokio::test]
async fn records_are_written_read_listed_and_removed() {
    let store = memory();
    let hosts = hosts(&store, &[]);
    let id = VmId::random();
    let revision = hosts.put(id, &host("b"), Expect::Absent).await.expect("written");
    assert_eq!(hosts.get(id).await.expect("readable"), Some((host("b"), revision)));
    hosts.put("0", &host("a"), Expect::Absent).await.expect("written");
    store.put("hostile/1", b"not ours".to_vec(), Expect::Any).await.expect("written");
    let listed: Vec<String> =
        hosts.list().await.expect("readable").into_iter().map(|(id, _, _)| id).collect();
    assert_eq!(listed, ["0".to_owned(), id.to_string()]);
    hosts.delete(id, Expect::At(revision)).await.expect("removed");
    assert_eq!(hosts.get(id).await.expect("readable"), None);
}

#[tokio::test]
async fn records_of_several_types_change_in_one_transaction() {
    let store = memory();
    let (hosts, ports) = (hosts(&store, &[]), Typed::<u16>::new(Arc::clone(&store), "port", &[]));
    let held = hosts.put("a", &host("a"), Expect::Absent).await.expect("written");
    let stale = vec![
        ports.put_op("a", &1, Expect::Absent).expect("it has a JSON form"),
        hosts.put_op("a", &host("z"), Expect::Absent).expect("it has a JSON form"),
    ];
    assert!(store.transaction(stale).await.is_err());
    assert_eq!(ports.get("a").await.expect("readable"), None);
    let good =
        vec![ports.put_op("a", &1, Expect::Absent).expect("JSON"), hosts.delete_op("a", Expect::At(held))];
    store.transaction(good).await.expect("it holds");
    assert_eq!(hosts.get("a").await.expect("readable"), None);
}

#[tokio::test]
async fn older_records_are_brought_up_step_by_step() {
    const STEPS: &[Upgrade] = &[
        |mut record| {
            record["prot"] = json!(1);
            Ok(record)
        },
        |mut record| {
            let port = record["prot"].as_u64().ok_or("no port")?;
            record["port"] = json!(port + 1);
            Ok(record)
        },
    ];
    let store = memory();
    for (id, schema) in [("one", 1), ("two", 2), ("zero", 0)] {
        let old = json!({"schema": schema, "record": {"name": "b"}}).to_string();
        store.put(&format!("host/{id}"), old.into_bytes(), Expect::Any).await.expect("written");
    }
    let hosts = hosts(&store, STEPS);
    assert_eq!(hosts.get("one").await.expect("readable").map(|(host, _)| host.port), Some(2));
    let error = hosts.get("two").await.expect_err("what a version 2 has to have is not there");
    assert!(error.to_string().contains("no port"), "{error}");
    let error = hosts.get("zero").await.expect_err("never written");
    assert!(error.to_string().contains("host/zero") && error.to_string().contains("version 0"), "{error}");
}

#[tokio::test]
async fn a_newer_record_is_neither_read_nor_overlooked() {
    let store = memory();
    hosts(&store, &[SAME; 6]).put("a", &host("a"), Expect::Any).await.expect("written");
    let error = hosts(&store, &[SAME; 5]).list().await.expect_err("newer");
    assert!(matches!(error, StateError::NewerSchema { found: 7, known: 6, .. }), "{error}");
}

#[tokio::test]
async fn bytes_that_are_no_record_are_an_error_with_the_key() {
    let store = memory();
    for bytes in
        ["", "{}", "[]", "{\"schema\":1,\"record\":{\"name\":1}}", "\u{0}", "{\"schema\":-1,\"record\":{}}"]
    {
        store.put("host/a", bytes.as_bytes().to_vec(), Expect::Any).await.expect("written");
        let error = hosts(&store, &[]).get("a").await.expect_err(bytes);
        assert!(matches!(&error, StateError::BadRecord { key, .. } if key == "host/a"), "{error}");
    }
}

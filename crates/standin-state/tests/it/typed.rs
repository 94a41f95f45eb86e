use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use standin_model::VmId;
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

fn hosts(store: &Arc<dyn StateStore>, schema: u32) -> Typed<Host> {
    Typed::new(Arc::clone(store), "host", schema)
}

fn memory() -> Arc<dyn StateStore> {
    Arc::new(MemoryStore::new())
}

#[test]
fn records_are_written_read_listed_and_removed() {
    let store = memory();
    let hosts = hosts(&store, 1);
    let id = VmId::random();
    let revision = hosts.put(id, &host("b"), Expect::Absent).expect("written");
    assert_eq!(hosts.get(id).expect("readable"), Some((host("b"), revision)));
    hosts.put("0", &host("a"), Expect::Absent).expect("written");
    store.put("hostile/1", b"not ours".to_vec(), Expect::Any).expect("written");
    let listed: Vec<String> = hosts.list().expect("readable").into_iter().map(|(id, _, _)| id).collect();
    assert_eq!(listed, ["0".to_owned(), id.to_string()]);
    hosts.delete(id, Expect::At(revision)).expect("removed");
    assert_eq!(hosts.get(id).expect("readable"), None);
}

#[test]
fn records_of_several_types_change_in_one_transaction() {
    let store = memory();
    let (hosts, ports) = (hosts(&store, 1), Typed::<u16>::new(Arc::clone(&store), "port", 1));
    let held = hosts.put("a", &host("a"), Expect::Absent).expect("written");
    let stale = vec![
        ports.put_op("a", &1, Expect::Absent).expect("it has a JSON form"),
        hosts.put_op("a", &host("z"), Expect::Absent).expect("it has a JSON form"),
    ];
    assert!(store.transaction(stale).is_err());
    assert_eq!(ports.get("a").expect("readable"), None);
    let good =
        vec![ports.put_op("a", &1, Expect::Absent).expect("JSON"), hosts.delete_op("a", Expect::At(held))];
    store.transaction(good).expect("it holds");
    assert_eq!(hosts.get("a").expect("readable"), None);
}

#[test]
fn older_records_are_brought_up_step_by_step() {
    fn upgrade(from: u32, mut record: Value) -> Result<Value, String> {
        match from {
            1 => record["prot"] = json!(1),
            2 => {
                record["port"] = record["prot"].clone();
                record["port"] = json!(record["port"].as_u64().ok_or("no port")? + 1);
            }
            other => return Err(format!("version {other} was never written")),
        }
        Ok(record)
    }
    let store = memory();
    for (id, schema) in [("one", 1), ("zero", 0)] {
        let old = json!({"schema": schema, "record": {"name": "b"}}).to_string();
        store.put(&format!("host/{id}"), old.into_bytes(), Expect::Any).expect("written");
    }
    let hosts = hosts(&store, 3).with_upgrade(upgrade);
    assert_eq!(hosts.get("one").expect("readable").map(|(host, _)| host.port), Some(2));
    let error = hosts.get("zero").expect_err("never written");
    assert!(error.to_string().contains("host/zero") && error.to_string().contains("version 0"), "{error}");
}

#[test]
fn without_an_upgrade_an_older_record_is_an_error() {
    let store = memory();
    hosts(&store, 1).put("a", &host("a"), Expect::Any).expect("written");
    assert!(matches!(hosts(&store, 2).get("a"), Err(StateError::BadRecord { .. })));
}

#[test]
fn a_newer_record_is_neither_read_nor_overlooked() {
    let store = memory();
    hosts(&store, 7).put("a", &host("a"), Expect::Any).expect("written");
    let error = hosts(&store, 6).list().expect_err("newer");
    assert!(matches!(error, StateError::NewerSchema { found: 7, known: 6, .. }), "{error}");
}

#[test]
fn bytes_that_are_no_record_are_an_error_with_the_key() {
    let store = memory();
    for bytes in
        ["", "{}", "[]", "{\"schema\":1,\"record\":{\"name\":1}}", "\u{0}", "{\"schema\":-1,\"record\":{}}"]
    {
        store.put("host/a", bytes.as_bytes().to_vec(), Expect::Any).expect("written");
        let error = hosts(&store, 1).get("a").expect_err(bytes);
        assert!(matches!(&error, StateError::BadRecord { key, .. } if key == "host/a"), "{error}");
    }
}

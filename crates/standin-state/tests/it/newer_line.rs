//! Files that redb 4.6 wrote, as standin used it for a while: taken up with every record, and written to.

use standin_state::{Expect, RedbStore, Revision, StateStore};

/// The state of a daemon with five authorization entries that was killed, and the same after one that closed it.
const LEFT: [&[u8]; 2] = [
    include_bytes!("fixtures/redb-4.6-killed.redb.zst"),
    include_bytes!("fixtures/redb-4.6-stopped.redb.zst"),
];

async fn is_taken_up(image: &[u8]) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state");
    std::fs::write(&path, zstd::decode_all(image).expect("whole")).expect("writable");
    let mut records = None;
    for _ in 0..3 {
        let store = RedbStore::open(&path).expect("taken up");
        let found = store.list("auth/").await.expect("readable");
        assert_eq!(found.len(), 5);
        for (key, record) in &found {
            let value: serde_json::Value = serde_json::from_slice(&record.value).expect("JSON");
            assert!(key.ends_with(value["record"]["id"].as_str().unwrap_or("none")), "{key}: {value}");
        }
        assert_eq!(records.get_or_insert_with(|| found.clone()), &found, "the records changed");
        let newest = found.iter().map(|(_, record)| record.revision).max().expect("records");
        let revision = store.put("other", vec![1], Expect::Any).await.expect("written");
        assert!(revision > newest && revision != Revision(0), "a number was used again: {revision}");
    }
}

#[tokio::test]
async fn every_record_of_a_newer_line_is_taken_up_and_can_be_changed() {
    for image in LEFT {
        is_taken_up(image).await;
    }
}

#[tokio::test]
async fn a_damaged_file_of_a_newer_line_is_refused_or_whole_and_stays() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state");
    for whole in LEFT.map(|image| zstd::decode_all(image).expect("whole")) {
        for at in (64..whole.len()).step_by(997) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            std::fs::write(&path, &damaged).expect("writable");
            match RedbStore::open(&path) {
                Ok(store) => {
                    // All is there; or the damage is in the newest transaction, which a killed writer may have left half
                    // done.
                    assert!(store.list("auth/").await.expect("readable").len() >= 4, "byte {at}");
                }
                Err(error) => {
                    assert!(error.to_string().contains("move the file aside"), "byte {at}: {error}");
                    assert!(path.exists());
                }
            }
        }
    }
}

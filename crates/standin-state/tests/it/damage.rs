//! Files that are not what was written: errors that say what to do, never a panic, never another value.

use standin_state::{Expect, RedbStore, StateError, StateStore};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

async fn filled(directory: &Path) -> PathBuf {
    let path = directory.join("state");
    let store = RedbStore::open(&path).expect("an empty store");
    for number in 0..60_u8 {
        store.put(&format!("r/{number}"), vec![number; 700], Expect::Any).await.expect("written");
    }
    path
}

/// Reads everything and checks every value that is given out.
async fn read_all(path: &Path) -> Result<usize, StateError> {
    let store = RedbStore::open(path)?;
    let mut whole = 0;
    for number in 0..60_u8 {
        match store.get(&format!("r/{number}")).await {
            Ok(Some(found)) => {
                assert_eq!(found.value, vec![number; 700], "a damaged value was given out");
                whole += 1;
            }
            Ok(None) => {}
            Err(error) => return Err(error),
        }
    }
    store.list("").await.map(|_| whole)
}

fn is_told_what_to_do(error: &StateError) {
    let text = error.to_string();
    assert!(
        matches!(error, StateError::Corrupt { .. } | StateError::Closed { .. } | StateError::Io { .. }),
        "{text}"
    );
    if matches!(error, StateError::Corrupt { .. }) {
        assert!(text.contains("move the file aside") && text.contains("/state"), "{text}");
    }
}

#[tokio::test]
async fn what_is_no_store_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state");
    for content in [Vec::new(), b"hello".to_vec(), vec![0; 8192], vec![0xff; 1 << 20]] {
        std::fs::write(&path, &content).expect("writable");
        let error = RedbStore::open(&path).expect_err("no store");
        assert!(matches!(error, StateError::Corrupt { .. }), "{error} for {} bytes", content.len());
        is_told_what_to_do(&error);
        assert_eq!(std::fs::read(&path).expect("readable"), content, "the file was changed");
    }
}

#[tokio::test]
async fn a_cut_off_file_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = filled(directory.path()).await;
    let content = std::fs::read(&path).expect("readable");
    for part in 1..16 {
        std::fs::write(&path, &content[..content.len() * part / 16]).expect("writable");
        match read_all(&path).await {
            Err(error) => {
                assert!(matches!(error, StateError::Corrupt { .. }), "{part}: {error}");
                is_told_what_to_do(&error);
            }
            Ok(whole) => assert_eq!(whole, 60, "records are gone without a word"),
        }
        // What it says works.
        std::fs::rename(&path, directory.path().join("aside")).expect("moved");
        let store = RedbStore::open(&path).expect("an empty store");
        assert!(store.list("").await.expect("readable").is_empty());
        drop(store);
        std::fs::remove_file(&path).expect("removed");
    }
}

#[tokio::test]
async fn a_flipped_bit_never_becomes_another_value() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = filled(directory.path()).await;
    let content = std::fs::read(&path).expect("readable");
    let mut found = 0;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..150 {
        // xorshift: the same places in every run.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let place = seed % content.len() as u64;
        std::fs::write(&path, &content).expect("writable");
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("writable");
        let index = usize::try_from(place).expect("small");
        file.write_all_at(&[content[index] ^ (1 << (seed >> 40 & 7))], place).expect("writable");
        match read_all(&path).await {
            Err(error) => {
                found += 1;
                is_told_what_to_do(&error);
            }
            Ok(whole) => assert_eq!(whole, 60, "records are gone without a word after a flip at {place}"),
        }
    }
    assert!(found > 0, "no flip was found, so the test hit nothing");
}

#[tokio::test]
async fn a_store_that_is_open_elsewhere_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state");
    let held = RedbStore::open(&path).expect("an empty store");
    let error = RedbStore::open(&path).expect_err("held");
    assert!(matches!(error, StateError::InUse { .. }), "{error}");
    drop(held);
    RedbStore::open(&path).expect("free again");
}

#[tokio::test]
async fn a_missing_directory_is_an_error_with_its_path() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let error = RedbStore::open(directory.path().join("no/state")).expect_err("no directory");
    assert!(error.to_string().contains("no/state"), "{error}");
}

#[tokio::test]
async fn only_its_owner_may_read_the_file() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = filled(directory.path()).await;
    let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

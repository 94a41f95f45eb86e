//! What a kill leaves behind. The writer is this test binary again, killed while it writes.

use standin_state::{Expect, Op, RedbStore, StateStore};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Tells the child where to write.
const PATH: &str = "STANDIN_STATE_CRASH_TEST";

fn value(number: u64) -> Vec<u8> {
    // Of changing length, so that pages split and merge.
    number.to_le_bytes().repeat(usize::try_from(number % 97 + 1).expect("small"))
}

fn pair(number: u64) -> [String; 2] {
    // Few keys, so that most writes replace a record.
    [format!("left/{}", number % 40), format!("right/{}", number % 40)]
}

#[tokio::test]
#[ignore = "the child of an_acknowledged_write_survives_a_kill; alone it has nothing to do"]
async fn child() {
    let Ok(path) = std::env::var(PATH) else { return };
    let store = RedbStore::open(Path::new(&path)).expect("the store opens after every kill");
    let first = store.get("last").await.expect("readable").map_or(0, |found| decode(&found.value) + 1);
    let mut out = std::io::stdout();
    for number in first.. {
        let mut ops: Vec<Op> =
            pair(number).map(|key| Op::Put { key, value: value(number), expect: Expect::Any }).into();
        ops.push(Op::Put {
            key: "last".to_owned(),
            value: number.to_le_bytes().to_vec(),
            expect: Expect::Any,
        });
        store.transaction(ops).await.expect("writable");
        writeln!(out, "acknowledged {number}").and_then(|()| out.flush()).expect("the parent listens");
    }
}

fn decode(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

fn spawn(path: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this binary"))
        .args(["crash::child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(PATH, path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this binary starts")
}

/// Reads acknowledgements until there were `enough`, kills in the middle of the next writes, and gives the last
/// one that was acknowledged, those still in the pipe included.
fn kill_after(mut child: Child, enough: usize) -> u64 {
    let mut last = None;
    let mut seen = 0;
    for line in BufReader::new(child.stdout.take().expect("a pipe")).lines() {
        let line = line.expect("text");
        // The harness's own "test crash::child ... " may stand before the first one.
        let Some((_, number)) = line.split_once("acknowledged ") else { continue };
        last = Some(number.parse().expect("a number"));
        seen += 1;
        if seen == enough {
            child.kill().expect("it runs");
        }
    }
    assert!(!child.wait().expect("a child").success(), "the child ended by itself");
    last.expect("something was acknowledged")
}

#[tokio::test]
async fn an_acknowledged_write_survives_a_kill() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state");
    let mut newest = 0;
    for round in 0..12 {
        let acknowledged = kill_after(spawn(&path), 1 + round * 7 % 30);
        assert!(acknowledged >= newest);
        let store = RedbStore::open(&path).expect("the store opens after a kill");
        newest = decode(&store.get("last").await.expect("readable").expect("written").value);
        // At most the transaction in flight is there without its acknowledgement.
        assert!(newest == acknowledged || newest == acknowledged + 1, "{newest} after {acknowledged}");
        for number in newest.saturating_sub(39)..=newest {
            for key in pair(number) {
                let found = store.get(&key).await.expect("readable").expect("written");
                assert_eq!(found.value, value(number), "{key} in round {round}");
            }
        }
    }
    assert!(newest > 50, "only {newest} writes were made");
}

#[tokio::test]
async fn a_kill_while_the_store_is_made_leaves_none_or_a_whole_one() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for delay_ms in 0..12 {
        let path = directory.path().join(format!("state-{delay_ms}"));
        let mut child = spawn(&path);
        std::thread::sleep(std::time::Duration::from_millis(delay_ms * 2));
        child.kill().expect("it runs or has ended");
        child.wait().expect("a child");
        let store = RedbStore::open(&path).expect("whatever the kill left is made whole");
        store.put("a", b"1".to_vec(), Expect::Any).await.expect("writable");
    }
}

//! What disks do: fail, and lose what was not flushed. Played on redb's backend trait.

use super::content::Transaction;
use super::file::{FORMAT, META, checked};
use super::*;
use redb::backends::InMemoryBackend;
use redb::{Database, StorageBackend};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// What reached the disk, in order.
#[derive(Debug, Clone)]
enum Event {
    Write(usize, Vec<u8>),
    SetLen(usize),
    Sync,
    /// Not the disk's: this transaction was acknowledged to the caller.
    Acknowledged(u64),
}

/// A disk in memory that keeps a log of what it was told and can be told to fail.
#[derive(Debug)]
struct Disk {
    content: InMemoryBackend,
    log: Arc<Mutex<Vec<Event>>>,
    /// Calls that still succeed.
    left: Arc<AtomicU32>,
}

impl Disk {
    fn note(&self, event: Event) -> io::Result<()> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.left.store(left - 1, Ordering::Relaxed);
        self.log.lock().expect("no panic in a test").push(event);
        Ok(())
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).expect("a small file")
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.content.len()
    }
    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.content.read(offset, length)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(Event::SetLen(place(len)))?;
        self.content.set_len(len)
    }
    fn sync_data(&self, eventual: bool) -> io::Result<()> {
        self.note(Event::Sync)?;
        self.content.sync_data(eventual)
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.note(Event::Write(place(offset), data.to_vec()))?;
        self.content.write(offset, data)
    }
}

struct Played {
    store: RedbStore,
    log: Arc<Mutex<Vec<Event>>>,
    left: Arc<AtomicU32>,
}

const PATH: &str = "/test/state";

/// A store on such a disk that holds `image`.
fn played(image: &[u8]) -> Played {
    let (database, log, left) = opened(image);
    let path = PathBuf::from(PATH);
    let content = Content::take(&path, database).expect("a whole store");
    Played { store: RedbStore::start(content, path).expect("a thread"), log, left }
}

type Opened = (Database, Arc<Mutex<Vec<Event>>>, Arc<AtomicU32>);

fn opened(image: &[u8]) -> Opened {
    let content = InMemoryBackend::new();
    content.set_len(image.len() as u64).expect("memory");
    content.write(0, image).expect("memory");
    let log = Arc::new(Mutex::new(Vec::new()));
    let left = Arc::new(AtomicU32::new(u32::MAX));
    let disk = Disk { content, log: Arc::clone(&log), left: Arc::clone(&left) };
    let database = Database::builder().create_with_backend(disk).expect("opens");
    (checked(database).expect("a whole file"), log, left)
}

/// An empty store as it is made.
fn empty_image() -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state");
    drop(RedbStore::open(&path).expect("an empty store"));
    std::fs::read(&path).expect("readable")
}

fn value(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(place(number % 200) + 1)
}

/// Writes `count` transactions of two records each, logging every acknowledgement.
async fn write(played: &Played, count: u64) {
    for number in 0..count {
        let ops = ["left", "right"].map(|side| Op::Put {
            key: format!("{side}/{}", number % 10),
            value: value(number),
            expect: Expect::Any,
        });
        played.store.transaction(ops.into()).await.expect("written");
        played.log.lock().expect("no panic").push(Event::Acknowledged(number));
    }
}

/// xorshift: the same numbers in every run.
fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// What a power cut after `log` leaves: all up to the last flush, and of the writes since then any.
fn after_power_cut(start: &[u8], log: &[Event], seed: &mut u64) -> Vec<u8> {
    let mut image = start.to_vec();
    let flushed = log.iter().rposition(|event| matches!(event, Event::Sync)).unwrap_or(0);
    for (index, event) in log.iter().enumerate() {
        let lost = index > flushed && next(seed) % 2 == 0;
        match event {
            // A length that is lost would cut off what was written behind it, so lengths are kept.
            Event::SetLen(length) => image.resize(*length, 0),
            Event::Write(offset, data) if !lost => image[*offset..offset + data.len()].copy_from_slice(data),
            Event::Write(..) | Event::Sync | Event::Acknowledged(_) => {}
        }
    }
    image
}

/// The newest transaction in a store, after checking that it is there as a whole.
async fn newest_whole(store: &RedbStore) -> Option<u64> {
    let records = store.list("").await.expect("readable");
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    for (key, record) in &records {
        assert_eq!(record.value, value(number(&record.value)), "{key} is torn");
        let (side, slot) = key.split_once('/').expect("a side and a slot");
        let other = if side == "left" { "right" } else { "left" };
        let twin =
            store.get(&format!("{other}/{slot}")).await.expect("readable").expect("both sides or none");
        assert_eq!(twin.value, record.value, "half a transaction in slot {slot}");
    }
    records.iter().map(|(_, record)| number(&record.value)).max()
}

#[tokio::test]
async fn a_power_cut_loses_no_acknowledged_transaction_and_leaves_no_half_one() {
    let start = empty_image();
    let writer = played(&start);
    write(&writer, 40).await;
    let log = writer.log.lock().expect("no panic").clone();
    drop(writer);
    let mut seed = 0x2545_f491_4f6c_dd1d;
    let mut cuts_in_flight = 0;
    for cut in 0..log.len() {
        let image = after_power_cut(&start, &log[..cut], &mut seed);
        let acknowledged = log[..cut].iter().rev().find_map(|event| match event {
            Event::Acknowledged(number) => Some(*number),
            _ => None,
        });
        let reopened = played(&image);
        let found = newest_whole(&reopened.store).await;
        assert!(found >= acknowledged, "{found:?} after {acknowledged:?} at {cut}");
        cuts_in_flight += u32::from(found > acknowledged);
        assert!(found.unwrap_or(0) <= acknowledged.map_or(0, |number| number + 1));
    }
    assert!(cuts_in_flight > 0, "no cut fell between a flush and its acknowledgement");
}

#[tokio::test]
async fn after_a_failed_write_the_store_is_closed_and_says_so() {
    let start = empty_image();
    let mut closed = 0;
    for left in 0..8 {
        let played = played(&start);
        write(&played, 5).await;
        played.left.store(left, Ordering::Relaxed);
        let Err(error) = played.store.put("a", vec![1; 5000], Expect::Any).await else { continue };
        assert!(matches!(error, StateError::Io { .. }), "{error}");
        closed += 1;
        // The disk is well again, but what is on it is not known.
        played.left.store(u32::MAX, Ordering::Relaxed);
        for error in [
            played.store.put("b", Vec::new(), Expect::Any).await.map(|_| ()).expect_err("closed"),
            played.store.get("left/1").await.map(|_| ()).expect_err("closed"),
            played.store.list("").await.map(|_| ()).expect_err("closed"),
        ] {
            assert!(error.to_string().contains("restart the daemon"), "{error}");
        }
    }
    assert!(closed > 0, "no write failed");
}

#[tokio::test]
async fn a_refused_transaction_does_not_close_the_store() {
    let played = played(&empty_image());
    played.store.put("a", vec![1], Expect::Absent).await.expect("written");
    assert!(matches!(played.store.put("a", vec![2], Expect::Absent).await, Err(StateError::Conflict { .. })));
    played.store.put("a", vec![3], Expect::Any).await.expect("written");
}

#[test]
fn a_file_of_a_newer_layout_is_refused() {
    let (database, ..) = opened(&empty_image());
    let write = database.begin_write().expect("writable");
    write.open_table(META).expect("the table").insert(FORMAT, 2).expect("written");
    write.commit().expect("written");
    let refused = Content::take(Path::new(PATH), database).err().expect("newer");
    assert!(matches!(refused, StateError::NewerSchema { found: 2, known: 1, .. }), "{refused}");
}

/// How often the disk was flushed.
fn flushes(log: &Mutex<Vec<Event>>) -> usize {
    log.lock().expect("no panic").iter().filter(|event| matches!(event, Event::Sync)).count()
}

/// A transaction of one record under `key`.
fn one(key: &str, expect: Expect) -> Transaction {
    let put = Op::Put { key: key.to_owned(), value: vec![1], expect };
    Transaction { ops: vec![put], leased: false }
}

#[test]
fn transactions_that_wait_together_share_a_flush_and_keep_their_own_answers() {
    let (database, log, _) = opened(&empty_image());
    let mut content = Content::take(Path::new(PATH), database).expect("a whole store");
    content.commit(&[one("warm", Expect::Any)]);
    let before = flushes(&log);
    content.commit(&[one("warm", Expect::Any)]);
    let of_one = flushes(&log) - before;
    let group = [one("a", Expect::Absent), one("a", Expect::Absent), one("b", Expect::Any)];
    let committed = content.commit(&group);
    assert_eq!(flushes(&log) - before, 2 * of_one, "the group was flushed more than once");
    let [Ok(first), Err(StateError::Conflict { found, .. }), Ok(third)] = &committed.answers[..] else {
        panic!("{:?}", committed.answers);
    };
    assert_eq!((found.0, third.0), (Some(*first), first.0 + 1));
    let changed: Vec<_> =
        committed.changes.iter().map(|change| (change.key.as_str(), change.revision)).collect();
    assert_eq!(changed, [("a", *first), ("b", *third)]);
}

#[test]
fn of_a_group_whose_flush_fails_nothing_is_acknowledged() {
    let (database, _, left) = opened(&empty_image());
    let mut content = Content::take(Path::new(PATH), database).expect("a whole store");
    left.store(0, Ordering::Relaxed);
    let committed = content.commit(&[one("a", Expect::Any), one("b", Expect::At(Revision(9)))]);
    assert!(
        matches!(&committed.answers[..], [Err(StateError::Io { .. }), Err(StateError::Closed { .. })]),
        "{:?}",
        committed.answers
    );
    assert!(committed.changes.is_empty() && content.is_closed());
}

#[tokio::test]
async fn a_watch_and_a_lease_end_with_a_store_that_is_closed() {
    let played = played(&empty_image());
    let mut watch = played.store.watch("").await.expect("open");
    let mut lease = played.store.lease("a", vec![1], Duration::from_secs(9)).await.expect("written");
    assert!(watch.next().await.is_ok());
    played.left.store(0, Ordering::Relaxed);
    played.store.put("b", vec![1], Expect::Any).await.expect_err("the disk fails");
    assert_eq!(watch.next().await, Err(crate::Missed::Closed));
    lease.lost().await;
    assert!(matches!(played.store.watch("").await, Err(StateError::Closed { .. })));
}

#[tokio::test]
async fn a_lease_whose_taker_has_gone_away_leaves_no_record() {
    let played = played(&empty_image());
    let (answer, taker) = oneshot::channel();
    drop(taker);
    let put = Op::Put { key: "a".to_owned(), value: vec![1], expect: Expect::Absent };
    let queue = played.store.queue.as_ref().expect("it is open");
    queue.send(Request::Lease { put, answer }).expect("the thread runs");
    for _ in 0..2 {
        // After the flush of the lease, and after that of its end.
        played.store.put("b", vec![1], Expect::Any).await.expect("written");
    }
    assert_eq!(played.store.get("a").await.expect("readable"), None);
}

#[tokio::test]
async fn dropping_the_store_waits_for_all_that_was_asked_of_it() {
    let played = played(&empty_image());
    let mut asked = Vec::new();
    for number in 0..200_u32 {
        let (answer, answered) = oneshot::channel();
        let ops = vec![Op::Put { key: format!("k/{number}"), value: vec![1], expect: Expect::Any }];
        let queue = played.store.queue.as_ref().expect("it is open");
        queue.send(Request::Transaction { ops, answer }).expect("the thread runs");
        asked.push(answered);
    }
    drop(played.store);
    for mut answered in asked {
        assert!(answered.try_recv().expect("answered before the drop returned").is_ok());
    }
}

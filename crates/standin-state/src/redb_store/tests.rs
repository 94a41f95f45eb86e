//! What disks do: fail, and lose what was not flushed. Played on redb's backend trait.

use super::*;
use crate::store::Expect;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use std::sync::atomic::AtomicU32;
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
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.content.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(Event::SetLen(place(len)))?;
        self.content.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.note(Event::Sync)?;
        self.content.sync_data()
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

/// A store on such a disk that holds `image`.
fn played(image: &[u8]) -> std::result::Result<Played, redb::DatabaseError> {
    let content = InMemoryBackend::new();
    content.set_len(image.len() as u64).expect("memory");
    content.write(0, image).expect("memory");
    let log = Arc::new(Mutex::new(Vec::new()));
    let left = Arc::new(AtomicU32::new(u32::MAX));
    let disk = Disk { content, log: Arc::clone(&log), left: Arc::clone(&left) };
    let database = Database::builder().set_check_integrity_on_open(true).create_with_backend(disk)?;
    let store = RedbStore { path: PathBuf::from("/test/state"), database, closed: AtomicBool::new(false) };
    Ok(Played { store, log, left })
}

/// An empty store as [`create`] makes it.
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
fn write(played: &Played, count: u64) {
    for number in 0..count {
        let ops = ["left", "right"].map(|side| Op::Put {
            key: format!("{side}/{}", number % 10),
            value: value(number),
            expect: Expect::Any,
        });
        played.store.transaction(ops.into()).expect("written");
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
fn newest_whole(store: &RedbStore) -> Option<u64> {
    let records = store.list("").expect("readable");
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    for (key, record) in &records {
        assert_eq!(record.value, value(number(&record.value)), "{key} is torn");
        let (side, slot) = key.split_once('/').expect("a side and a slot");
        let other = if side == "left" { "right" } else { "left" };
        let twin = store.get(&format!("{other}/{slot}")).expect("readable").expect("both sides or none");
        assert_eq!(twin.value, record.value, "half a transaction in slot {slot}");
    }
    records.iter().map(|(_, record)| number(&record.value)).max()
}

#[test]
fn a_power_cut_loses_no_acknowledged_transaction_and_leaves_no_half_one() {
    let start = empty_image();
    let writer = played(&start).expect("opens");
    write(&writer, 40);
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
        let reopened = played(&image).expect("opens after a power cut");
        let found = newest_whole(&reopened.store);
        assert!(found >= acknowledged, "{found:?} after {acknowledged:?} at {cut}");
        cuts_in_flight += u32::from(found > acknowledged);
        assert!(found.unwrap_or(0) <= acknowledged.map_or(0, |number| number + 1));
    }
    assert!(cuts_in_flight > 0, "no cut fell between a flush and its acknowledgement");
}

#[test]
fn after_a_failed_write_the_store_is_closed_and_says_so() {
    let start = empty_image();
    let mut closed = 0;
    for left in 0..8 {
        let played = played(&start).expect("opens");
        write(&played, 5);
        played.left.store(left, Ordering::Relaxed);
        let Err(error) = played.store.put("a", vec![1; 5000], Expect::Any) else { continue };
        assert!(matches!(error, StateError::Io { .. }), "{error}");
        closed += 1;
        // The disk is well again, but what is on it is not known.
        played.left.store(u32::MAX, Ordering::Relaxed);
        for error in [
            played.store.put("b", Vec::new(), Expect::Any).map(|_| ()).expect_err("closed"),
            played.store.get("left/1").map(|_| ()).expect_err("closed"),
            played.store.list("").map(|_| ()).expect_err("closed"),
        ] {
            assert!(error.to_string().contains("restart the daemon"), "{error}");
        }
    }
    assert!(closed > 0, "no write failed");
}

#[test]
fn a_refused_transaction_does_not_close_the_store() {
    let played = played(&empty_image()).expect("opens");
    played.store.put("a", vec![1], Expect::Absent).expect("written");
    assert!(matches!(played.store.put("a", vec![2], Expect::Absent), Err(StateError::Conflict { .. })));
    played.store.put("a", vec![3], Expect::Any).expect("written");
}

#[test]
fn a_record_under_another_key_or_with_another_revision_is_not_taken() {
    let packed = pack("a", Revision(7), b"value");
    assert_eq!(unpack("a", &packed).map(|found| found.revision), Some(Revision(7)));
    assert_eq!(unpack("b", &packed), None);
    for index in 0..packed.len() {
        let mut flipped = packed.clone();
        flipped[index] ^= 1;
        assert_eq!(unpack("a", &flipped), None, "byte {index}");
        assert_eq!(unpack("a", &packed[..index]), None, "cut at {index}");
    }
}

#[test]
fn a_file_of_a_newer_layout_is_refused() {
    let played = played(&empty_image()).expect("opens");
    let write = played.store.database.begin_write().expect("writable");
    write.open_table(META).expect("the table").insert(FORMAT, 2).expect("written");
    write.commit().expect("written");
    assert!(matches!(played.store.check_format(), Err(StateError::NewerSchema { found: 2, known: 1, .. })));
}

//! What the replica must have, known without asking it: a digest tree per disk, fed with the digests of what is
//! sent. After every seal its root is compared with the one that the replica computed over its own tree; a
//! replica that deviates is found in that cycle.
//!
//! ```text
//! pass -> noted()   in memory, bounded
//!      -> settle()  laid over the trees' files
//! seal -> expected() = digest of the point;  the replica's is the same -> sealed(epoch): written down
//! ```
//!
//! The trees are changed while a cycle runs, before it is known to succeed. That is sound because of how a cycle
//! begins: with everything that changed since a mark. Written down is the epoch E of the newest seal. What is in
//! the files is the content of E, but for granules that changed since E; and whatever cycle comes next, after a
//! failure, a lost answer or a killed daemon, begins at a mark of E or older, so it sends those granules, and
//! they are laid over once more. A cycle that begins at a younger mark makes the ledger unknown. So does anything
//! else that is not certain: an unknown ledger compares nothing, and a first copy or a resynchronization, which
//! see every granule, make it known again.
//!
//! Nothing is made durable while the daemon runs: the kernel keeps what a killed process wrote. A crash of the host
//! is recognised by the boot's id, unless the daemon had ended in order before. An idle cycle costs a comparison
//! of two strings in memory.
//!
//! Called by [`super::worker`], [`super::resync`] and [`super::pass`].

pub use super::book::Expected;

use super::book::{Batch, Book, PAGE, Result, note_failure};
use crate::messages::DiskShape;
use crate::records::PrimaryRecord;
use crate::tasks;
use standin_model::digest::{BlockDigest, tree};
use standin_model::{Epoch, VmName};
use standin_store::Sent;
use standin_wire::block::EncodedBlock;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Digests, and runs of them, in memory before they are laid: 1 MiB of digests, and as much for short runs.
const MAX_NOTED: usize = 64 << 10;

#[derive(Default)]
struct Noted {
    /// Somebody wants to know what is sent.
    wanted: bool,
    granule: u64,
    weight: usize,
    batches: Vec<Batch>,
}

/// The digests of what one relationship has sent. One for each [`super::Worker`], used by one piece of work at a
/// time.
pub struct Ledger {
    /// The directory of all relationships.
    root: PathBuf,
    noted: Mutex<Noted>,
    book: Mutex<Option<Book>>,
    opened: Mutex<bool>,
}

/// How a piece of work begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// A first copy; one that is not fresh goes on where an earlier one stopped.
    Copy {
        /// Nothing of an earlier one is kept.
        fresh: bool,
    },
    /// A comparison of all granules.
    Comparison,
    /// The changes since a mark.
    Changes(Epoch),
}

impl Ledger {
    /// A ledger in a directory of its own below `root`. Nothing is read or made before [`Self::begin`].
    #[must_use]
    pub fn new(root: &Path) -> Arc<Self> {
        Arc::new(Self {
            root: root.to_owned(),
            noted: Mutex::default(),
            book: Mutex::default(),
            opened: Mutex::default(),
        })
    }

    /// The epoch whose content is known, whatever changed since.
    pub async fn newest(self: &Arc<Self>, record: &PrimaryRecord) -> Option<Epoch> {
        if !*lock(&self.opened) {
            let (ledger, record) = (Arc::clone(self), record.clone());
            let name = record.name.clone();
            on_thread(move || ledger.open(&record)).await;
            if lock(&self.book).is_none() {
                say_unknown(&name);
            }
        }
        lock(&self.book).as_ref().and_then(|book| book.page.epoch)
    }

    fn open(&self, record: &PrimaryRecord) {
        if !std::mem::replace(&mut *lock(&self.opened), true) {
            *lock(&self.book) = Book::open(&self.dir(record), record);
        }
    }

    /// A piece of work begins that will note everything it sends, until the next one.
    pub async fn begin(self: &Arc<Self>, record: &PrimaryRecord, start: Start) {
        *lock(&self.noted) = Noted { granule: u64::from(record.settings.granularity), ..Noted::default() };
        let known = match start {
            Start::Changes(mark) => self.begin_changes(record, mark).await,
            Start::Copy { .. } | Start::Comparison => {
                let (ledger, record) = (Arc::clone(self), record.clone());
                on_thread(move || ledger.begin_anew(&record, start)).await;
                lock(&self.book).is_some()
            }
        };
        lock(&self.noted).wanted = known;
    }

    /// The usual case: no file is touched after the first time.
    async fn begin_changes(self: &Arc<Self>, record: &PrimaryRecord, mark: Epoch) -> bool {
        let before = self.newest(record).await;
        let mut held = lock(&self.book);
        *held = held.take().filter(|book| book.covers(mark));
        if held.is_none() && before.is_some() {
            say_unknown(&record.name);
        }
        held.is_some()
    }

    fn begin_anew(&self, record: &PrimaryRecord, start: Start) {
        self.open(record);
        let mut held = lock(&self.book);
        *held = match start {
            Start::Copy { fresh: false } => {
                // Trees that an unfinished comparison left have no page.
                let noted = self.dir(record).join(PAGE).exists();
                held.take().filter(|book| noted && book.has_base())
            }
            _ => {
                *held = None;
                note_failure(&record.name, Book::create(&self.dir(record), record, start))
            }
        };
    }

    /// Notes what goes on the wire.
    pub fn noted(&self, block: &EncodedBlock) {
        let header = block.header();
        let mut noted = lock(&self.noted);
        if !noted.wanted || noted.granule == 0 {
            return;
        }
        let first = header.offset / noted.granule;
        let sent = match block.digests() {
            [] => {
                Sent::Zeros { first, count: (header.offset + header.length).div_ceil(noted.granule) - first }
            }
            digests => Sent::Data { first, digests: digests.to_vec() },
        };
        noted.push(header.stream, sent);
    }

    /// Notes what a comparison has read, from granule `first` on. Zeros are what a comparison begins with.
    pub fn read(&self, stream: u16, first: u64, leaves: &[BlockDigest]) {
        let mut noted = lock(&self.noted);
        if noted.wanted && !leaves.iter().all(BlockDigest::is_zero) {
            noted.push(stream, Sent::Data { first, digests: leaves.to_vec() });
        }
    }

    /// Lays what was noted over the trees if it is much.
    pub async fn settle_if_full(self: &Arc<Self>) {
        if lock(&self.noted).weight >= MAX_NOTED {
            self.settle().await;
        }
    }

    /// Lays what was noted over the trees: it survives the end of this process now.
    pub async fn settle(self: &Arc<Self>) {
        if lock(&self.noted).batches.is_empty() {
            return;
        }
        let ledger = Arc::clone(self);
        on_thread(move || ledger.change(|_| Ok(()))).await;
    }

    /// Lays what was noted, then has `change` change the book. A failure makes the ledger unknown.
    fn change(&self, change: impl FnOnce(&mut Book) -> Result<()>) {
        let batches = {
            let mut noted = lock(&self.noted);
            noted.weight = 0;
            std::mem::take(&mut noted.batches)
        };
        let mut held = lock(&self.book);
        let Some(book) = held.as_mut() else { return };
        let changed = batches.into_iter().try_for_each(|batch| book.lay(batch)).and_then(|()| change(book));
        if note_failure(&book.vm, changed).is_none() {
            *held = None;
            lock(&self.noted).wanted = false;
        }
    }

    /// What the replica must answer to a seal of all that was sent; `None` when that is not known.
    pub async fn expected(self: &Arc<Self>) -> Option<Expected> {
        if lock(&self.noted).batches.is_empty() {
            let held = lock(&self.book);
            let book = held.as_ref()?;
            if book.expected.is_some() {
                return book.expected.clone();
            }
        }
        let ledger = Arc::clone(self);
        on_thread(move || ledger.change(Book::sum_up)).await;
        lock(&self.book).as_ref().and_then(|book| book.expected.clone())
    }

    /// The replica has sealed `epoch`, and it is what was expected. To be called before older marks go.
    pub async fn sealed(self: &Arc<Self>, record: &PrimaryRecord, epoch: Epoch) {
        if lock(&self.book).is_none() {
            return;
        }
        let (ledger, dir) = (Arc::clone(self), self.dir(record));
        on_thread(move || {
            ledger.change(|book| {
                book.page.epoch = Some(epoch);
                book.page.save(&dir)
            });
        })
        .await;
    }

    /// Makes all durable: the daemon ends.
    pub async fn rest(self: &Arc<Self>, record: &PrimaryRecord) {
        if lock(&self.book).is_none() {
            return;
        }
        let (ledger, dir) = (Arc::clone(self), self.dir(record));
        on_thread(move || {
            // What an unfinished piece of work noted is sent again.
            *lock(&ledger.noted) = Noted::default();
            ledger.change(|book| book.rest(&dir));
        })
        .await;
    }

    /// Forgets everything, for a relationship that ends or begins.
    pub async fn forget(self: &Arc<Self>, record: &PrimaryRecord) {
        let (ledger, dir, name) = (Arc::clone(self), self.dir(record), record.name.clone());
        on_thread(move || {
            *lock(&ledger.noted) = Noted::default();
            *lock(&ledger.book) = None;
            *lock(&ledger.opened) = false;
            match fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    let dir = dir.display();
                    tracing::warn!(vm = %name, %dir, %error, "the digests of what was sent are left");
                }
                _ => {}
            }
        })
        .await;
    }

    fn dir(&self, record: &PrimaryRecord) -> PathBuf {
        self.root.join(record.vm.to_string())
    }
}

impl Noted {
    fn push(&mut self, stream: u16, sent: Sent) {
        self.weight += match &sent {
            Sent::Zeros { .. } => 4,
            Sent::Data { digests, .. } => digests.len() + 4,
        };
        let (first, end) = (sent.first(), sent.end());
        match self.batches.last_mut().filter(|batch| batch.stream == stream && batch.end <= first) {
            Some(batch) => {
                batch.end = end;
                batch.runs.push(sent);
            }
            None => self.batches.push(Batch { stream, end, runs: vec![sent] }),
        }
    }
}

/// The level of a disk's root, as the replica is asked for it.
#[must_use]
pub fn root_level(disk: &DiskShape, granule: u32) -> u32 {
    tree::levels(disk.size.div_ceil(u64::from(granule.max(1))))
}

fn say_unknown(name: &VmName) {
    tracing::info!(
        vm = %name, "what the replica must have is not known; its digests are not compared until a resynchronization \
         has seen all of the disks"
    );
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn on_thread(work: impl FnOnce() + Send + 'static) {
    if let Err(error) = tasks::on_thread(work).await {
        tracing::error!(%error, "the digests of what is sent were given up by a defect");
    }
}

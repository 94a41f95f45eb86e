//! The thread that owns the file.
//!
//! ```text
//!   callers ──> queue ──> thread: answer the reads that wait, flush the transactions that wait, at once
//!      ^                    │
//!      └──── answers <──────┘  after the flush, never before
//! ```
//!
//! While a flush runs transactions gather behind it, and the next flush takes all of them: each is checked and numbered
//! by itself, in the order in which they came, and only the flush is shared. A read sees what is flushed, so never what
//! might be lost, and always what its caller has had acknowledged.
//!
//! The thread ends when the last sender of its queue is gone and the queue is empty.

use super::content::{Committed, Content, Transaction};
use crate::Result;
use crate::lease::Lease;
use crate::store::{Expect, Op, Revision, Versioned};
use crate::watch::{Changes, Watch};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, WeakUnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

/// Most transactions of one flush.
const GROUP: usize = 64;

pub(super) type Answer<T> = oneshot::Sender<Result<T>>;

/// What is asked of the thread.
pub(super) enum Request {
    Get {
        key: String,
        answer: Answer<Option<Versioned>>,
    },
    List {
        prefix: String,
        answer: Answer<Vec<(String, Versioned)>>,
    },
    Watch {
        prefix: String,
        answer: Answer<Watch>,
    },
    Transaction {
        ops: Vec<Op>,
        answer: Answer<Revision>,
    },
    /// Puts a record that goes with its holder.
    Lease {
        put: Op,
        answer: Answer<Lease>,
    },
    /// The holder of a lease is gone.
    Release {
        key: String,
        revision: Revision,
    },
}

/// Who waits for a transaction.
enum Waiting {
    Writer(Answer<Revision>),
    Holder { key: String, watch: Watch, answer: Answer<Lease> },
    Nobody,
}

struct Thread {
    content: Content,
    /// `None` when nothing will change any more.
    changes: Option<Changes>,
    /// Where leases that end are told. Weak: a lease does not keep the store open.
    queue: WeakUnboundedSender<Request>,
    group: Vec<Transaction>,
    waiting: Vec<Waiting>,
}

/// Starts the thread.
pub(super) fn start(
    content: Content,
) -> std::io::Result<(UnboundedSender<Request>, std::thread::JoinHandle<()>)> {
    let (queue, requests) = unbounded_channel();
    let thread = Thread {
        content,
        changes: Some(Changes::default()),
        queue: queue.downgrade(),
        group: Vec::new(),
        waiting: Vec::new(),
    };
    let handle = std::thread::Builder::new().name("state".to_owned()).spawn(move || thread.run(requests))?;
    Ok((queue, handle))
}

impl Thread {
    fn run(mut self, mut requests: UnboundedReceiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            self.take(first);
            while self.group.len() < GROUP {
                let Ok(next) = requests.try_recv() else { break };
                self.take(next);
            }
            if !self.group.is_empty() {
                self.flush();
            }
            if self.content.is_closed() {
                self.changes = None;
            }
        }
    }

    /// Answers a read; keeps a transaction for the next flush. Whoever asked may have gone away: then the answer goes to
    /// nobody.
    fn take(&mut self, request: Request) {
        match request {
            Request::Get { key, answer } => drop(answer.send(self.content.get(&key))),
            Request::List { prefix, answer } => drop(answer.send(self.content.list(&prefix))),
            Request::Watch { prefix, answer } => drop(answer.send(self.watch(&prefix))),
            Request::Transaction { ops, answer } => self.wait(ops, false, Waiting::Writer(answer)),
            Request::Release { key, revision } => {
                self.wait(vec![Op::Delete { key, expect: Expect::At(revision) }], false, Waiting::Nobody);
            }
            Request::Lease { put, answer } => match self.watch(put.key()) {
                Ok(watch) => {
                    let key = put.key().to_owned();
                    self.wait(vec![put], true, Waiting::Holder { key, watch, answer });
                }
                Err(error) => drop(answer.send(Err(error))),
            },
        }
    }

    fn wait(&mut self, ops: Vec<Op>, leased: bool, waiting: Waiting) {
        self.group.push(Transaction { ops, leased });
        self.waiting.push(waiting);
    }

    fn watch(&self, prefix: &str) -> Result<Watch> {
        match &self.changes {
            Some(changes) => Ok(changes.watch(prefix)),
            None => Err(self.content.closed()),
        }
    }

    fn flush(&mut self) {
        let Committed { answers, changes } = self.content.commit(&std::mem::take(&mut self.group));
        for change in changes {
            if let Some(told) = &self.changes {
                told.tell(change);
            }
        }
        for (waiting, answer) in std::mem::take(&mut self.waiting).into_iter().zip(answers) {
            match waiting {
                Waiting::Writer(writer) => drop(writer.send(answer)),
                Waiting::Holder { key, watch, answer: holder } => {
                    let lease = answer.map(|revision| self.lease(key, revision, watch));
                    // To nobody, and the lease ends at once.
                    drop(holder.send(lease));
                }
                // The record is somebody else's by now, or the store is closed, which is said already.
                Waiting::Nobody => drop(answer),
            }
        }
    }

    fn lease(&self, key: String, revision: Revision, watch: Watch) -> Lease {
        let (queue, released) = (self.queue.clone(), key.clone());
        let release = move || {
            // Without the store the record goes when the next process opens it.
            if let Some(queue) = queue.upgrade() {
                drop(queue.send(Request::Release { key: released, revision }));
            }
        };
        Lease::new(&key, revision, watch, Box::new(release))
    }
}

//! Reads one disk of a view through its NBD export. Up to three connections, each opened when it is first needed:
//! for data, for allocation, for the dirty bitmap. QEMU loses step when one connection has two contexts.

use super::clusters;
use crate::error::Error;
use crate::local::LocalDisk;
use crate::seam::{DiskReader, Extent};
use async_trait::async_trait;
use bytes::Bytes;
use standin_nbd::{Client, FLAG_DIRTY, FLAG_ZERO, StatusExtent, Target};
use std::sync::Arc;
use tokio::sync::{Mutex, watch};

/// The reader of a disk.
#[derive(Debug)]
pub(crate) struct Reader {
    target: Target,
    size: u64,
    failure: watch::Receiver<Option<String>>,
    local: Option<Arc<LocalDisk>>,
    apart: bool,
    data: Connection,
    allocation: Connection,
    dirty: Dirty,
}

/// Where the changes since the request's `since` are.
#[derive(Debug)]
enum Dirty {
    /// The request had no `since`.
    NotAsked,
    /// Nothing changed: a disk of a terabyte that is idle costs no request.
    Nothing,
    /// In this export's bitmap.
    Bitmap(Connection),
}

/// What a reader is told of the changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changes<'a> {
    /// The request had no `since`.
    NotAsked,
    /// The frozen bitmap is empty.
    Nothing,
    /// The frozen bitmap has this name.
    In(&'a str),
}

impl Reader {
    /// A reader of `target`.
    pub fn new(
        target: Target,
        size: u64,
        changes: Changes<'_>,
        failure: watch::Receiver<Option<String>>,
    ) -> Self {
        let connection = |context| Connection { context, client: Mutex::default() };
        Self {
            target,
            size,
            failure,
            local: None,
            apart: false,
            data: connection(None),
            allocation: connection(Some(standin_nbd::CONTEXT_ALLOCATION.to_owned())),
            dirty: match changes {
                Changes::NotAsked => Dirty::NotAsked,
                Changes::Nothing => Dirty::Nothing,
                Changes::In(bitmap) => Dirty::Bitmap(connection(Some(standin_nbd::dirty_context(bitmap)))),
            },
        }
    }

    /// The same reader, with a shorter way to the data.
    pub fn with_local(self, local: Option<LocalDisk>) -> Self {
        Self { local: local.map(Arc::new), ..self }
    }

    /// The same reader, of a QEMU that answers wrongly across clusters.
    pub fn with_clusters_apart(self, apart: bool) -> Self {
        Self { apart, ..self }
    }

    /// Once the view has failed nothing that was read is to be believed.
    fn trusted(&self) -> Result<(), Error> {
        match self.failure.borrow().as_ref() {
            Some(reason) => Err(Error::View(reason.clone())),
            None => Ok(()),
        }
    }

    fn failed(&self, verb: &str, error: &standin_nbd::Error) -> Error {
        // The view's reason says more than the read that failed because of it.
        self.trusted().err().unwrap_or_else(|| Error::Read {
            context: format!("{verb} {}", self.target),
            detail: error.to_string(),
        })
    }

    async fn status(
        &self,
        connection: &Connection,
        verb: &str,
        (offset, length): (u64, u64),
    ) -> Result<Vec<StatusExtent>, Error> {
        self.trusted()?;
        let length = length.min(self.size.saturating_sub(offset));
        let outcome = async {
            let client = connection.get(&self.target).await?;
            let answer = match self.apart && connection.is_allocation() {
                true => clusters::allocation(&client, offset, length).await,
                false => client.block_status(offset, length).await,
            };
            connection.drop_if_dead(&answer).await;
            answer
        };
        let found = outcome.await.map_err(|error| self.failed(verb, &error))?;
        self.trusted()?;
        Ok(found)
    }
}

#[derive(Debug)]
struct Connection {
    context: Option<String>,
    client: Mutex<Option<Client>>,
}

impl Connection {
    async fn get(&self, target: &Target) -> Result<Client, standin_nbd::Error> {
        let mut client = self.client.lock().await;
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let opened = Client::connect(target, self.context.as_deref()).await?;
        Ok(client.insert(opened).clone())
    }

    /// Dirty bitmaps are frozen and not part of what the guest's writes move.
    fn is_allocation(&self) -> bool {
        self.context.as_deref() == Some(standin_nbd::CONTEXT_ALLOCATION)
    }

    /// A connection that ended is opened anew by the next call.
    async fn drop_if_dead<T>(&self, answer: &Result<T, standin_nbd::Error>) {
        use standin_nbd::Error::{Request, Server};
        if !matches!(answer, Ok(_) | Err(Server { .. } | Request { .. })) {
            self.client.lock().await.take();
        }
    }
}

#[async_trait]
impl DiskReader for Reader {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read(&self, offset: u64, length: u32) -> Result<Bytes, Error> {
        self.trusted()?;
        let outcome = async {
            let client = self.data.get(&self.target).await?;
            let answer = match self.apart {
                true => clusters::read(&client, offset, length).await,
                false => client.read(offset, length).await,
            };
            self.data.drop_if_dead(&answer).await;
            answer
        };
        let data = outcome.await.map_err(|error| self.failed("read", &error))?;
        self.trusted()?;
        Ok(data)
    }

    async fn dirty(&self, offset: u64, length: u64) -> Result<Vec<Extent>, Error> {
        let connection = match &self.dirty {
            Dirty::Bitmap(connection) => connection,
            Dirty::Nothing => return self.trusted().map(|()| Vec::new()),
            Dirty::NotAsked => {
                return Err(Error::Internal(
                    "changes were asked of a view that was opened without `since`".into(),
                ));
            }
        };
        let found = self.status(connection, "read the changes of", (offset, length)).await?;
        Ok(extents(offset, &found, |flags| (flags & FLAG_DIRTY != 0).then_some(false)))
    }

    async fn allocation(&self, offset: u64, length: u64) -> Result<Vec<Extent>, Error> {
        let found = self.status(&self.allocation, "read the allocation of", (offset, length)).await?;
        Ok(extents(offset, &found, |flags| Some(flags & FLAG_ZERO != 0)))
    }

    fn local(&self) -> Option<Arc<LocalDisk>> {
        self.local.clone()
    }
}

/// Status extents with their offsets; `judge` drops one or says whether it is zeros. Neighbours that are alike
/// are one.
fn extents(mut offset: u64, found: &[StatusExtent], judge: impl Fn(u32) -> Option<bool>) -> Vec<Extent> {
    let mut list: Vec<Extent> = Vec::new();
    for status in found {
        if let Some(zero) = judge(status.flags) {
            match list.last_mut() {
                Some(last) if last.offset + last.length == offset && last.zero == zero => {
                    last.length += status.length;
                }
                _ => list.push(Extent { offset, length: status.length, zero }),
            }
        }
        offset += status.length;
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(length: u64, flags: u32) -> StatusExtent {
        StatusExtent { length, flags }
    }

    #[test]
    fn clean_runs_are_left_out_and_dirty_ones_keep_their_place() {
        let found = [status(10, 0), status(5, 1), status(20, 0), status(7, 1)];
        let dirty = extents(100, &found, |flags| (flags & FLAG_DIRTY != 0).then_some(false));
        let places: Vec<_> = dirty.iter().map(|extent| (extent.offset, extent.length)).collect();
        assert_eq!(places, [(110, 5), (135, 7)]);
    }

    #[test]
    fn a_hole_that_does_not_read_as_zeros_is_data() {
        let found = [status(10, 1), status(10, 0), status(10, 3)];
        let list = extents(0, &found, |flags| Some(flags & FLAG_ZERO != 0));
        let expected =
            [Extent { offset: 0, length: 20, zero: false }, Extent { offset: 20, length: 10, zero: true }];
        assert_eq!(list, expected);
    }
}

//! Serves recovery points that have more layers than QEMU should open: read-only over NBD, from one map of all
//! layers, as the backing of the failover's overlay.

use crate::tasks;
use async_trait::async_trait;
use bytes::Bytes;
use standin_hypervisor::NbdBacking;
use standin_model::DiskName;
use standin_nbd::{Server, Source, StatusExtent};
use standin_store::PointReader;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::UnixListener;
use tokio::sync::watch;

/// Flags of `base:allocation` for zeros that take no space: hole and zero.
const HOLE: u32 = 3;

/// The exports of one replica, by overlay.
pub struct Exports {
    runtime_dir: PathBuf,
    serving: Mutex<BTreeMap<String, watch::Sender<bool>>>,
}

impl Exports {
    /// Nothing is served.
    #[must_use]
    pub fn new(runtime_dir: &Path) -> Self {
        Self { runtime_dir: runtime_dir.to_owned(), serving: Mutex::default() }
    }

    /// Where the export of an overlay's disk is found.
    #[must_use]
    pub fn backing(&self, overlay: &str, disk: &DiskName) -> NbdBacking {
        NbdBacking { socket: self.socket(overlay), export: disk.to_string() }
    }

    fn socket(&self, overlay: &str) -> PathBuf {
        self.runtime_dir.join(format!("p-{overlay}.sock"))
    }

    /// Serves the disks of a point for an overlay until it is stopped.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn serve(&self, overlay: &str, reader: PointReader, disks: &[DiskName]) -> io::Result<()> {
        let socket = self.socket(overlay);
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&socket)?;
        let reader = Arc::new(reader);
        let exports = disks
            .iter()
            .map(|disk| {
                let source: Arc<dyn Source> =
                    Arc::new(PointDisk { reader: Arc::clone(&reader), disk: disk.clone() });
                (disk.to_string(), source)
            })
            .collect();
        let (stop, stopped) = watch::channel(false);
        tasks::spawn(async move {
            let served = Server::serve(listener, exports, stopped).await;
            if let Err(error) = served {
                tracing::error!(socket = %socket.display(), %error, "a recovery point is no longer served");
            }
        });
        self.lock().insert(overlay.to_owned(), stop);
        Ok(())
    }

    /// Stops serving an overlay.
    pub fn stop(&self, overlay: &str) {
        if let Some(stop) = self.lock().remove(overlay) {
            stop.send_replace(true);
            // Only a name in a runtime directory; the next one of that name replaces it.
            drop(std::fs::remove_file(self.socket(overlay)));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, watch::Sender<bool>>> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct PointDisk {
    reader: Arc<PointReader>,
    disk: DiskName,
}

impl PointDisk {
    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&PointReader, &DiskName) -> standin_store::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (reader, disk) = (Arc::clone(&self.reader), self.disk.clone());
        tasks::on_thread(move || call(&reader, &disk))
            .await
            .map_err(io::Error::other)?
            .map_err(|error| io::Error::other(crate::error::chain(&error)))
    }
}

#[async_trait]
impl Source for PointDisk {
    fn size(&self) -> u64 {
        self.reader.size(&self.disk).unwrap_or(0)
    }

    async fn read(&self, offset: u64, length: u32) -> io::Result<Bytes> {
        self.call(move |reader, disk| reader.read(disk, offset, u64::from(length))).await.map(Bytes::from)
    }

    async fn status(&self, offset: u64, length: u64) -> io::Result<Vec<StatusExtent>> {
        let extents = self.call(move |reader, disk| reader.extents(disk, offset, length)).await?;
        Ok(extents
            .into_iter()
            .map(|extent| StatusExtent { length: extent.length, flags: if extent.zero { HOLE } else { 0 } })
            .collect())
    }
}

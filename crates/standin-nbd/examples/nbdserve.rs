//! Serves a raw file read-only with our own server, to compare it with `qemu-nbd`: `nbdserve SOCKET FILE`. The
//! export's name is empty; it ends with the process.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use standin_nbd::{Server, Source, StatusExtent};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::sync::watch;

struct Raw {
    file: Arc<File>,
    size: u64,
}

#[async_trait]
impl Source for Raw {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read(&self, offset: u64, length: u32) -> io::Result<Bytes> {
        let file = Arc::clone(&self.file);
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let read = move || {
            let mut buffer = BytesMut::zeroed(length);
            file.read_exact_at(&mut buffer, offset).map(|()| buffer.freeze())
        };
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }

    /// All is data: the example has no map.
    async fn status(&self, _offset: u64, length: u64) -> io::Result<Vec<StatusExtent>> {
        Ok(vec![StatusExtent { length, flags: 0 }])
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, path] = arguments.as_slice() else {
        return Err("usage: nbdserve SOCKET FILE".into());
    };
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let raw: Arc<dyn Source> = Arc::new(Raw { file: Arc::new(file), size });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let listener = UnixListener::bind(socket)?;
        let (_stop, stopped) = watch::channel(false);
        Server::serve(listener, BTreeMap::from([(String::new(), raw)]), stopped).await?;
        Ok(())
    })
}

//! A scripted NBD server: it negotiates as told and then does exactly what the test says, byte by byte. It is
//! written from the protocol's specification and shares no code with the crate.

use standin_nbd::{Client, Error, Target};
use std::future::Future;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

pub const SIZE: u64 = 1 << 30;
pub const READ: u16 = 0;
pub const DISC: u16 = 2;
pub const STATUS: u16 = 7;
pub const DONE: u16 = 1;

/// How the scripted server negotiates.
#[derive(Clone, Copy)]
pub struct Manner {
    pub structured: bool,
    pub size: u64,
    pub block_sizes: Option<(u32, u32, u32)>,
}

pub const MODERN: Manner = Manner { structured: true, size: SIZE, block_sizes: None };
pub const SIMPLE: Manner = Manner { structured: false, ..MODERN };

/// The number the scripted server gives to any context.
pub const CONTEXT: u32 = 42;

/// A request as it came.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub command: u16,
    pub cookie: u64,
    pub offset: u64,
    pub length: u32,
}

/// The server's end of one connection.
pub struct Peer(pub UnixStream);

impl Peer {
    /// The next request; `None` at the end of the stream.
    pub async fn asked(&mut self) -> Option<Asked> {
        if self.0.read_u32().await.ok()? != 0x2560_9513 {
            panic!("the client sent something that is no request");
        }
        let _flags = self.0.read_u16().await.unwrap();
        Some(Asked {
            command: self.0.read_u16().await.unwrap(),
            cookie: self.0.read_u64().await.unwrap(),
            offset: self.0.read_u64().await.unwrap(),
            length: self.0.read_u32().await.unwrap(),
        })
    }

    /// Sends raw bytes. The client may have hung up on us already.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).await;
    }

    pub async fn chunk(&mut self, flags: u16, kind: u16, cookie: u64, payload: &[u8]) {
        self.send(&chunk(flags, kind, cookie, payload)).await;
    }

    pub async fn data(&mut self, flags: u16, cookie: u64, offset: u64, data: &[u8]) {
        self.chunk(flags, 1, cookie, &[&offset.to_be_bytes()[..], data].concat()).await;
    }

    pub async fn hole(&mut self, flags: u16, cookie: u64, offset: u64, length: u32) {
        self.chunk(flags, 2, cookie, &[&offset.to_be_bytes()[..], &length.to_be_bytes()].concat()).await;
    }

    pub async fn extents(&mut self, cookie: u64, extents: &[(u32, u32)]) {
        let mut payload = CONTEXT.to_be_bytes().to_vec();
        for (length, flags) in extents {
            payload.extend([length.to_be_bytes(), flags.to_be_bytes()].concat());
        }
        self.chunk(DONE, 5, cookie, &payload).await;
    }

    /// Keeps the connection open until the client closes it, answering nothing.
    pub async fn hang(&mut self) {
        while self.asked().await.is_some() {}
    }
}

pub fn chunk(flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&header(flags, kind, cookie, length)[..], payload].concat()
}

pub fn header(flags: u16, kind: u16, cookie: u64, length: u32) -> Vec<u8> {
    let mut out = 0x668e_33ef_u32.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(length.to_be_bytes());
    out
}

pub fn simple(errno: u32, cookie: u64) -> Vec<u8> {
    [&0x6744_6698_u32.to_be_bytes()[..], &errno.to_be_bytes(), &cookie.to_be_bytes()].concat()
}

pub fn option_reply(option: u32, kind: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let mut out = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
    out.extend([option.to_be_bytes(), kind.to_be_bytes(), length.to_be_bytes()].concat());
    out.extend(payload);
    out
}

/// Greets, and returns the client's flags.
pub async fn greet(peer: &mut Peer) -> u32 {
    peer.send(b"NBDMAGICIHAVEOPT\x00\x03").await;
    peer.0.read_u32().await.unwrap()
}

/// The next option: number and data.
pub async fn option(peer: &mut Peer) -> Option<(u32, Vec<u8>)> {
    let magic = peer.0.read_u64().await.ok()?;
    assert_eq!(&magic.to_be_bytes(), b"IHAVEOPT");
    let number = peer.0.read_u32().await.unwrap();
    let length = peer.0.read_u32().await.unwrap();
    let mut data = vec![0; usize::try_from(length).unwrap()];
    peer.0.read_exact(&mut data).await.unwrap();
    Some((number, data))
}

async fn negotiate(peer: &mut Peer, manner: Manner) {
    assert_eq!(greet(peer).await, 3);
    loop {
        let (number, data) = option(peer).await.expect("an option");
        match number {
            8 if manner.structured => peer.send(&option_reply(8, 1, &[])).await,
            8 => peer.send(&option_reply(8, (1 << 31) | 1, b"what?")).await,
            10 => {
                // One export name, one query: the context's name is what remains.
                let export = usize::try_from(u32::from_be_bytes(data[..4].try_into().unwrap())).unwrap();
                let name = &data[4 + export + 8..];
                peer.send(&option_reply(10, 4, &[&CONTEXT.to_be_bytes()[..], name].concat())).await;
                peer.send(&option_reply(10, 1, &[])).await;
            }
            7 => {
                let mut info = vec![0, 0];
                info.extend(manner.size.to_be_bytes());
                info.extend(3_u16.to_be_bytes());
                peer.send(&option_reply(7, 3, &info)).await;
                if let Some((min, preferred, max)) = manner.block_sizes {
                    let sizes = [min.to_be_bytes(), preferred.to_be_bytes(), max.to_be_bytes()].concat();
                    peer.send(&option_reply(7, 3, &[&[0, 3][..], &sizes].concat())).await;
                }
                return peer.send(&option_reply(7, 1, &[])).await;
            }
            other => panic!("the client sent option {other}"),
        }
    }
}

/// A running script. Keep it until the client is done.
pub struct Script {
    dir: TempDir,
    pub task: JoinHandle<()>,
}

impl Script {
    pub fn target(&self) -> Target {
        Target::unix(self.dir.path().join("fake.sock"), "disk0")
    }
}

/// Accepts one connection and gives it to `script` before the greeting.
pub fn raw<F, Fut>(script: F) -> Script
where
    F: FnOnce(Peer) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("fake.sock")).unwrap();
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        script(Peer(stream)).await;
    });
    Script { dir, task }
}

/// Negotiates as `manner` says, then gives the connection to `script`.
pub async fn scripted<F, Fut>(manner: Manner, context: Option<&str>, script: F) -> (Client, Script)
where
    F: FnOnce(Peer) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let running = raw(move |mut peer| async move {
        negotiate(&mut peer, manner).await;
        script(peer).await;
    });
    let client = Client::connect(&running.target(), context).await.unwrap();
    (client, running)
}

/// The text of an error with all its sources.
pub fn sentence(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Fails the test when the client hangs.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("the client hangs")
}

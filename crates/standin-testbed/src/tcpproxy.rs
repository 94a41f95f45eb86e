//! A TCP connection that can be cut, held, delayed and corrupted, for peers that do not know of it.
//!
//! Under TLS a flipped byte is a flipped byte of the ciphertext: the receiver must see a broken connection and
//! nothing else.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

#[derive(Debug, Default)]
struct Control {
    closed: AtomicBool,
    /// New connections are closed at once.
    refusing: AtomicBool,
    /// Nothing is forwarded; what arrives waits.
    held: AtomicBool,
    delay_ms: AtomicU64,
    /// Bytes towards the target until one is flipped; negative when none is to be.
    flip_in: AtomicI64,
    flipped: AtomicU64,
    forwarded: AtomicU64,
    streams: Mutex<Vec<TcpStream>>,
}

/// A proxy in front of one address. Ends when dropped.
#[derive(Debug)]
pub struct TcpProxy {
    address: SocketAddr,
    control: Arc<Control>,
}

impl TcpProxy {
    /// Listens on a free port of the loopback address and forwards to `target`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn start(target: SocketAddr) -> Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), target)
    }

    /// Listens on `address` and forwards to `target`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start_at(address: SocketAddr, target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("bind the proxy to {address}"))?;
        let address = listener.local_addr().context("read the proxy's port")?;
        let control = Arc::new(Control { flip_in: AtomicI64::new(-1), ..Control::default() });
        let shared = Arc::clone(&control);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.closed.load(Ordering::SeqCst) {
                    return;
                }
                if !shared.refusing.load(Ordering::SeqCst) {
                    connect(client, target, &shared);
                }
            }
        });
        Ok(Self { address, control })
    }

    /// Where to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks all connections and refuses new ones.
    pub fn cut(&self) {
        self.control.refusing.store(true, Ordering::SeqCst);
        self.break_connections();
    }

    /// Accepts again after [`Self::cut`].
    pub fn restore(&self) {
        self.control.refusing.store(false, Ordering::SeqCst);
    }

    /// Breaks the connections that are there; new ones are accepted.
    pub fn break_connections(&self) {
        let mut streams = self.control.streams.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in streams.drain(..) {
            // One that is closed already is what we want.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Holds everything back (`true`), as a cable that was pulled, or lets it go on.
    pub fn hold(&self, held: bool) {
        self.control.held.store(held, Ordering::SeqCst);
    }

    /// Delays each piece of what is forwarded.
    pub fn delay(&self, delay: Duration) {
        let ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.control.delay_ms.store(ms, Ordering::SeqCst);
    }

    /// Flips one bit of the byte towards the target that comes after `bytes` more.
    pub fn flip_after(&self, bytes: u32) {
        self.control.flip_in.store(i64::from(bytes), Ordering::SeqCst);
    }

    /// How many bits were flipped so far.
    #[must_use]
    pub fn flipped(&self) -> u64 {
        self.control.flipped.load(Ordering::SeqCst)
    }

    /// Bytes forwarded so far, in both directions.
    #[must_use]
    pub fn forwarded(&self) -> u64 {
        self.control.forwarded.load(Ordering::SeqCst)
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.control.closed.store(true, Ordering::SeqCst);
        self.control.held.store(false, Ordering::SeqCst);
        self.break_connections();
        // Wakes the thread that accepts, so that it sees that it is over.
        drop(TcpStream::connect(self.address));
    }
}

fn connect(client: TcpStream, target: SocketAddr, control: &Arc<Control>) {
    // A target that is not there is told to the client by a closed connection.
    let Ok(server) = TcpStream::connect_timeout(&target, Duration::from_secs(5)) else { return };
    let pairs =
        [(client.try_clone(), server.try_clone(), true), (server.try_clone(), client.try_clone(), false)];
    let mut streams = control.streams.lock().unwrap_or_else(PoisonError::into_inner);
    streams.extend([client, server]);
    drop(streams);
    for (from, to, towards_target) in pairs {
        let (Ok(from), Ok(to)) = (from, to) else { return };
        // Small pieces are what the delay is about; they must not wait for each other as well.
        let _ = to.set_nodelay(true);
        let control = Arc::clone(control);
        thread::spawn(move || pump(from, to, towards_target, &control));
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, towards_target: bool, control: &Control) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 {
            break;
        }
        while control.held.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5));
        }
        let delay = control.delay_ms.load(Ordering::SeqCst);
        if delay > 0 {
            thread::sleep(Duration::from_millis(delay));
        }
        if towards_target {
            flip(&mut buffer[..count], control);
        }
        control.forwarded.fetch_add(count as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // The other side's end of the conversation; its reader sees the end too.
    let _ = to.shutdown(Shutdown::Write);
}

fn flip(bytes: &mut [u8], control: &Control) {
    let left = control.flip_in.load(Ordering::SeqCst);
    let Ok(index) = usize::try_from(left) else { return };
    if let Some(byte) = bytes.get_mut(index) {
        *byte ^= 0x10;
        control.flip_in.store(-1, Ordering::SeqCst);
        control.flipped.fetch_add(1, Ordering::SeqCst);
    } else {
        control.flip_in.fetch_sub(i64::try_from(bytes.len()).unwrap_or(0), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut writer = stream.try_clone().unwrap();
                    std::io::copy(&mut &stream, &mut writer)
                });
            }
        });
        address
    }

    fn exchange(stream: &mut TcpStream, sent: &[u8]) -> std::io::Result<Vec<u8>> {
        stream.write_all(sent)?;
        let mut answer = vec![0; sent.len()];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    #[test]
    fn bytes_pass_unchanged_until_one_bit_is_flipped_where_asked() {
        let proxy = TcpProxy::start(echo()).unwrap();
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        let sent: Vec<u8> = (0..200).collect();
        assert_eq!(exchange(&mut stream, &sent).unwrap(), sent);
        proxy.flip_after(250);
        assert_eq!(exchange(&mut stream, &sent).unwrap(), sent);
        let answer = exchange(&mut stream, &sent).unwrap();
        let changed: Vec<usize> = (0..200).filter(|at| answer[*at] != sent[*at]).collect();
        assert_eq!(changed, [50]);
        assert_eq!((answer[50] ^ sent[50]).count_ones(), 1);
        assert_eq!(proxy.flipped(), 1);
        assert_eq!(exchange(&mut stream, &sent).unwrap(), sent, "only one bit");
        assert_eq!(proxy.forwarded(), 1600);
    }

    #[test]
    fn a_cut_breaks_what_is_open_and_refuses_what_is_new_until_restored() {
        let proxy = TcpProxy::start(echo()).unwrap();
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        exchange(&mut stream, b"hello").unwrap();
        proxy.cut();
        assert!(exchange(&mut stream, b"hello").is_err());
        let mut second = TcpStream::connect(proxy.address()).unwrap();
        assert!(exchange(&mut second, b"hello").is_err());
        proxy.restore();
        let mut third = TcpStream::connect(proxy.address()).unwrap();
        assert_eq!(exchange(&mut third, b"hello").unwrap(), b"hello");
    }

    #[test]
    fn what_is_held_arrives_when_it_is_let_go() {
        let proxy = TcpProxy::start(echo()).unwrap();
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        exchange(&mut stream, b"hello").unwrap();
        proxy.hold(true);
        stream.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        assert!(exchange(&mut stream, b"later").is_err());
        proxy.hold(false);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"later");
    }
}

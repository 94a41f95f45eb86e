//! How fast the wire is: both ends in one process, mutual TLS over loopback, no disks.
//!
//! `cargo run --release -p standin-wire --example wirespeed [MiB]`
//!
//! The `transport` lines send blocks that were encoded before; the `whole way` lines encode on one task and decode on
//! another, as the engine does on its pool. `encode` and `decode` are one thread each.

use bytes::Bytes;
use rand::{RngCore, SeedableRng};
use standin_wire::block::{encode, zero};
use standin_wire::{
    Accepted, Compression, Connection, EncodedBlock, Frame, Hello, PkiDir, ReceivedBlock, accept, connect,
};
use std::time::Instant;
use tokio::net::TcpListener;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const GRANULE: u32 = 4096;

fn main() -> Result<(), Failure> {
    let mib: u64 = std::env::args().nth(1).map_or(Ok(2048), |text| text.parse())?;
    let keep = tempfile::tempdir()?;
    let dir = PkiDir::new(keep.path());
    dir.init(&["localhost".to_owned()], false)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!("{:<44} {:>10} {:>12}", "what", "GB/s", "wire / data");
    for (name, data) in [("random", random(1 << 20)), ("text", text(1 << 20))] {
        for size in [64 << 10, 256 << 10, 1 << 20] {
            codec(&format!("{name}, {} KiB", size >> 10), &data.slice(..size), mib)?;
        }
    }
    for (name, data) in [("random", random(1 << 20)), ("text", text(1 << 20))] {
        for size in [4 << 10, 64 << 10, 256 << 10, 1 << 20] {
            for compression in [Compression::Off, Compression::Zstd(1)] {
                let label = format!("{name}, {} KiB, {compression:?}", size >> 10);
                let block = encode(0, 0, data.slice(..size), GRANULE, compression)?;
                runtime.block_on(transport(&dir, &label, block, mib << 20))?;
            }
        }
    }
    runtime.block_on(transport(&dir, "zeros, 1 GiB a block", zero(0, 0, 1 << 30)?, mib << 30))?;
    for (name, data) in [("random", random(256 << 10)), ("text", text(256 << 10))] {
        for compression in [Compression::Off, Compression::Zstd(1)] {
            let label = format!("{name}, 256 KiB, {compression:?}");
            runtime.block_on(whole_way(&dir, &label, data.clone(), compression, mib << 20))?;
        }
    }
    Ok(())
}

fn random(length: usize) -> Bytes {
    let mut data = vec![0; length];
    rand::rngs::StdRng::seed_from_u64(1).fill_bytes(&mut data);
    data.into()
}

fn text(length: usize) -> Bytes {
    let mut data = Vec::with_capacity(length + 80);
    let mut number = 1_u64;
    while data.len() < length {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        data.extend(format!("{} host kernel: [{}] eth0 link is up\n", number % 86_400, number >> 40).bytes());
    }
    data.truncate(length);
    data.into()
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn line(what: &str, bytes: u64, began: Instant, wire: u64) {
    let rate = bytes as f64 / began.elapsed().as_secs_f64() / 1e9;
    println!("{what:<44} {rate:>10.2} {:>12.4}", wire as f64 / bytes as f64);
}

fn codec(label: &str, data: &Bytes, mib: u64) -> Result<(), Failure> {
    let rounds = ((mib / 4) << 20) / data.len() as u64;
    for compression in [Compression::Off, Compression::Zstd(1), Compression::Zstd(3)] {
        let began = Instant::now();
        let mut last = None;
        for _ in 0..rounds {
            last = Some(encode(0, 0, data.clone(), GRANULE, compression)?);
        }
        let Some(block) = last else { return Ok(()) };
        let total = rounds * data.len() as u64;
        line(&format!("encode {label}, {compression:?}"), total, began, rounds * block.wire_len() as u64);
        let received = received(&block)?;
        let began = Instant::now();
        for _ in 0..rounds {
            std::hint::black_box(received.clone().decode()?);
        }
        line(&format!("decode {label}, {compression:?}"), total, began, rounds * block.wire_len() as u64);
    }
    Ok(())
}

fn received(block: &EncodedBlock) -> Result<ReceivedBlock, Failure> {
    let mut assembler = standin_wire::frame::Assembler::new();
    assembler.push(&block.to_bytes())?;
    match assembler.pop_user() {
        Some(Frame::Block(block)) => Ok(block),
        _ => Err("no block came out".into()),
    }
}

async fn pair(dir: &PkiDir) -> Result<(Connection, Connection), Failure> {
    let identity = dir.identity()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("localhost:{}", listener.local_addr()?.port());
    let serving = async {
        let (stream, _) = listener.accept().await?;
        match accept(stream, &identity, Hello::new("server", "wirespeed")).await? {
            Accepted::Replication(connection) => Ok::<_, Failure>(connection),
            Accepted::Enrolment(_) => Err("an enrolment".into()),
        }
    };
    let (client, server) =
        tokio::join!(connect(&address, &identity, Hello::new("client", "wirespeed")), serving);
    Ok((client?, server?))
}

async fn transport(dir: &PkiDir, label: &str, block: EncodedBlock, total: u64) -> Result<(), Failure> {
    let (client, server) = pair(dir).await?;
    let length = block.header().length;
    let rounds = total.div_ceil(length).min(1 << 20);
    let receiving = tokio::spawn(async move {
        let (_back, mut receiver) = server.split();
        let mut blocks = 0;
        while let Some(Frame::Block(_)) = receiver.next().await? {
            blocks += 1;
        }
        Ok::<u64, standin_wire::Error>(blocks)
    });
    let began = Instant::now();
    let sending = tokio::spawn(async move {
        let (mut sender, _receiver) = client.split();
        for _ in 0..rounds {
            sender.block(block.clone()).await?;
        }
        sender.flush().await?;
        let sent = sender.bytes_sent();
        sender.close().await?;
        Ok::<u64, standin_wire::Error>(sent)
    });
    let sent = sending.await??;
    if receiving.await?? != rounds {
        return Err("blocks were lost".into());
    }
    line(&format!("transport {label}"), rounds * length, began, sent);
    Ok(())
}

async fn whole_way(
    dir: &PkiDir,
    label: &str,
    data: Bytes,
    compression: Compression,
    total: u64,
) -> Result<(), Failure> {
    let (client, server) = pair(dir).await?;
    let length = data.len() as u64;
    let rounds = total / length;
    let receiving = tokio::spawn(async move {
        let (_back, mut receiver) = server.split();
        while let Some(Frame::Block(block)) = receiver.next().await? {
            std::hint::black_box(block.decode()?);
        }
        Ok::<(), standin_wire::Error>(())
    });
    let began = Instant::now();
    let sending = tokio::spawn(async move {
        let (mut sender, _receiver) = client.split();
        for number in 0..rounds {
            sender.block(encode(0, number * length, data.clone(), GRANULE, compression)?).await?;
        }
        let sent = sender.bytes_sent();
        sender.close().await?;
        Ok::<u64, standin_wire::Error>(sent)
    });
    let sent = sending.await??;
    receiving.await??;
    line(&format!("whole way {label}"), rounds * length, began, sent);
    Ok(())
}

//! Reads a whole export and prints how fast: `nbdread SOCKET [EXPORT] [IN_FLIGHT] [KIB]`.
//!
//! For comparisons with `nbdcopy SOCKET null:`; 256 KiB with 16 in flight unless told otherwise.

use standin_nbd::{Client, Error, Target};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(socket) = arguments.next() else {
        return Err("usage: nbdread SOCKET [EXPORT] [IN_FLIGHT] [KIB]".into());
    };
    let export = arguments.next().unwrap_or_default();
    let in_flight: usize = arguments.next().map_or(Ok(16), |text| text.parse())?;
    let kib: u32 = arguments.next().map_or(Ok(256), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let target = Target::unix(socket, export);
    let begin = Instant::now();
    let bytes = runtime.block_on(read_all(&target, in_flight, kib << 10))?;
    let seconds = begin.elapsed().as_secs_f64();
    println!("{bytes} bytes in {seconds:.3} s, {:.0} MB/s", bytes as f64 / 1e6 / seconds);
    Ok(())
}

async fn read_all(target: &Target, in_flight: usize, step: u32) -> Result<u64, Error> {
    let client = Client::connect(target, None).await?;
    let next = Arc::new(AtomicU64::new(0));
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        let (client, next) = (client.clone(), Arc::clone(&next));
        readers.spawn(async move {
            let mut bytes = 0;
            loop {
                let offset = next.fetch_add(u64::from(step), Ordering::Relaxed);
                if offset >= client.size() {
                    return Ok::<u64, Error>(bytes);
                }
                let length = u32::try_from(u64::from(step).min(client.size() - offset)).unwrap_or(step);
                bytes += client.read(offset, length).await?.len() as u64;
            }
        });
    }
    let mut total = 0;
    for bytes in readers.join_all().await {
        total += bytes?;
    }
    client.disconnect().await;
    Ok(total)
}

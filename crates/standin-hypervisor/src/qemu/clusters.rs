//! Reads a cut cluster by cluster, for a QEMU whose answers across clusters are wrong.
//!
//! Once the guest writes to a cluster of a disk that is cut, its old data is in the scratch file. QEMU below 8.0 finds
//! out where a request has to look from the first cluster alone, and takes "copied" for "not copied" if the request
//! goes on beyond the copied ones: it then reads the running disk. Such a QEMU shows data of after the cut, and
//! zeros where the guest wrote zeros since. What stays inside of one cluster is answered right, by all versions.
//!
//! Called by [`super::reader`], for cuts only.

use bytes::{Bytes, BytesMut};
use standin_nbd::{Client, Error, FLAG_ZERO, StatusExtent, merge};
use tokio::task::JoinSet;

/// QEMU's clusters in a backup are this long or a multiple, and begin at multiples of their length.
const CLUSTER: u64 = 64 << 10;
/// Clusters that are asked about side by side.
const SIDE_BY_SIDE: usize = 64;

/// The range in pieces that lie in one cluster each: offsets and lengths.
fn pieces(offset: u64, length: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = offset.saturating_add(length);
    let next = |at: u64| (at - at % CLUSTER).saturating_add(CLUSTER);
    let starts = std::iter::successors(Some(offset), move |at| Some(next(*at)));
    starts.take_while(move |at| *at < end).map(move |at| (at, end.min(next(at)) - at))
}

/// What [`Client::read`] returns.
pub(crate) async fn read(client: &Client, offset: u64, length: u32) -> Result<Bytes, Error> {
    if pieces(offset, u64::from(length)).nth(1).is_none() {
        return client.read(offset, length).await;
    }
    // Longer ones are refused, with the right words, before anything is allocated.
    if length > client.block_sizes().max {
        return client.read(offset, length).await;
    }
    let mut reads = JoinSet::new();
    for (at, length) in pieces(offset, u64::from(length)) {
        let client = client.clone();
        // A piece is at most a cluster.
        let short = u32::try_from(length).unwrap_or(u32::MAX);
        reads.spawn(async move { (at, client.read(at, short).await) });
    }
    let mut data = BytesMut::zeroed(usize::try_from(length).unwrap_or(usize::MAX));
    for (at, piece) in reads.join_all().await {
        let piece = piece?;
        let start = usize::try_from(at - offset).unwrap_or(usize::MAX);
        data[start..start + piece.len()].copy_from_slice(&piece);
    }
    Ok(data.freeze())
}

/// What [`Client::block_status`] returns in the context of allocation, but data may be told of zeros. The answer for
/// the whole range says where zeros may be; only those clusters are asked about one by one. Data that is called
/// data is read right in any case.
pub(crate) async fn allocation(
    client: &Client,
    mut offset: u64,
    length: u64,
) -> Result<Vec<StatusExtent>, Error> {
    let mut sure = Vec::new();
    for extent in client.block_status(offset, length).await? {
        if extent.flags & FLAG_ZERO == 0 {
            sure.push(extent);
        } else {
            sure.extend(one_by_one(client, offset, extent.length).await?);
        }
        offset += extent.length;
    }
    Ok(merge(sure))
}

async fn one_by_one(client: &Client, offset: u64, length: u64) -> Result<Vec<StatusExtent>, Error> {
    let mut clusters = pieces(offset, length).peekable();
    let mut sure = Vec::new();
    while clusters.peek().is_some() {
        let mut questions = JoinSet::new();
        for (at, length) in clusters.by_ref().take(SIDE_BY_SIDE) {
            let client = client.clone();
            questions.spawn(async move { (at, client.block_status(at, length).await) });
        }
        let mut answers = questions.join_all().await;
        answers.sort_unstable_by_key(|(at, _)| *at);
        for (_, answer) in answers {
            sure.extend(answer?);
        }
        // A list of a terabyte of zeros is short.
        sure = merge(sure);
    }
    Ok(sure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_piece_crosses_a_cluster_and_together_they_are_the_range() {
        let list = |offset, length| pieces(offset, length).collect::<Vec<_>>();
        assert_eq!(list(0, 0), []);
        assert_eq!(list(CLUSTER, CLUSTER), [(CLUSTER, CLUSTER)]);
        assert_eq!(list(CLUSTER - 512, 1024), [(CLUSTER - 512, 512), (CLUSTER, 512)]);
        assert_eq!(list(512, 2 * CLUSTER), [(512, CLUSTER - 512), (CLUSTER, CLUSTER), (2 * CLUSTER, 512)]);
        assert_eq!(list(u64::MAX - 10, 5), [(u64::MAX - 10, 5)]);
    }
}

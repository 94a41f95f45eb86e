//! Rare but legal behaviour of a server, callers that go away, connections that end.

use crate::fake::{self, DISC, DONE, MODERN, Manner, READ, SIMPLE, STATUS, chunk, scripted, within};
use standin_nbd::{CONTEXT_ALLOCATION, Error, StatusExtent};
use std::time::Duration;

#[tokio::test]
async fn replies_and_chunks_of_many_requests_may_be_interleaved_in_any_order() {
    let (client, _script) = scripted(MODERN, None, |mut peer| async move {
        let mut asked = Vec::new();
        for _ in 0..4 {
            asked.push(peer.asked().await.unwrap());
        }
        // All second halves backwards, then all first halves.
        for a in asked.iter().rev() {
            peer.hole(0, a.cookie, a.offset + 2, 1).await;
            peer.data(0, a.cookie, a.offset + 3, &[a.offset.to_be_bytes()[7]]).await;
        }
        for a in &asked {
            peer.data(DONE, a.cookie, a.offset, &[9, 9]).await;
        }
        peer.hang().await;
    })
    .await;
    let (a, b, c, d) = within(async {
        tokio::join!(client.read(1, 4), client.read(2, 4), client.read(3, 4), client.read(4, 4))
    })
    .await;
    for (data, tag) in [(a, 1), (b, 2), (c, 3), (d, 4)] {
        assert_eq!(data.unwrap(), vec![9, 9, 0, tag]);
    }
}

#[tokio::test]
async fn a_connection_lost_in_the_middle_fails_everything_that_is_pending() {
    let (client, _script) = scripted(MODERN, None, |mut peer| async move {
        let asked = peer.asked().await.unwrap();
        peer.asked().await.unwrap();
        peer.send(&chunk(DONE, 1, asked.cookie, &[0; 24])[..30]).await;
    })
    .await;
    let (one, two) = within(async { tokio::join!(client.read(0, 16), client.read(16, 16)) }).await;
    for error in [one.unwrap_err(), two.unwrap_err(), within(client.read(0, 1)).await.unwrap_err()] {
        assert!(matches!(error, Error::Closed { .. }), "{error:?}");
        assert!(error.to_string().contains("middle of a reply"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_closes_between_replies_fails_what_is_pending() {
    let (client, _script) = scripted(MODERN, None, |mut peer| async move {
        peer.asked().await.unwrap();
    })
    .await;
    let error = within(client.read(0, 16)).await.unwrap_err();
    assert!(
        matches!(&error, Error::Closed { reason, .. } if reason.contains("the server closed")),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_dropped_read_leaves_the_stream_in_step() {
    let (client, _script) = scripted(MODERN, None, |mut peer| async move {
        let first = peer.asked().await.unwrap();
        // Half a reply; the caller goes away meanwhile; then the rest.
        let reply = chunk(DONE, 1, first.cookie, &[&0_u64.to_be_bytes()[..], &[1; 1000]].concat());
        peer.send(&reply[..500]).await;
        let second = peer.asked().await.unwrap();
        peer.send(&reply[500..]).await;
        peer.data(DONE, second.cookie, second.offset, &[2; 8]).await;
        peer.hang().await;
    })
    .await;
    let dropped = tokio::time::timeout(Duration::from_millis(200), client.read(0, 1000)).await;
    assert!(dropped.is_err(), "the first read cannot have ended");
    assert_eq!(within(client.read(64, 8)).await.unwrap(), vec![2; 8]);
}

#[tokio::test]
async fn many_dropped_reads_give_their_places_back() {
    let (client, _script) = scripted(MODERN, None, |mut peer| async move {
        while let Some(asked) = peer.asked().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
            peer.data(DONE, asked.cookie, asked.offset, &vec![3; usize::try_from(asked.length).unwrap()])
                .await;
        }
    })
    .await;
    for round in 0..10 {
        let reads: Vec<_> = (0..100_u64)
            .map(|n| {
                let client = client.clone();
                tokio::spawn(async move { client.read(n, 64).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(10 * round % 30)).await;
        reads.iter().for_each(tokio::task::JoinHandle::abort);
    }
    assert_eq!(within(client.read(0, 4)).await.unwrap(), vec![3; 4]);
}

#[tokio::test]
async fn the_last_handle_dropped_says_goodbye() {
    let (client, script) = scripted(MODERN, None, |mut peer| async move {
        assert_eq!(peer.asked().await.unwrap().command, DISC);
        assert!(peer.asked().await.is_none());
    })
    .await;
    drop(client.clone());
    drop(client);
    within(script.task).await.unwrap();
}

#[tokio::test]
async fn disconnect_waits_for_what_is_pending_and_refuses_what_comes_after() {
    let (client, script) = scripted(MODERN, None, |mut peer| async move {
        let asked = peer.asked().await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        peer.data(DONE, asked.cookie, 0, &[5; 4]).await;
        assert_eq!(peer.asked().await.unwrap().command, DISC);
    })
    .await;
    let reader = client.clone();
    let read = tokio::spawn(async move { reader.read(0, 4).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    within(client.disconnect()).await;
    assert_eq!(within(read).await.unwrap().unwrap(), vec![5; 4]);
    let error = within(client.read(0, 4)).await.unwrap_err();
    assert!(matches!(&error, Error::Closed { reason, .. } if reason.contains("this side")), "{error:?}");
    within(script.task).await.unwrap();
    within(client.disconnect()).await;
}

#[tokio::test]
async fn disconnect_from_a_server_that_hangs_ends() {
    let (client, _script) = scripted(MODERN, None, |mut peer| async move { peer.hang().await }).await;
    let reader = client.clone();
    let read = tokio::spawn(async move { reader.read(0, 4).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    within(client.disconnect()).await;
    assert!(matches!(within(read).await.unwrap().unwrap_err(), Error::Closed { .. }));
}

#[tokio::test]
async fn a_server_without_structured_replies_is_read() {
    let (client, _script) = scripted(SIMPLE, None, |mut peer| async move {
        let (one, two) = (peer.asked().await.unwrap(), peer.asked().await.unwrap());
        assert_eq!((one.command, two.command), (READ, READ));
        // In the other order, in one write.
        let tagged = |tag: u8, length: u32| vec![tag; usize::try_from(length).unwrap()];
        peer.send(
            &[fake::simple(0, two.cookie), tagged(2, two.length), fake::simple(0, one.cookie)].concat(),
        )
        .await;
        peer.send(&tagged(1, one.length)).await;
        let three = peer.asked().await.unwrap();
        peer.send(&fake::simple(5, three.cookie)).await;
        let four = peer.asked().await.unwrap();
        peer.data(DONE, four.cookie, 0, &[1; 4]).await;
        peer.hang().await;
    })
    .await;
    let (one, two) = within(async { tokio::join!(client.read(0, 100), client.read(100, 3)) }).await;
    assert_eq!((one.unwrap(), two.unwrap()), (vec![1; 100].into(), vec![2; 3].into()));
    let error = within(client.read(0, 4)).await.unwrap_err();
    assert!(matches!(error, Error::Server { errno: 5, .. }), "{error:?}");
    let error = within(client.read(0, 4)).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "a chunk without structured replies: {error:?}");
}

#[tokio::test]
async fn reads_are_widened_to_the_minimum_block_size() {
    let manner = Manner { block_sizes: Some((512, 4096, 1 << 20)), size: 10_000, ..MODERN };
    let (client, _script) = scripted(manner, Some(CONTEXT_ALLOCATION), |mut peer| async move {
        for (offset, length) in [(512, 1024), (9728, 272), (0, 512)] {
            let asked = peer.asked().await.unwrap();
            assert_eq!((asked.offset, asked.length), (offset, length));
            let data: Vec<u8> = (offset..offset + u64::from(length)).map(|n| n.to_be_bytes()[7]).collect();
            peer.data(DONE, asked.cookie, offset, &data).await;
        }
        let asked = peer.asked().await.unwrap();
        assert_eq!((asked.command, asked.offset, asked.length), (STATUS, 512, 1024));
        peer.extents(asked.cookie, &[(512, 1), (512, 0)]).await;
        peer.hang().await;
    })
    .await;
    assert_eq!(client.block_sizes().max, 1 << 20);
    for (offset, length) in [(600_u64, 600_u32), (9999, 1), (511, 1)] {
        let wanted: Vec<u8> = (offset..offset + u64::from(length)).map(|n| n.to_be_bytes()[7]).collect();
        assert_eq!(within(client.read(offset, length)).await.unwrap(), wanted);
    }
    let status = within(client.block_status(600, 600)).await.unwrap();
    assert_eq!(status, [StatusExtent { length: 424, flags: 1 }, StatusExtent { length: 176, flags: 0 }]);
    let error = client.read(0, (1 << 20) + 1).await.unwrap_err();
    assert!(matches!(error, Error::Request { .. }), "{error:?}");
}

#[tokio::test]
async fn ranges_outside_of_the_export_are_refused_without_asking() {
    let (client, script) = scripted(MODERN, Some(CONTEXT_ALLOCATION), |mut peer| async move {
        assert_eq!(peer.asked().await.unwrap().command, DISC);
    })
    .await;
    for (offset, length) in [(fake::SIZE, 1), (fake::SIZE - 1, 2), (u64::MAX, 1), (0, u32::MAX)] {
        let error = client.read(offset, length).await.unwrap_err();
        assert!(matches!(error, Error::Request { .. }), "{error:?}");
    }
    assert!(client.block_status(1, u64::MAX).await.is_err());
    assert!(client.read(fake::SIZE, 0).await.unwrap().is_empty());
    assert!(client.block_status(fake::SIZE, 0).await.unwrap().is_empty());
    drop(client);
    within(script.task).await.unwrap();
}

#[tokio::test]
async fn the_last_handle_dropped_closes_the_socket_even_if_the_server_hangs() {
    let (client, script) = scripted(MODERN, None, |mut peer| async move {
        assert_eq!(peer.asked().await.unwrap().command, READ);
        // Neither answers nor closes: only the client can end this.
        assert_eq!(peer.asked().await.unwrap().command, DISC);
        assert!(peer.asked().await.is_none());
    })
    .await;
    let reader = client.clone();
    let read = tokio::spawn(async move { reader.read(0, 4).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    read.abort();
    drop(client);
    within(script.task).await.unwrap();
}

#[tokio::test]
async fn more_reads_than_may_be_on_their_way_wait_for_their_turn() {
    let (client, _script) = scripted(MODERN, None, |mut peer| async move {
        let mut asked = Vec::new();
        for _ in 0..128 {
            asked.push(peer.asked().await.unwrap());
        }
        let more = tokio::time::timeout(Duration::from_millis(200), peer.asked()).await;
        assert!(more.is_err(), "a 129th request came before any reply");
        for a in asked {
            peer.hole(DONE, a.cookie, a.offset, a.length).await;
        }
        while let Some(a) = peer.asked().await {
            peer.hole(DONE, a.cookie, a.offset, a.length).await;
        }
    })
    .await;
    let reads: Vec<_> = (0..300_u64)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.read(n, 4).await })
        })
        .collect();
    for read in reads {
        assert_eq!(within(read).await.unwrap().unwrap(), vec![0; 4]);
    }
}

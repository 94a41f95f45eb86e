//! The client against a peer that breaks the protocol, and against rare but legal behaviour.

use crate::fake::{
    self, CONTEXT, DISC, DONE, MODERN, Manner, Peer, READ, SIMPLE, STATUS, chunk, header, scripted,
};
use standin_nbd::{CONTEXT_ALLOCATION, Client, Error, StatusExtent};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Reads 16 bytes at 1000 from a peer that does `script` with the cookie; expects a protocol violation that says
/// `words`, and that the connection is dead with the same sentence from then on.
async fn violation<F, Fut>(words: &str, script: F)
where
    F: FnOnce(Peer, u64) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let (client, _script) = scripted(MODERN, Some(CONTEXT_ALLOCATION), |mut peer| async move {
        let asked = peer.asked().await.unwrap();
        script(peer, asked.cookie).await;
    })
    .await;
    let error = within(client.read(1000, 16)).await.unwrap_err();
    assert!(matches!(&error, Error::Protocol { .. }), "{error:?}");
    assert!(error.to_string().contains(words), "{error} does not say {words:?}");
    assert!(error.to_string().contains("disk0"), "{error} does not name the export");
    let later = within(client.read(0, 1)).await.unwrap_err();
    assert_eq!(later.to_string(), error.to_string(), "a later request fails for the same reason");
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("the client hangs")
}

#[tokio::test]
async fn a_reply_to_an_unknown_cookie_poisons() {
    violation("was not asked", |mut peer, cookie| async move {
        peer.data(DONE, cookie + 1, 1000, &[1; 16]).await;
        peer.hang().await;
    })
    .await;
}

#[tokio::test]
async fn a_second_reply_to_the_same_cookie_poisons_but_the_first_was_good() {
    let (client, _script) = scripted(MODERN, None, |mut peer| async move {
        let asked = peer.asked().await.unwrap();
        peer.data(DONE, asked.cookie, 1000, &[1; 16]).await;
        peer.asked().await.unwrap();
        peer.data(DONE, asked.cookie, 1000, &[2; 16]).await;
        peer.hang().await;
    })
    .await;
    assert_eq!(within(client.read(1000, 16)).await.unwrap(), vec![1; 16]);
    let error = within(client.read(1000, 16)).await.unwrap_err();
    assert!(
        matches!(&error, Error::Protocol { .. }) && error.to_string().contains("answered before"),
        "{error}"
    );
}

#[tokio::test]
async fn data_outside_of_the_range_poisons() {
    for (offset, length) in [(999_u64, 16_usize), (1001, 16), (1016, 1), (0, 1), (u64::MAX, 4)] {
        violation("lies outside", move |mut peer, cookie| async move {
            peer.data(DONE, cookie, offset, &vec![1; length]).await;
            peer.hang().await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_giant_chunk_is_refused_before_its_bytes_come() {
    violation("lies outside", |mut peer, cookie| async move {
        peer.send(&header(DONE, 1, cookie, u32::MAX)).await;
        peer.send(&1000_u64.to_be_bytes()).await;
        peer.hang().await;
    })
    .await;
}

#[tokio::test]
async fn a_giant_hole_is_refused() {
    violation("lies outside", |mut peer, cookie| async move {
        peer.hole(DONE, cookie, 1000, u32::MAX).await;
        peer.hang().await;
    })
    .await;
}

#[tokio::test]
async fn a_giant_error_or_status_or_unknown_chunk_is_refused() {
    for kind in [0x8001_u16, 0x8002, 0xffff, 5, 6, 77] {
        violation("cannot be", move |mut peer, cookie| async move {
            peer.send(&header(DONE, kind, cookie, u32::MAX)).await;
            peer.hang().await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_hole_over_bytes_that_came_poisons() {
    violation("overlaps", |mut peer, cookie| async move {
        peer.data(0, cookie, 1000, &[1; 8]).await;
        peer.hole(DONE, cookie, 1004, 12).await;
        peer.hang().await;
    })
    .await;
}

#[tokio::test]
async fn data_over_a_hole_poisons() {
    violation("covers bytes", |mut peer, cookie| async move {
        peer.hole(0, cookie, 1000, 16).await;
        peer.data(DONE, cookie, 1000, &[1; 8]).await;
        peer.hang().await;
    })
    .await;
}

#[tokio::test]
async fn a_reply_that_leaves_bytes_out_poisons() {
    violation("8 of 16", |mut peer, cookie| async move {
        peer.data(0, cookie, 1008, &[1; 8]).await;
        peer.chunk(DONE, 0, cookie, &[]).await;
        peer.hang().await;
    })
    .await;
    violation("0 of 16", |mut peer, cookie| async move {
        peer.chunk(DONE, 0, cookie, &[]).await;
        peer.hang().await;
    })
    .await;
}

#[tokio::test]
async fn an_empty_data_chunk_or_a_none_chunk_with_data_or_without_end_poisons() {
    violation("cannot be", |mut peer, cookie| async move {
        peer.data(DONE, cookie, 1000, &[]).await;
        peer.hang().await;
    })
    .await;
    violation("cannot be", |mut peer, cookie| async move {
        peer.chunk(DONE, 0, cookie, &[0]).await;
        peer.hang().await;
    })
    .await;
    violation("cannot be", |mut peer, cookie| async move {
        peer.chunk(0, 0, cookie, &[]).await;
        peer.hang().await;
    })
    .await;
}

#[tokio::test]
async fn a_simple_success_to_a_read_with_structured_replies_poisons() {
    violation("simple reply", |mut peer, cookie| async move {
        peer.send(&fake::simple(0, cookie)).await;
        peer.send(&[1; 16]).await;
        peer.hang().await;
    })
    .await;
}

#[tokio::test]
async fn a_block_status_in_reply_to_a_read_poisons() {
    violation("cannot be", |mut peer, cookie| async move {
        peer.extents(cookie, &[(16, 0)]).await;
        peer.hang().await;
    })
    .await;
}

#[tokio::test]
async fn a_reply_with_a_wrong_magic_poisons() {
    violation("magic", |mut peer, _| async move {
        peer.send(&[0xaa; 64]).await;
        peer.hang().await;
    })
    .await;
}

#[tokio::test]
async fn an_error_chunk_whose_text_is_longer_than_itself_poisons() {
    for payload in [&[0, 0, 0, 5, 0, 9, b'x'][..], &[0, 0, 0, 0, 0, 1, b'x'], &[0, 0, 0, 5, 0xff, 0xff]] {
        violation("do not fit", move |mut peer, cookie| async move {
            peer.chunk(DONE, 0x8001, cookie, payload).await;
            peer.hang().await;
        })
        .await;
    }
}

#[tokio::test]
async fn an_error_chunk_fails_one_read_and_the_connection_goes_on() {
    let (client, _script) = scripted(MODERN, None, |mut peer| async move {
        let asked = peer.asked().await.unwrap();
        // Half of the data, then an error with an offset, in the middle of the reply.
        peer.data(0, asked.cookie, 1000, &[1; 8]).await;
        let text = b"medium\nerror";
        let payload = [&[0, 0, 0, 5, 0, 12][..], text, &1008_u64.to_be_bytes()].concat();
        peer.chunk(0, 0x8002, asked.cookie, &payload).await;
        peer.chunk(DONE, 0, asked.cookie, &[]).await;
        let asked = peer.asked().await.unwrap();
        peer.data(DONE, asked.cookie, asked.offset, &[7; 4]).await;
        let asked = peer.asked().await.unwrap();
        peer.send(&fake::simple(28, asked.cookie)).await;
        peer.hang().await;
    })
    .await;
    let error = within(client.read(1000, 16)).await.unwrap_err();
    let Error::Server { errno: 5, message, request, .. } = &error else { panic!("{error:?}") };
    assert!(message.contains("EIO") && message.contains("medium error"), "{message}");
    assert!(request.contains("16 bytes at 1000"), "{request}");
    assert_eq!(within(client.read(5, 4)).await.unwrap(), vec![7; 4]);
    let error = within(client.read(5, 4)).await.unwrap_err();
    assert!(matches!(error, Error::Server { errno: 28, .. }), "{error:?}");
}

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

/// A block status of 4096 bytes answered by `script`.
async fn status<F, Fut>(script: F) -> (Client, Result<Vec<StatusExtent>, Error>)
where
    F: FnOnce(Peer, u64) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let (client, _script) = scripted(MODERN, Some(CONTEXT_ALLOCATION), |mut peer| async move {
        let asked = peer.asked().await.unwrap();
        assert_eq!((asked.command, asked.offset, asked.length), (STATUS, 0, 4096));
        script(peer, asked.cookie).await;
    })
    .await;
    let result = within(client.block_status(0, 4096)).await;
    (client, result)
}

#[tokio::test]
async fn a_status_in_pieces_is_asked_for_again_and_clipped_and_merged() {
    let (_client, result) = status(|mut peer, cookie| async move {
        peer.extents(cookie, &[(1000, 3), (24, 0)]).await;
        let asked = peer.asked().await.unwrap();
        assert_eq!((asked.offset, asked.length), (1024, 3072));
        peer.extents(asked.cookie, &[(24, 0), (u32::MAX, 3)]).await;
        peer.hang().await;
    })
    .await;
    let expected = [(1000, 3), (48, 0), (3048, 3)].map(|(length, flags)| StatusExtent { length, flags });
    assert_eq!(result.unwrap(), expected);
}

#[tokio::test]
async fn broken_statuses_poison() {
    let good = [&CONTEXT.to_be_bytes()[..], &[0, 0, 16, 0, 0, 0, 0, 0]].concat();
    let other_context = [&(CONTEXT + 1).to_be_bytes()[..], &good[4..]].concat();
    let empty_extent = [&CONTEXT.to_be_bytes()[..], &[0; 8]].concat();
    let beyond = [&good[..], &good[4..]].concat();
    let cases: [(&str, Vec<u8>); 6] = [
        ("of context", other_context),
        ("is empty", empty_extent),
        ("goes on", beyond),
        ("not a list", CONTEXT.to_be_bytes().to_vec()),
        ("not a list", good[..9].to_vec()),
        ("of context", vec![1, 2]),
    ];
    for (words, payload) in cases {
        let (client, result) = status(move |mut peer, cookie| async move {
            peer.chunk(DONE, 5, cookie, &payload).await;
            peer.hang().await;
        })
        .await;
        let error = result.unwrap_err();
        assert!(
            matches!(&error, Error::Protocol { .. }) && error.to_string().contains(words),
            "{error}: {words}"
        );
        assert!(client.read(0, 1).await.is_err());
    }
}

#[tokio::test]
async fn no_status_or_two_in_one_reply_poison() {
    let (_, result) = status(|mut peer, cookie| async move {
        peer.chunk(DONE, 0, cookie, &[]).await;
        peer.hang().await;
    })
    .await;
    assert!(result.unwrap_err().to_string().contains("no block status"));
    let (_, result) = status(|mut peer, cookie| async move {
        let payload = [&CONTEXT.to_be_bytes()[..], &[0, 0, 0, 1, 0, 0, 0, 0]].concat();
        peer.chunk(0, 5, cookie, &payload).await;
        peer.chunk(DONE, 5, cookie, &payload).await;
        peer.hang().await;
    })
    .await;
    assert!(result.unwrap_err().to_string().contains("two block statuses"));
}

#[tokio::test]
async fn a_failed_status_is_the_servers_error_and_the_connection_goes_on() {
    let (client, result) = status(|mut peer, cookie| async move {
        peer.chunk(DONE, 0x8001, cookie, &[0, 0, 0, 22, 0, 2, b'n', b'o']).await;
        let asked = peer.asked().await.unwrap();
        peer.data(DONE, asked.cookie, 0, &[1]).await;
        peer.hang().await;
    })
    .await;
    assert!(matches!(result.unwrap_err(), Error::Server { errno: 22, .. }));
    // The script task ends with its handle only when the runtime does, so the connection is still served.
    assert_eq!(within(client.read(0, 1)).await.unwrap(), vec![1]);
}

/// Connects to a peer that does `script` instead of a proper negotiation.
async fn handshake<F, Fut>(context: Option<&str>, script: F) -> Error
where
    F: FnOnce(Peer) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let running = fake::raw(script);
    within(Client::connect(&running.target(), context)).await.unwrap_err()
}

#[tokio::test]
async fn a_stranger_behind_the_socket_is_told_from_an_nbd_server() {
    let error = handshake(None, |mut peer| async move {
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        peer.0.shutdown().await.unwrap();
    })
    .await;
    assert!(matches!(&error, Error::Protocol { .. }) && error.to_string().contains("greeting"), "{error}");
    let error = handshake(None, |mut peer| async move {
        peer.send(b"NBDMAGIC").await;
    })
    .await;
    assert!(matches!(&error, Error::Handshake { .. }) && error.to_string().contains("closed"), "{error}");
    let error = handshake(None, |mut peer| async move {
        peer.send(b"NBDMAGICIHAVEOPT\x00\x00").await;
        fake::option(&mut peer).await;
    })
    .await;
    assert!(matches!(&error, Error::Handshake { .. }) && error.to_string().contains("too old"), "{error}");
}

#[tokio::test]
async fn a_refused_option_carries_the_servers_text() {
    let error = handshake(None, |mut peer| async move {
        fake::greet(&mut peer).await;
        fake::option(&mut peer).await;
        peer.send(&fake::option_reply(8, 1, &[])).await;
        fake::option(&mut peer).await;
        peer.send(&fake::option_reply(7, (1 << 31) | 6, b"export 'disk0' not present")).await;
        fake::option(&mut peer).await;
    })
    .await;
    assert!(matches!(&error, Error::Handshake { message, .. } if message.contains("not present")), "{error}");
}

#[tokio::test]
async fn a_context_that_fails_or_is_not_given_or_not_asked_for_is_an_error() {
    let told = |payload: Vec<Vec<u8>>| {
        handshake(Some(CONTEXT_ALLOCATION), move |mut peer| async move {
            fake::greet(&mut peer).await;
            fake::option(&mut peer).await;
            peer.send(&fake::option_reply(8, 1, &[])).await;
            assert_eq!(fake::option(&mut peer).await.unwrap().0, 10);
            peer.send(&payload.concat()).await;
            assert!(fake::option(&mut peer).await.is_none(), "the client went on");
        })
    };
    let ack = fake::option_reply(10, 1, &[]);
    let right = fake::option_reply(10, 4, b"\0\0\0\x01base:allocation");
    let wrong = fake::option_reply(10, 4, b"\0\0\0\x01qemu:dirty-bitmap:x");
    let error = told(vec![ack.clone()]).await;
    assert!(
        matches!(&error, Error::Handshake { .. }) && error.to_string().contains("does not offer"),
        "{error}"
    );
    let error = told(vec![fake::option_reply(10, (1 << 31) | 1, b"")]).await;
    assert!(matches!(&error, Error::Handshake { .. }), "{error}");
    let error = told(vec![wrong, ack.clone()]).await;
    assert!(
        matches!(&error, Error::Protocol { .. }) && error.to_string().contains("another context"),
        "{error}"
    );
    let error = told(vec![right.clone(), right, ack]).await;
    assert!(
        matches!(&error, Error::Protocol { .. }) && error.to_string().contains("more contexts"),
        "{error}"
    );
    let error = handshake(Some(CONTEXT_ALLOCATION), |mut peer| async move {
        fake::greet(&mut peer).await;
        fake::option(&mut peer).await;
        peer.send(&fake::option_reply(8, (1 << 31) | 1, &[])).await;
        assert!(fake::option(&mut peer).await.is_none(), "the client went on");
    })
    .await;
    assert!(matches!(&error, Error::Handshake { .. }) && error.to_string().contains("structured"), "{error}");
}

#[tokio::test]
async fn absurd_option_replies_are_refused() {
    let answered = |reply: Vec<u8>| {
        handshake(None, move |mut peer| async move {
            fake::greet(&mut peer).await;
            fake::option(&mut peer).await;
            peer.send(&reply).await;
            while fake::option(&mut peer).await.is_some() {}
        })
    };
    let mut giant = fake::option_reply(8, 1, &[]);
    giant[16..].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(answered(giant).await.to_string().contains("too long"));
    assert!(answered(fake::option_reply(9, 1, &[])).await.to_string().contains("no reply to option 8"));
    assert!(answered(vec![7; 20]).await.to_string().contains("no reply to option 8"));
    let sized = |payloads: Vec<Vec<u8>>| {
        handshake(None, move |mut peer| async move {
            fake::greet(&mut peer).await;
            fake::option(&mut peer).await;
            peer.send(&fake::option_reply(8, 1, &[])).await;
            fake::option(&mut peer).await;
            for payload in payloads {
                peer.send(&fake::option_reply(7, 3, &payload)).await;
            }
            peer.send(&fake::option_reply(7, 1, &[])).await;
            peer.hang().await;
        })
    };
    assert!(sized(vec![]).await.to_string().contains("did not tell the size"));
    assert!(sized(vec![vec![0, 0, 1]]).await.to_string().contains("wrong length"));
    assert!(sized(vec![vec![0]]).await.to_string().contains("wrong length"));
    assert!(
        sized(vec![[&[0, 0][..], &[0xff; 8], &[0, 3]].concat()])
            .await
            .to_string()
            .contains("more than a disk")
    );
    for (min, max) in [(0_u32, 1_u32 << 20), (3, 1 << 20), (1 << 31, u32::MAX), (512, 1)] {
        let sizes = [&[0, 3][..], &min.to_be_bytes(), &4096_u32.to_be_bytes(), &max.to_be_bytes()].concat();
        assert!(sized(vec![sizes]).await.to_string().contains("impossible"), "{min} {max}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_greet_is_given_up_after_ten_seconds() {
    let begin = std::time::Instant::now();
    let error = handshake(None, |mut peer| async move {
        let mut nothing = [0; 1];
        let _ = tokio::io::AsyncReadExt::read(&mut peer.0, &mut nothing).await;
    })
    .await;
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    assert!((9..15).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_missing_socket_names_export_and_path() {
    let target = standin_nbd::Target::unix("/nonexistent/vm.sock", "vda");
    let error = Client::connect(&target, None).await.unwrap_err();
    let text = fake::sentence(&error);
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert!(
        text.contains("vda") && text.contains("/nonexistent/vm.sock") && text.contains("No such file"),
        "{text}"
    );
}

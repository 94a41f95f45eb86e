//! The client against replies that break the protocol.

use crate::fake::{self, CONTEXT, DONE, MODERN, Peer, STATUS, header, scripted, within};
use standin_nbd::{CONTEXT_ALLOCATION, Client, Error, StatusExtent};
use std::future::Future;

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

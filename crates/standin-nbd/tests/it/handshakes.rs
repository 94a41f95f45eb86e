//! The client's negotiation with servers that refuse, lie or say nothing.

use crate::fake::{self, Peer, within};
use standin_nbd::{CONTEXT_ALLOCATION, Client, Error};
use std::future::Future;
use tokio::io::AsyncWriteExt;

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

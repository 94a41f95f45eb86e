//! Identities: rotation while a connection is up, files that cannot be used.

use crate::support::{attempt, hello, host, names, quick, replication};
use standin_wire::{Connection, Error, Frame, Identity, PkiDir};
use std::path::Path;
use std::process::Command;

async fn exchange(client: Connection, server: Connection, text: &str) {
    let (mut sender, _answers) = client.split();
    let (_back, mut receiver) = server.split();
    sender.control(text).await.unwrap();
    match receiver.next().await.unwrap() {
        Some(Frame::Control(control)) => assert_eq!(control.parse::<String>().unwrap(), text),
        other => panic!("{other:?}"),
    }
}

async fn connected(client: &Identity, server: &Identity) -> (Connection, Connection) {
    let (client, server) = attempt((client, hello("c")), (server, hello("s")), quick()).await;
    (client.unwrap(), replication(server.unwrap()))
}

#[tokio::test]
async fn a_renewed_certificate_is_used_by_new_connections_while_old_ones_go_on() {
    let host = host();
    let old = host.identity.fingerprint();
    let (client, server) = connected(&host.identity, &host.identity).await;
    assert_eq!(server.peer().fingerprint, old);
    let summary = host.dir.renew().unwrap();
    assert_eq!(host.identity.fingerprint(), old, "nothing changes before it is asked to");
    assert!(host.identity.reload().unwrap());
    assert!(!host.identity.reload().unwrap(), "the second reading finds nothing new");
    assert_eq!(host.identity.fingerprint(), summary.fingerprint);
    let (new_client, new_server) = connected(&host.identity, &host.identity).await;
    assert_eq!(new_server.peer().fingerprint, summary.fingerprint);
    assert_eq!(new_client.peer().names, ["host-a.example", "localhost"]);
    exchange(client, server, "the old connection goes on").await;
    exchange(new_client, new_server, "so does the new one").await;
}

#[tokio::test]
async fn a_broken_rotation_leaves_the_old_identity_in_force() {
    let host = host();
    let old = host.identity.fingerprint();
    let certificate = host.dir.path().join("host.crt");
    let good = std::fs::read(&certificate).unwrap();
    // A key that belongs to another certificate, as in the moment between two copies by hand.
    let other = host.dir.issue(&names(&["other"]), 10).unwrap();
    for broken in [other.certificate.as_bytes(), b"", b"no pem", &good[..good.len() / 3]] {
        std::fs::write(&certificate, broken).unwrap();
        let error = host.identity.reload().unwrap_err();
        assert!(matches!(&error, Error::Identity { reason } if reason.contains("host.crt")), "{error}");
    }
    assert_eq!(host.identity.fingerprint(), old);
    let (client, server) = connected(&host.identity, &host.identity).await;
    exchange(client, server, "still here").await;
}

#[test]
fn an_identity_that_is_not_there_says_which_file_and_what_to_do() {
    let keep = tempfile::tempdir().unwrap();
    let error = PkiDir::new(keep.path().join("none")).identity().unwrap_err();
    assert!(error.to_string().contains("host.crt"), "{error}");
    assert!(error.remedy().contains("standin pki init"), "{}", error.remedy());
}

/// Both authorities are trusted for a while, so hosts change over one by one and no connection fails.
#[tokio::test]
async fn an_authority_is_replaced_without_a_pause() {
    let a = host();
    let keep = tempfile::tempdir().unwrap();
    let b = PkiDir::new(keep.path());
    crate::enrolment::enrol(&a, &b, &["host-b.example", "localhost"]).await.unwrap();
    let b_identity = b.identity().unwrap();
    let old_authority = a.dir.summary().unwrap().authority;
    a.dir.rotate_authority().unwrap();
    assert!(a.identity.reload().unwrap(), "the signing host goes ahead");
    assert_ne!(a.dir.summary().unwrap().authority, old_authority);
    for (client, server) in [(&a.identity, &b_identity), (&b_identity, &a.identity)] {
        let (client, server) = connected(client, server).await;
        exchange(client, server, "a new authority, and the other host has not renewed").await;
    }
    // A host that enrols just now gets along with both too.
    let keep_c = tempfile::tempdir().unwrap();
    let c = PkiDir::new(keep_c.path());
    crate::enrolment::enrol(&a, &c, &["host-c.example", "localhost"]).await.unwrap();
    let (client, server) = connected(&c.identity().unwrap(), &b_identity).await;
    exchange(client, server, "the newcomer and the old one").await;
}

/// `openssl verify` with the checks that Python does by default since 3.13, for both ends of a connection.
fn verified_strictly(host: &Path, trust: &Path) {
    for purpose in ["sslserver", "sslclient"] {
        let mut command = Command::new("openssl");
        command.args(["verify", "-x509_strict", "-purpose", purpose, "-no-CApath", "-CAfile"]).arg(trust);
        let output = command.arg("-untrusted").args([host, host]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} for an {purpose}: {said}", host.display());
    }
}

#[test]
fn every_certificate_passes_the_strict_checks_of_openssl() {
    let host = host();
    let file = |name: &str| host.dir.path().join(name);
    verified_strictly(&file("host.crt"), &file("ca.crt"));
    host.dir.renew().unwrap();
    verified_strictly(&file("host.crt"), &file("ca.crt"));
    // Longer than a common name can be: the subject stays empty.
    let long = format!("{}.{}.example", "a".repeat(60), "b".repeat(60));
    let issued = host.dir.issue(&names(&[&long]), 10).unwrap();
    std::fs::write(file("issued.crt"), issued.certificate).unwrap();
    verified_strictly(&file("issued.crt"), &file("ca.crt"));

    std::fs::copy(file("ca.crt"), file("old-ca.crt")).unwrap();
    host.dir.rotate_authority().unwrap();
    verified_strictly(&file("host.crt"), &file("ca.crt"));
    // By the certificate with which the old authority vouches for the new one.
    verified_strictly(&file("host.crt"), &file("old-ca.crt"));
    verified_strictly(&file("host.crt"), &file("trusted.crt"));
}

//! The server's certificate when its files change.

use crate::server::start;
use standin_access::AccessSettings;
use standin_access::listener::{TlsFiles, TlsIdentity};
use standin_access::settings::Limits;

#[tokio::test]
async fn files_that_cannot_be_used_are_named_and_a_reload_keeps_what_works() {
    let server = start(AccessSettings::default(), Limits::default()).await;
    let file = |name: &str| server.dir.path().join(name);
    let files = TlsFiles { certificate: file("server.crt"), key: file("client.key"), client_trust: None };
    let error = TlsIdentity::load(files.clone()).expect_err("the key is of another certificate").to_string();
    assert!(error.contains("server.crt"), "{error}");
    let files = TlsFiles { key: file("server.key"), client_trust: Some(file("missing.crt")), ..files };
    assert!(TlsIdentity::load(files.clone()).expect_err("no such file").to_string().contains("missing.crt"));
    let identity = TlsIdentity::load(TlsFiles { client_trust: None, ..files }).unwrap();
    std::fs::write(file("server.crt"), "nonsense").unwrap();
    identity.reload();
}

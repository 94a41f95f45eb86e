//! A real client, and another server to compare with: `pywbem` and `pywbem_mock`.

use crate::{model, server};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Python that has `pywbem`.
fn python() -> PathBuf {
    let python = match std::env::var_os("STANDIN_PYTHON") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/venv/bin/python"),
    };
    let found = Command::new(&python)
        .args(["-c", "import pywbem_mock"])
        .output()
        .is_ok_and(|ran| ran.status.success());
    assert!(found, "{} has no pywbem; `make clients` installs it, or set STANDIN_PYTHON", python.display());
    python
}

async fn run(script: &str, arguments: &[String]) -> String {
    let mut command = tokio::process::Command::new(python());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pywbem").join(script)).args(arguments);
    let ran = command.output().await.unwrap();
    let out = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{script}:\n{out}\n{}", String::from_utf8_lossy(&ran.stderr));
    out
}

/// The address of a server that has what `model.py` says.
pub async fn serve() -> String {
    let text = run("model.py", &[]).await;
    format!("http://{}", server::serve(model::endpoint(&text)).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_of_pywbem_works() {
    let out = run("operations.py", &[serve().await]).await;
    assert!(out.contains("operations done"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pywbem_mock_gives_the_same_answers() {
    let out = run("differential.py", &[serve().await]).await;
    assert!(out.contains("answers are the same"), "{out}");
}

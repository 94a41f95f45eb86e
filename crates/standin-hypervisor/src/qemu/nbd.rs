//! The NBD server inside a QEMU. There is at most one per process; standin starts it on a unix socket of its own
//! and leaves it running.

use super::Shared;
use super::machine::{Machine, Vm};
use crate::error::Error;
use serde_json::json;
use std::path::PathBuf;
use tokio::net::UnixStream;

/// The socket of the VM's NBD server, which runs afterwards.
///
/// # Errors
/// [`Error::Unsupported`] when somebody else's server occupies the process: its address cannot be asked.
pub(crate) async fn server(shared: &Shared, vm: &Vm, machine: &Machine) -> Result<PathBuf, Error> {
    let socket = shared.store.nbd_socket(vm.id);
    let _one_at_a_time = machine.nbd.lock().await;
    let arguments = json!({
        "addr": { "type": "unix", "data": { "path": socket } },
        // Three connections per disk are opened, so QEMU's limit, where it has one, is not for us.
        "max-connections": 0,
    });
    match machine.qmp.execute("nbd-server-start", arguments).await {
        Ok(_) => Ok(socket),
        Err(Error::Qmp { desc, .. }) if desc.contains("already running") => {
            if UnixStream::connect(&socket).await.is_ok() {
                return Ok(socket);
            }
            Err(Error::Unsupported {
                feature: "reading this VM's disks".to_owned(),
                detail: "its QEMU already runs an NBD server for somebody else, and can run only one; \
                         end that export first"
                    .to_owned(),
            })
        }
        Err(error) => Err(error),
    }
}

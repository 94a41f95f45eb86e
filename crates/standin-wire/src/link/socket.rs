//! Options of the TCP socket.

use rustix::net::sockopt;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long unacknowledged data may stay in the kernel before the connection fails: a host that lost its power
/// must not hold a sender for the quarter of an hour that TCP would.
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);
/// The kernel probes a connection on which nothing moves, so that one whose user reads and writes nothing does
/// not stay for ever.
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// Sets up a fresh connection.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Frames are gathered before they are written, so waiting for more would only delay acknowledgements.
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    let millis = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, millis)?;
    Ok(())
}

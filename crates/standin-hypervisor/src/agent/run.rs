//! Running a program in the guest by its agent: `guest-exec`, its input, its output and its end. What comes back
//! is the guest's word, bounded in size and time.

use super::{Agent, shown};
use crate::error::Error;
use crate::seam::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// How often the end of a program is asked for.
const POLL: Duration = Duration::from_millis(250);

/// The longest output that is kept, in bytes.
const MAX_OUTPUT: usize = 16 << 10;

/// How a program in the guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i64>,
    /// What it wrote to its standard output.
    pub output: String,
    /// What it wrote to its standard error output.
    pub complaint: String,
}

impl Agent {
    /// Runs a program in the guest and waits for its end, at most until `until`.
    ///
    /// # Errors
    /// As [`Agent::sync`]; [`Error::Agent`] when the agent refuses to run it or answers something else,
    /// [`Error::Timeout`] when the program does not end; it goes on in the guest then.
    pub(super) async fn run(
        &mut self,
        program: &str,
        arguments: &[&str],
        input: &str,
        until: Instant,
    ) -> Result<Ended> {
        let call = self.timeouts.call;
        let mut order = json!({ "path": program, "arg": arguments, "capture-output": true });
        if !input.is_empty() {
            order["input-data"] = json!(STANDARD.encode(input));
        }
        let begun = Instant::now();
        let started = self.ask("guest-exec", Some(order), call).await?;
        let pid =
            started.get("pid").and_then(Value::as_i64).ok_or_else(|| strange("guest-exec", &started))?;
        loop {
            let status = self.ask("guest-exec-status", Some(json!({ "pid": pid })), call).await?;
            match status.get("exited").and_then(Value::as_bool) {
                Some(true) => return Ok(ended(&status)),
                Some(false) if Instant::now() < until => tokio::time::sleep(POLL).await,
                Some(false) => {
                    return Err(Error::Timeout {
                        what: format!("{program} in the guest"),
                        after: begun.elapsed(),
                    });
                }
                None => return Err(strange("guest-exec-status", &status)),
            }
        }
    }
}

pub(super) fn strange(command: &str, answer: &Value) -> Error {
    Error::Agent(format!("{} is no answer to {command}", shown(&answer.to_string())))
}

fn ended(status: &Value) -> Ended {
    let text = |key| {
        let encoded = status.get(key).and_then(Value::as_str).unwrap_or_default();
        let bytes = STANDARD.decode(encoded).unwrap_or_default();
        String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_OUTPUT)]).into_owned()
    };
    Ended {
        code: status.get("exitcode").and_then(Value::as_i64),
        output: text("out-data"),
        complaint: text("err-data"),
    }
}

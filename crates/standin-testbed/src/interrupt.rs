//! Work that Ctrl-C may end at any moment without leaving processes or files behind.
//!
//! The work runs on a thread of its own and cleans up by the `Drop`s of what it made. At a signal nobody waits
//! for those: this thread ends everything below this process and every QEMU that names the work's directory,
//! and removes the directory.

use crate::process;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

enum Event<T> {
    Done(Result<T>),
    Signalled,
}

/// Runs `work`, whose processes are children of this one or QEMUs that name `dir`, to its end or to a signal.
///
/// # Errors
/// Those of `work`; or that it was interrupted or panicked. Everything is cleaned up in each case.
pub fn run_until_interrupted<T: Send + 'static>(
    dir: &Path,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (events, heard) = channel();
    watch_signals(events.clone())?;
    std::thread::spawn(move || {
        // Nobody listens any more once a signal was heard.
        let _ = events.send(Event::Done(
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
                .unwrap_or_else(|_| Err(anyhow::anyhow!("the work panicked; what it said is above"))),
        ));
    });
    wait(dir, &heard)
}

fn wait<T>(dir: &Path, heard: &Receiver<Event<T>>) -> Result<T> {
    match heard.recv().context("wait for the work")? {
        Event::Done(outcome) => {
            // Its own clean-up has run; this finds nothing unless that failed.
            end_everything(dir)?;
            outcome
        }
        Event::Signalled => {
            end_everything(dir)?;
            // The work fails now because its processes are gone. What it started meanwhile goes too.
            match heard.recv_timeout(Duration::from_secs(2)) {
                Ok(_) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    end_everything(dir)?
                }
            }
            bail!("interrupted; everything was cleaned up")
        }
    }
}

fn watch_signals<T: Send + 'static>(events: Sender<Event<T>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("prepare to hear Ctrl-C")?;
    std::thread::spawn(move || {
        let heard = runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut hangup = signal(SignalKind::hangup())?;
            tokio::select! {
                outcome = tokio::signal::ctrl_c() => outcome,
                _ = terminate.recv() => Ok(()),
                _ = hangup.recv() => Ok(()),
            }
        });
        match heard {
            // The other side is gone when the work has ended just now.
            Ok(()) => drop(events.send(Event::Signalled)),
            Err(error) => eprintln!("Ctrl-C will leave things behind: it cannot be heard ({error})"),
        }
    });
    Ok(())
}

/// Ends what runs below this process and every QEMU that names `dir`, and removes `dir`.
fn end_everything(dir: &Path) -> Result<()> {
    // A daemon that was ended between the look for children and the look for QEMUs may have started one.
    for _ in 0..2 {
        process::children().into_iter().try_for_each(process::kill)?;
        process::find("qemu", dir).into_iter().try_for_each(process::kill)?;
    }
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

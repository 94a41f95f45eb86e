//! Processes by id: alive, killed, measured. Facts come from `/proc`, see proc(5).

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::time::{Duration, Instant};

/// CPU time that a process has used so far, user and system, with the children it has waited for.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(pid: i32) -> Result<Duration> {
    let stat = stat(pid)?;
    // Fields 14 to 17 of the line are 11 to 14 after the name: utime, stime, cutime, cstime.
    let ticks: u64 = stat.iter().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// CPU time of the threads of a process in nanoseconds, where the kernel counts them that finely: the sum of
/// `/proc/PID/task/*/schedstat`. Threads that have ended are not in it, so use it on steady processes only.
///
/// # Errors
/// When there is no such process, or the kernel does not count.
pub fn cpu_time_fine(pid: i32) -> Result<Duration> {
    let tasks = format!("/proc/{pid}/task");
    let mut total = 0;
    for task in std::fs::read_dir(&tasks).with_context(|| format!("list {tasks}"))? {
        let path = task?.path().join("schedstat");
        // A thread that ended since the listing was made.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        total += text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    if total == 0 {
        bail!("the kernel keeps no schedstat for process {pid}");
    }
    Ok(Duration::from_nanos(total))
}

/// Resident memory now and at its peak, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Now.
    pub resident: u64,
    /// The most so far.
    pub peak: u64,
    /// The part of `resident` that is no file's: what the process itself allocated.
    pub anonymous: u64,
}

/// Resident memory of a process.
///
/// # Errors
/// When there is no such process.
pub fn memory(pid: i32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let kib = |key: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
        let number = number.with_context(|| format!("no {key} in {path}"))?;
        Ok(number.parse::<u64>().with_context(|| format!("{key} in {path}"))? * 1024)
    };
    Ok(Memory { resident: kib("VmRSS")?, peak: kib("VmHWM")?, anonymous: kib("RssAnon")? })
}

/// Sets the peak of [`memory`] back to what is resident now.
///
/// # Errors
/// When there is no such process, or it is another user's.
pub fn reset_peak(pid: i32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    std::fs::write(&path, "5").with_context(|| format!("write {path}"))
}

fn stat(pid: i32) -> Result<Vec<String>> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The name is in parentheses and may hold anything, parentheses too.
    let (_, rest) = text.rsplit_once(')').with_context(|| format!("{path} has no name"))?;
    Ok(rest.split_whitespace().map(str::to_owned).collect())
}

/// Whether a process is there and runs; one that has died and was not waited for does not.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    stat(pid).is_ok_and(|fields| !matches!(fields.first().map(String::as_str), None | Some("Z" | "X")))
}

/// Processes whose program's name contains `program` and one of whose arguments contains `needle`.
#[must_use]
pub fn find(program: &str, needle: &Path) -> Vec<i32> {
    let needle = needle.as_os_str().as_encoded_bytes();
    let contains = |hay: &[u8], needle: &[u8]| hay.windows(needle.len().max(1)).any(|part| part == needle);
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
        let mut words = line.split(|byte| *byte == 0);
        let name = words.next().unwrap_or_default();
        contains(name, program.as_bytes()) && words.any(|word| contains(word, needle))
    })
    .collect()
}

/// The processes whose parent is this one, the dead that were not waited for left out.
#[must_use]
pub fn children() -> Vec<i32> {
    let me = std::process::id().to_string();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    // The field after the state is the parent.
    pids.filter(|pid| stat(*pid).is_ok_and(|fields| fields.get(1) == Some(&me) && is_alive(*pid))).collect()
}

/// Sends a signal to one process.
///
/// # Errors
/// When it is gone or another user's.
pub fn signal(pid: i32, signal: Signal) -> Result<()> {
    let target = Pid::from_raw(pid).with_context(|| format!("{pid} is no process id"))?;
    kill_process(target, signal).with_context(|| format!("send {signal:?} to process {pid}"))
}

/// SIGKILL, and waits until the process is gone. One that is gone already is no error.
///
/// # Errors
/// When it is another user's, or still there after ten seconds.
pub fn kill(pid: i32) -> Result<()> {
    if !is_alive(pid) {
        return Ok(());
    }
    if let Err(error) = signal(pid, Signal::KILL) {
        return if is_alive(pid) { Err(error) } else { Ok(()) };
    }
    wait_gone(pid, Duration::from_secs(10))
}

/// Waits until a process is gone.
///
/// # Errors
/// When it is still there after `deadline`.
pub fn wait_gone(pid: i32, deadline: Duration) -> Result<()> {
    let until = Instant::now() + deadline;
    while is_alive(pid) {
        if Instant::now() > until {
            bail!("process {pid} is still there after {deadline:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_child_is_seen_measured_found_and_killed() {
        let dir = tempfile::tempdir().unwrap();
        let marker = dir.path().join("marker");
        let script = format!("i=0; while :; do i=$((i+1)); done # {}", marker.display());
        let mut child = Command::new("sh").args(["-c", &script]).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert!(is_alive(pid));
        assert!(children().contains(&pid));
        assert_eq!(find("sh", &marker), [pid]);
        assert!(find("sh", &dir.path().join("other")).is_empty());
        assert!(cpu_time(pid).unwrap() > Duration::from_millis(30));
        let memory = memory(pid).unwrap();
        assert!(memory.peak >= memory.resident && memory.resident > 100_000);
        kill(pid).unwrap();
        assert!(!is_alive(pid), "a zombie counts as gone");
        assert!(!children().contains(&pid));
        child.wait().unwrap();
        kill(pid).unwrap();
    }
}

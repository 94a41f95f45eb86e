//! What must not accumulate: jobs, exports, nodes and bitmaps in QEMU, scratch files, half-received layers,
//! overlays, jobs of the daemons. Between two cycles there is nothing of the kind; so the campaign waits for such
//! an instant, and finds what never goes away.

use super::world::{VM, World, monitor_socket};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a quiet instant is waited for: many cycles.
const PATIENCE: Duration = Duration::from_secs(30);
/// Everything that standin makes in QEMU begins so.
const PREFIX: &str = "standin";
/// The mark of the newest point, and one that is older or being made.
const MARKS: usize = 2;

/// Waits for an instant without left-overs.
///
/// # Errors
/// What is still there after many cycles.
pub fn wait_none(world: &World) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match find(world) {
            Ok(found) if found.is_empty() => return Ok(()),
            Ok(found) if Instant::now() > until => bail!("left behind: {}", found.join(", ")),
            Err(error) if Instant::now() > until => return Err(error.context("look for what is left behind")),
            _ => std::thread::sleep(Duration::from_millis(150)),
        }
    }
}

fn find(world: &World) -> Result<Vec<String>> {
    let mut found = in_qemu(&monitor_socket(&world.dir))?;
    for entry in fs::read_dir(world.scratch.path()).context("list the scratch directory")? {
        let name = entry.context("list the scratch directory")?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            found.push(format!("scratch file {name}"));
        }
    }
    in_replica(&world.replica_dir()?, &mut found)?;
    for (daemon, host) in [(&world.a, "primary"), (&world.b, "replica")] {
        for job in daemon.json(&["jobs"])?.as_array().into_iter().flatten() {
            if job["ended_at"].is_null() {
                found.push(format!("on the {host} the job {} ({})", job["id"], job["description"]));
            }
        }
    }
    Ok(found)
}

/// Half-received layers, overlays of a failover that is over.
fn in_replica(dir: &Path, found: &mut Vec<String>) -> Result<()> {
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
            let path = entry.context("list the replica")?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let overlay = dir.file_name().is_some_and(|parent| parent == "overlays");
            let unfinished = [".part", ".progress", ".gone", ".tmp"].iter().any(|end| name.ends_with(end));
            if overlay || unfinished {
                found.push(format!("{}", path.display()));
            } else if path.is_dir() {
                dirs.push(path);
            }
        }
    }
    Ok(())
}

fn in_qemu(socket: &Path) -> Result<Vec<String>> {
    let mut monitor = Monitor::connect(socket)?;
    let mut found = Vec::new();
    let mut named = |what: &str, list: &Value, key: &str| {
        for item in list.as_array().into_iter().flatten() {
            if let Some(name) = item[key].as_str().filter(|name| name.starts_with(PREFIX)) {
                found.push(format!("{what} {name}"));
            }
        }
    };
    named("job", &monitor.ask("query-jobs")?, "id");
    named("export", &monitor.ask("query-block-exports")?, "id");
    let nodes = monitor.ask("query-named-block-nodes")?;
    named("node", &nodes, "node-name");
    for node in nodes.as_array().into_iter().flatten() {
        let bitmaps = node["dirty-bitmaps"].as_array().into_iter().flatten();
        let names: Vec<&str> = bitmaps.filter_map(|bitmap| bitmap["name"].as_str()).collect();
        let ours = names.iter().filter(|name| name.starts_with(PREFIX)).count();
        if ours > MARKS || names.iter().any(|name| name.ends_with("-tmp")) {
            found.push(format!("bitmaps {names:?} on {}", node["node-name"]));
        }
    }
    Ok(found)
}

/// A monitor of QEMU, by QMP.
struct Monitor {
    input: BufReader<UnixStream>,
    output: UnixStream,
}

impl Monitor {
    fn connect(socket: &Path) -> Result<Self> {
        let output =
            UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
        output.set_read_timeout(Some(Duration::from_secs(10))).context("bound the monitor's time")?;
        let input = BufReader::new(output.try_clone().context("share the monitor's socket")?);
        let mut this = Self { input, output };
        this.line()?;
        this.ask("qmp_capabilities")?;
        Ok(this)
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.input.read_line(&mut line).context("read from the monitor")?;
        serde_json::from_str(&line).with_context(|| format!("the monitor said {line:?}"))
    }

    fn ask(&mut self, command: &str) -> Result<Value> {
        writeln!(self.output, "{}", json!({ "execute": command })).context("write to the monitor")?;
        loop {
            let mut answer = self.line()?;
            if !answer["error"].is_null() {
                bail!("the monitor answered {command} with {answer}");
            }
            // Events come in between.
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
        }
    }
}

/// Everything below the campaign's directory that tells what happened, but no disks.
#[must_use]
pub fn logs(dir: &Path) -> Vec<PathBuf> {
    let candidates =
        ["trace.txt", "host-a/daemon.log", "host-b/daemon.log", "logs"].map(|name| dir.join(name));
    let console = dir.join("host-a/vm").join(format!("{VM}.serial"));
    candidates.into_iter().chain([console]).filter(|path| path.exists()).collect()
}

//! The benchmarks: real daemons and real QEMUs, their peers in the same run, in turn, medians.
//!
//! ```text
//! standin-bench [NAME ...]     all benchmarks, or the named ones; --list names them
//! ```
//!
//! Results go to `target/bench/results.json` and, as a table that can be pasted, to `target/bench/table.md`.
//! Work files go below `$STANDIN_BENCH_DIR`, else `/var/tmp`: they must be on a disk, and socket paths short.
//! A missed target is a result, not an error: the exit status is 0 unless something could not be measured.

mod age;
mod failover;
mod first_copy;
mod idle;
mod iops;
mod management;
mod peer;
mod rig;
mod wire;

use anyhow::{Context, Result, bail};
use standin_testbed::guest;
use standin_testbed::measure::{Measurement, Results};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

type Benchmark = fn(&mut Report) -> Result<()>;

const BENCHMARKS: [(&str, Benchmark); 7] = [
    ("first_copy", first_copy::run),
    ("wire", wire::run),
    ("failover", failover::run),
    ("idle", idle::run),
    ("iops", iops::run),
    ("age", age::run),
    ("management", management::run),
];

/// What the benchmarks find, and where they may work.
pub struct Report {
    results: Results,
    notes: Vec<String>,
    dir: PathBuf,
}

impl Report {
    /// A line of the results, shown and written at once: a run that is cut short has shown what it found.
    ///
    /// # Errors
    /// When the results cannot be written.
    pub fn add(&mut self, measurement: Measurement) -> Result<()> {
        self.results.add(measurement);
        let out = output_dir();
        self.results.write(&out.join("results.json"))?;
        std::fs::write(out.join("table.md"), self.markdown()?).context("write the table")
    }

    /// A sentence that belongs to the results: how something was measured, what was seen beside it.
    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        println!("  {text}");
        self.notes.push(text);
    }

    /// Where work files may be put; removed at the end.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn markdown(&self) -> Result<String> {
        let mut text = self.results.table();
        text.push('\n');
        for note in &self.notes {
            writeln!(text, "- {note}")?;
        }
        Ok(text)
    }
}

fn output_dir() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| guest::checkout().join("target")).join("bench")
}

/// The benchmarks that the arguments name, in their usual order; `None` when only a list is wanted.
fn chosen(arguments: &[String]) -> Result<Option<Vec<(&'static str, Benchmark)>>> {
    if arguments.iter().any(|argument| argument == "--list") {
        return Ok(None);
    }
    if let Some(unknown) = arguments.iter().find(|name| !BENCHMARKS.iter().any(|(known, _)| known == name)) {
        let names = BENCHMARKS.map(|(name, _)| name).join(", ");
        bail!("there is no benchmark {unknown:?}; there are {names}");
    }
    let wanted = |name: &str| arguments.is_empty() || arguments.iter().any(|given| given == name);
    Ok(Some(BENCHMARKS.into_iter().filter(|(name, _)| wanted(name)).collect()))
}

fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, name)| name);
    format!("{processors} processors ({model}), guests emulated")
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match chosen(&arguments) {
        Ok(None) => {
            BENCHMARKS.iter().for_each(|(name, _)| println!("{name}"));
            ExitCode::SUCCESS
        }
        Ok(Some(benchmarks)) => run(&benchmarks),
        Err(error) => {
            eprintln!("standin-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(benchmarks: &[(&str, Benchmark)]) -> ExitCode {
    let root = std::env::var_os("STANDIN_BENCH_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let dir = match tempfile::Builder::new().prefix("sb-").tempdir_in(&root) {
        Ok(dir) => dir,
        Err(error) => {
            eprintln!("standin-bench: make a work directory in {}: {error}", root.display());
            return ExitCode::FAILURE;
        }
    };
    let mut report =
        Report { results: Results::default(), notes: vec![machine()], dir: dir.path().to_path_buf() };
    let mut failed = false;
    for (name, benchmark) in benchmarks {
        println!("{name} (load average {})", rig::load_average());
        // One that cannot be measured does not keep the others from being measured.
        if let Err(error) = benchmark(&mut report) {
            eprintln!("standin-bench: {name}: {error:#}");
            report.note(format!("{name} could not be measured: {error:#}"));
            failed = true;
        }
    }
    println!("\n{}", report.markdown().unwrap_or_else(|error| error.to_string()));
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

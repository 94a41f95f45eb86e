//! `standin-soak --seed N [--steps N] [--minutes N]`: a campaign of faults on two real daemons and a real guest.
//! Equal seeds give equal faults, so a campaign that failed is run again by its seed. The last line is a verdict as
//! one JSON object; exit status 0 when nothing was violated, 1 otherwise, 2 when it could not be run.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail, ensure};
use standin_testbed::campaign::{self, Options, PROXY_WORD};
use standin_testbed::faults::Fault;
use standin_testbed::netns;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str =
    "usage: standin-soak --seed N [--steps N] [--minutes N] [--only FAULT,...] [--dir DIR] [--keep]
  --seed N        which campaign; the same number gives the same faults
  --steps N       how many faults, 60 unless given
  --minutes N     begin no step later than that
  --only A,B      only these faults: KillPrimary, KillReplica, KillQemu, CutLink, SlowLink, ReplicaDiskFull,
                  ScratchFull, FlipStoredBit, FlipWireBit
  --dir DIR       keep everything there (short: unix sockets are below it)
  --keep          keep the logs also when all went well";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("standin-soak: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = &arguments[..] {
        if first == PROXY_WORD {
            campaign::serve_proxy(rest)?;
            return Ok(true);
        }
    }
    let Some(options) = parse(&arguments)? else {
        println!("{USAGE}");
        return Ok(true);
    };
    ensure!(netns::available(), "network namespaces and mounts need root");
    let outcome = campaign::run(&options)?;
    println!("{}", outcome.verdict);
    Ok(outcome.ok)
}

fn parse(arguments: &[String]) -> Result<Option<Options>> {
    let mut options = Options {
        seed: 1,
        steps: 60,
        limit: Duration::from_secs(24 * 3600),
        faults: Fault::ALL.to_vec(),
        dir: None,
        keep: false,
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("{argument} needs a value\n{USAGE}"));
        match argument.as_str() {
            "--seed" => options.seed = value()?.parse().context("--seed takes a number")?,
            "--steps" => options.steps = value()?.parse().context("--steps takes a number")?,
            "--minutes" => {
                let minutes: u64 = value()?.parse().context("--minutes takes a number")?;
                options.limit = Duration::from_secs(minutes.saturating_mul(60));
            }
            "--only" => options.faults = value()?.split(',').map(fault).collect::<Result<_>>()?,
            "--dir" => options.dir = Some(std::path::absolute(value()?).context("--dir")?),
            "--keep" => options.keep = true,
            "-h" | "--help" => return Ok(None),
            other => bail!("{other} is unknown\n{USAGE}"),
        }
    }
    Ok(Some(options))
}

fn fault(name: &str) -> Result<Fault> {
    let found = Fault::ALL.into_iter().find(|fault| format!("{fault:?}") == name);
    found.with_context(|| format!("{name} is no fault\n{USAGE}"))
}

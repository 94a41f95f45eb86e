//! Measuring: medians and percentiles, a table for people and `results.json` for programs.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// The value below which `percent` of the values lie, by nearest rank; `None` without values.
#[must_use]
pub fn percentile(values: &[f64], percent: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil().max(1.0);
    // A rank is at most the number of values, far below what a usize holds.
    sorted.iter().enumerate().find(|(index, _)| (index + 1) as f64 >= rank).map(|(_, value)| *value)
}

/// The middle value; the mean of the two middle ones for an even number; `None` without values.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted.get(middle).copied(),
        _ => Some((sorted.get(middle.checked_sub(1)?)? + sorted.get(middle)?) / 2.0),
    }
}

/// Runs two things in turn `rounds` times, so that both meet the same weather, and gives the medians of what
/// they return.
///
/// # Errors
/// The first error of either.
pub fn in_turn(
    rounds: usize,
    mut ours: impl FnMut(usize) -> Result<f64>,
    mut peer: impl FnMut(usize) -> Result<f64>,
) -> Result<(f64, f64)> {
    let (mut our_values, mut peer_values) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // Who goes first alternates: the first finds cold caches.
        if round % 2 == 0 {
            our_values.push(ours(round)?);
            peer_values.push(peer(round)?);
        } else {
            peer_values.push(peer(round)?);
            our_values.push(ours(round)?);
        }
    }
    median(&our_values).zip(median(&peer_values)).context("at least one round is needed")
}

/// What a value must be to meet its target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// The value itself, at most.
    ValueAtMost(f64),
    /// The value itself, at least.
    ValueAtLeast(f64),
    /// The ratio to the peer's value, at most.
    RatioAtMost(f64),
    /// The ratio to the peer's value, at least.
    RatioAtLeast(f64),
    /// Only measured.
    None,
}

impl Target {
    fn met(self, value: f64, ratio: Option<f64>) -> Option<bool> {
        // A ratio that is not there does not meet a target for it.
        match self {
            Self::ValueAtMost(most) => Some(value <= most),
            Self::ValueAtLeast(least) => Some(value >= least),
            Self::RatioAtMost(most) => Some(ratio.is_some_and(|ratio| ratio <= most)),
            Self::RatioAtLeast(least) => Some(ratio.is_some_and(|ratio| ratio >= least)),
            Self::None => None,
        }
    }

    fn text(self, unit: &str) -> Option<String> {
        match self {
            Self::ValueAtMost(most) => Some(format!("<= {most} {unit}")),
            Self::ValueAtLeast(least) => Some(format!(">= {least} {unit}")),
            Self::RatioAtMost(most) => Some(format!("<= {most} x peer")),
            Self::RatioAtLeast(least) => Some(format!(">= {least} x peer")),
            Self::None => None,
        }
    }
}

/// One line of the results.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    /// What was measured.
    pub name: String,
    /// Our value, a median of several runs where that makes sense.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// What it is compared with, measured in the same run.
    pub peer: Option<String>,
    /// The peer's value, in the same unit.
    pub peer_value: Option<f64>,
    /// Ours divided by the peer's.
    pub ratio: Option<f64>,
    /// The target as text.
    pub target: Option<String>,
    /// Whether it is met; `None` without a target.
    pub met: Option<bool>,
}

impl Measurement {
    /// A value and what it is to be compared with.
    #[must_use]
    pub fn new(name: &str, value: f64, unit: &str, peer: Option<(&str, f64)>, target: Target) -> Self {
        let ratio = peer.filter(|(_, base)| *base != 0.0).map(|(_, base)| value / base);
        Self {
            name: name.into(),
            value,
            unit: unit.into(),
            peer: peer.map(|(name, _)| name.into()),
            peer_value: peer.map(|(_, value)| value),
            ratio,
            target: target.text(unit),
            met: target.met(value, ratio),
        }
    }
}

/// What a run of benchmarks measured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Results(pub Vec<Measurement>);

impl Results {
    /// Adds a line and shows it at once, for whoever is watching.
    pub fn add(&mut self, measurement: Measurement) {
        println!("{}", row(&measurement).join("  "));
        self.0.push(measurement);
    }

    /// The table, in Markdown, so that it can be pasted where people read it.
    #[must_use]
    pub fn table(&self) -> String {
        const HEAD: [&str; 7] = ["benchmark", "value", "peer", "peer's value", "ratio", "target", "met"];
        let rows: Vec<_> = self.0.iter().map(row).collect();
        let widths: Vec<usize> = (0..HEAD.len())
            .map(|at| {
                rows.iter().map(|row| row[at].chars().count()).chain([HEAD[at].len()]).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        let mut line = |cells: &[String]| {
            let padded = cells.iter().zip(&widths).map(|(cell, width)| format!(" {cell:width$} "));
            // Writing into a String cannot fail.
            let _ = writeln!(text, "|{}|", padded.collect::<Vec<_>>().join("|"));
        };
        line(&HEAD.map(str::to_owned));
        line(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>());
        rows.iter().for_each(|row| line(row));
        text
    }

    /// Writes `results.json`, a list of measurements, in place of an older one.
    ///
    /// # Errors
    /// When a value is no finite number, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(bad) = self.0.iter().find(|m| !m.value.is_finite()) {
            bail!("{} measured {}: that is no result", bad.name, bad.value);
        }
        let dir = path.parent().context("results need a directory")?;
        std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let mut file = tempfile::NamedTempFile::new_in(dir).context("make the results file")?;
        serde_json::to_writer_pretty(&mut file, &self.0).context("write the results")?;
        file.as_file().sync_all().context("flush the results")?;
        file.persist(path).with_context(|| format!("write {}", path.display()))?;
        Ok(())
    }

    /// Whether every target is met.
    #[must_use]
    pub fn all_met(&self) -> bool {
        self.0.iter().all(|measurement| measurement.met != Some(false))
    }
}

fn row(m: &Measurement) -> [String; 7] {
    let with_unit = |value: f64| format!("{} {}", short(value), m.unit);
    [
        m.name.clone(),
        with_unit(m.value),
        m.peer.clone().unwrap_or_default(),
        m.peer_value.map(with_unit).unwrap_or_default(),
        m.ratio.map(short).unwrap_or_default(),
        m.target.clone().unwrap_or_default(),
        m.met.map(|met| if met { "yes" } else { "NO" }).unwrap_or_default().into(),
    ]
}

/// Three significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Seconds, as the results have them.
#[must_use]
pub fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles_are_those_of_the_textbook() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&hundred, 99.0), Some(99.0));
        assert_eq!(percentile(&hundred, 100.0), Some(100.0));
        assert_eq!(percentile(&hundred, 0.0), Some(1.0));
        assert_eq!(percentile(&[7.0], 50.0), Some(7.0));
        assert_eq!(percentile(&[], 50.0), None);
    }

    #[test]
    fn a_target_for_a_ratio_is_not_met_without_a_ratio() {
        let target = Target::RatioAtMost(0.35);
        let met = |peer| Measurement::new("copy", 2.0, "s", peer, target).met;
        assert_eq!(met(Some(("nbdcopy", 8.0))), Some(true));
        assert_eq!(met(Some(("nbdcopy", 4.0))), Some(false));
        assert_eq!(met(Some(("nbdcopy", 0.0))), Some(false));
        assert_eq!(met(None), Some(false));
        assert_eq!(Measurement::new("x", 1.0, "s", None, Target::None).met, None);
    }

    #[test]
    fn results_are_written_with_the_agreed_fields_and_refused_when_not_finite() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bench/results.json");
        let mut results = Results::default();
        results.add(Measurement::new("copy", 2.0, "s", Some(("nbdcopy", 8.0)), Target::RatioAtMost(0.35)));
        results.write(&path).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let expected = serde_json::json!([{
            "name": "copy", "value": 2.0, "unit": "s", "peer": "nbdcopy", "peer_value": 8.0, "ratio": 0.25,
            "target": "<= 0.35 x peer", "met": true
        }]);
        assert_eq!(read, expected);
        assert!(results.all_met());
        let widths: Vec<usize> = results.table().lines().map(|line| line.chars().count()).collect();
        assert!(widths.len() == 3 && widths.iter().all(|width| *width == widths[0]), "{}", results.table());
        results.add(Measurement::new("nan", f64::NAN, "s", None, Target::ValueAtMost(1.0)));
        assert!(!results.all_met());
        assert!(results.write(&path).is_err());
    }
}

//! Progress of a job while a verb waits for it: a bar on a terminal, a plain line now and then elsewhere,
//! nothing with `--json`. All of it goes to the standard error output; the result goes to the standard output.

use super::Style;
use crate::units;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use standin_model::view::JobView;
use std::collections::VecDeque;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// The rate is taken over this long: short enough to follow a link that slows down, long enough not to flicker.
const WINDOW: Duration = Duration::from_secs(8);
/// Plain lines come no more often than this.
const PLAIN_PAUSE: Duration = Duration::from_secs(5);

/// The bar.
const COLOURED: &str = "{prefix} {spinner} [{bar:30.green}] {whole:>3} %  {msg}";
const UNCOLOURED: &str = "{prefix} {spinner} [{bar:30}] {whole:>3} %  {msg}";

/// Bytes a second over the last seconds, from what a job said and when.
#[derive(Debug, Default)]
pub struct Rate {
    samples: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// Takes a sample; gives the rate in bytes a second, `None` while it cannot be told.
    pub fn sample(&mut self, at: Instant, bytes: u64) -> Option<u64> {
        // A job that was resumed may count from less: what came before says nothing then.
        if self.samples.back().is_some_and(|(_, last)| *last > bytes) {
            self.samples.clear();
        }
        self.samples.push_back((at, bytes));
        // One sample older than the window is kept, so that there always is a distance to measure.
        while self.samples.get(1).is_some_and(|(old, _)| at.duration_since(*old) > WINDOW) {
            self.samples.pop_front();
        }
        let (first_at, first) = *self.samples.front()?;
        let millis = u64::try_from(at.duration_since(first_at).as_millis()).ok()?;
        if millis < 200 { None } else { Some((bytes - first).saturating_mul(1000) / millis) }
    }
}

/// `1.20 GiB of 4.00 GiB, 180 MiB/s, 16s left`, as far as it is known.
#[must_use]
pub fn figures(job: &JobView, rate: Option<u64>) -> String {
    if job.bytes_total == 0 && job.bytes_done == 0 {
        return job.state.to_string();
    }
    let mut text = units::size(job.bytes_done);
    if job.bytes_total > 0 {
        let _ = write!(text, " of {}", units::size(job.bytes_total));
    }
    if let Some(rate) = rate {
        let _ = write!(text, ", {}", units::rate(rate));
        let left = job.bytes_total.saturating_sub(job.bytes_done);
        if rate > 0 && left > 0 && !job.state.is_final() {
            let _ = write!(text, ", {} left", units::span(left.div_ceil(rate)));
        }
    }
    text
}

/// Shows one job.
pub struct Progress {
    rate: Rate,
    kind: Kind,
}

enum Kind {
    Bar(ProgressBar),
    /// The last line's time and percentage; the beginning's, before the first line.
    Plain {
        last: (Instant, Option<u8>),
    },
    Silent,
}

impl Progress {
    /// Begins to show `job` in `style`.
    #[must_use]
    pub fn new(style: Style, job: &JobView) -> Self {
        let kind = match (style.json, style.bars) {
            (true, _) => Kind::Silent,
            (false, true) => Kind::Bar(bar(job)),
            (false, false) => Kind::Plain { last: (Instant::now(), None) },
        };
        Self { rate: Rate::default(), kind }
    }

    /// Shows where `job` is now.
    pub fn show(&mut self, job: &JobView) {
        let now = Instant::now();
        let rate = self.rate.sample(now, job.bytes_done);
        let text = figures(job, rate);
        match &mut self.kind {
            Kind::Bar(bar) => {
                bar.set_position(u64::from(job.percent));
                bar.set_message(text);
            }
            Kind::Plain { last } => {
                let (at, percent) = *last;
                if line_due(job, percent, now.duration_since(at) >= PLAIN_PAUSE) {
                    eprintln!("{}: {} %, {text}", title(job), job.percent);
                    *last = (now, Some(job.percent));
                }
            }
            Kind::Silent => {}
        }
    }

    /// A sentence above the bar, or a line.
    pub fn say(&self, text: &str) {
        match &self.kind {
            Kind::Bar(bar) => bar.println(text),
            Kind::Plain { .. } => eprintln!("{text}"),
            Kind::Silent => {}
        }
    }

    /// Ends the display; the outcome is printed by the caller.
    pub fn end(self) {
        if let Kind::Bar(bar) = self.kind {
            bar.finish_and_clear();
        }
    }
}

/// Whether a plain line is due after one that showed `shown` percent, if there was one.
fn line_due(job: &JobView, shown: Option<u8>, waited: bool) -> bool {
    match shown {
        // The first line comes with the first figures: a short job without any needs but its outcome.
        None => waited || job.bytes_done > 0,
        // Who has read 2 % must not read of the outcome next, as if the rest had been left out.
        Some(shown) => shown != job.percent && (waited || job.state.is_final()),
    }
}

fn title(job: &JobView) -> String {
    match &job.vm {
        Some(vm) => format!("{vm}: {}", job.job_type),
        None => job.job_type.to_string(),
    }
}

fn bar(job: &JobView) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::stderr_with_hz(8));
    let template = if super::colour_wanted() { COLOURED } else { UNCOLOURED };
    // The templates are tested; were one wrong, indicatif's own bar is still a bar.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let style = style
        .with_key("whole", |state: &ProgressState, w: &mut dyn Write| {
            let _ = write!(w, "{}", state.pos());
        })
        .progress_chars("=> ");
    bar.set_style(style);
    bar.set_prefix(title(job));
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use standin_model::{JobRecord, JobType};

    #[test]
    fn the_rate_follows_the_last_seconds() {
        let start = Instant::now();
        let mut rate = Rate::default();
        assert_eq!(rate.sample(start, 0), None);
        assert_eq!(rate.sample(start + Duration::from_secs(1), 1000), Some(1000));
        let mut last = None;
        for second in 2..40 {
            last = rate.sample(start + Duration::from_secs(second), 1000 + (second - 1) * 10);
        }
        assert_eq!(last, Some(10), "the fast first second is still counted");
    }

    #[test]
    fn the_templates_of_the_bar_are_understood() {
        for template in [COLOURED, UNCOLOURED] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn figures_say_how_much_how_fast_and_how_long() {
        let mut record = JobRecord::new(JobType::SendInitialReplica, "test", Timestamp::UNIX_EPOCH);
        record.start(Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(figures(&JobView::from(&record), None), "Running");
        record.progress(1 << 30, 4 << 30);
        let job = JobView::from(&record);
        assert_eq!(figures(&job, None), "1.00 GiB of 4.00 GiB");
        assert_eq!(figures(&job, Some(96 << 20)), "1.00 GiB of 4.00 GiB, 96.0 MiB/s, 32s left");
        assert_eq!(figures(&job, Some(0)), "1.00 GiB of 4.00 GiB, 0 B/s");
        record.progress(5 << 30, 4 << 30);
        assert_eq!(figures(&JobView::from(&record), None), "5.00 GiB of 5.00 GiB");
        record.progress(1 << 30, 4 << 30);
        record.complete(Timestamp::UNIX_EPOCH).unwrap();
        let ended = figures(&JobView::from(&record), Some(96 << 20));
        assert_eq!(ended, "1.00 GiB of 4.00 GiB, 96.0 MiB/s", "what has ended has nothing left");
    }

    #[test]
    fn plain_lines_that_have_begun_end_with_the_last_figures_however_soon_those_come() {
        let mut record = JobRecord::new(JobType::SendInitialReplica, "test", Timestamp::UNIX_EPOCH);
        record.start(Timestamp::UNIX_EPOCH).unwrap();
        assert!(!line_due(&JobView::from(&record), None, false), "nothing is known yet");
        record.progress(2, 100);
        let running = JobView::from(&record);
        assert!(line_due(&running, None, false), "the first figures");
        assert!(!line_due(&running, Some(1), false), "the next line waits");
        assert!(line_due(&running, Some(1), true));
        record.complete(Timestamp::UNIX_EPOCH).unwrap();
        let ended = JobView::from(&record);
        assert_eq!(ended.percent, 100);
        assert!(line_due(&ended, Some(2), false), "2 % is not the last that is read");
        assert!(!line_due(&ended, Some(100), true), "it is not said twice");
        assert!(line_due(&ended, None, false), "a copy too quick to be watched says how much it was");
    }

    #[test]
    fn a_job_that_counts_again_from_less_does_not_confuse_the_rate() {
        let start = Instant::now();
        let mut rate = Rate::default();
        rate.sample(start, 5000);
        assert_eq!(rate.sample(start + Duration::from_secs(1), 100), None);
        assert_eq!(rate.sample(start + Duration::from_secs(3), 300), Some(100));
    }
}

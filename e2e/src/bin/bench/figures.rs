//! What was measured: numbers with latencies, as a table and as JSON.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

/// All figures, in the order in which they were taken.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<Figure>);

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Figure {
    what: String,
    /// The main number with its unit.
    value: f64,
    unit: &'static str,
    p50: Option<Duration>,
    p99: Option<Duration>,
    /// CPU seconds of the servers per 1,000 operations.
    cpu: Option<f64>,
}

/// How long each of many operations took.
#[derive(Debug, Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn note(&mut self, took: Duration) {
        self.0.push(took);
    }

    pub(crate) fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The latency that `percent` of the operations did not exceed.
    pub(crate) fn percentile(&mut self, percent: usize) -> Option<Duration> {
        self.0.sort_unstable();
        let last = self.0.len().checked_sub(1)?;
        self.0.get((last * percent).div_ceil(100)).copied()
    }
}

impl Figures {
    /// A number alone.
    pub(crate) fn add(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.0.push(Figure { what: what.into(), value, unit, p50: None, p99: None, cpu: None });
    }

    /// A rate with latencies and the servers' CPU time, if known.
    pub(crate) fn add_rate(
        &mut self,
        what: impl Into<String>,
        mut latencies: Latencies,
        over: Duration,
        cpu: Option<Duration>,
    ) {
        let count = latencies.count() as f64;
        self.0.push(Figure {
            what: what.into(),
            value: count / over.as_secs_f64().max(1e-9),
            unit: "/s",
            p50: latencies.percentile(50),
            p99: latencies.percentile(99),
            cpu: cpu.map(|cpu| cpu.as_secs_f64() * 1000.0 / count.max(1.0)),
        });
    }
}

fn milliseconds(latency: Option<Duration>) -> Option<f64> {
    latency.map(|latency| latency.as_secs_f64() * 1000.0)
}

fn cell(number: Option<f64>) -> String {
    match number {
        None => "–".to_owned(),
        Some(number) if number.abs() >= 100.0 => format!("{number:.0}"),
        Some(number) if number.abs() >= 1.0 => format!("{number:.1}"),
        Some(number) => format!("{number:.3}"),
    }
}

pub(crate) fn print_table(figures: &Figures) {
    let wide = figures.0.iter().map(|figure| figure.what.chars().count()).max().unwrap_or(0).max(8);
    println!(
        "{:<wide$}  {:>14}  {:>9}  {:>9}  {:>12}",
        "scenario", "value", "p50 ms", "p99 ms", "CPU s/1,000"
    );
    for figure in &figures.0 {
        println!(
            "{:<wide$}  {:>14}  {:>9}  {:>9}  {:>12}",
            figure.what,
            format!("{} {}", cell(Some(figure.value)), figure.unit),
            cell(milliseconds(figure.p50)),
            cell(milliseconds(figure.p99)),
            cell(figure.cpu),
        );
    }
}

/// Writes the figures as JSON to a file, or prints them.
pub(crate) fn print_json(figures: &Figures, to: &Path) -> anyhow::Result<()> {
    let line = |figure: &Figure| {
        json!({"scenario": figure.what, "value": figure.value, "unit": figure.unit,
            "p50Ms": milliseconds(figure.p50), "p99Ms": milliseconds(figure.p99),
            "cpuSecondsPer1000": figure.cpu})
    };
    let all: Vec<Value> = figures.0.iter().map(line).collect();
    let text = serde_json::to_string_pretty(&all)? + "\n";
    if to == Path::new("-") {
        print!("{text}");
        return Ok(());
    }
    std::fs::write(to, text).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_latencies() {
        let mut latencies = Latencies::default();
        for millis in [5, 1, 4, 2, 3] {
            latencies.note(Duration::from_millis(millis));
        }
        assert_eq!(latencies.percentile(50), Some(Duration::from_millis(3)));
        assert_eq!(latencies.percentile(99), Some(Duration::from_millis(5)));
        assert_eq!(Latencies::default().percentile(50), None);
    }
}

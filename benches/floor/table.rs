//! Samples of interleaved rounds, their medians, and the table that is printed. Pure but for the printing.

use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;

/// What a figure counts.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Microseconds,
    Milliseconds,
    OperationsPerSecond,
    MegabytesPerSecond,
    Kibibytes,
    Mebibytes,
    Megabytes,
    Threads,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Microseconds => format!("{value:.0} us"),
            Self::Milliseconds => format!("{value:.1} ms"),
            Self::OperationsPerSecond => format!("{value:.0} ops/s"),
            Self::MegabytesPerSecond => format!("{value:.0} MB/s"),
            Self::Kibibytes => format!("{value:.1} KiB"),
            Self::Mebibytes => format!("{value:.1} MiB"),
            Self::Megabytes => format!("{value:.1} MB"),
            Self::Threads => format!("{value:.0} threads"),
        }
    }
}

/// What a row is held to.
#[derive(Clone, Copy)]
pub(crate) enum Bar {
    /// Ours is at most this many times the floor.
    UpTo(f64),
    /// Ours is at least this many times the floor.
    NotUnder(f64),
    /// Ours is at most this, in the unit of the row.
    Absolute(f64),
    /// Ours is at least this, in the unit of the row.
    AtLeast(f64),
    /// Shown for comparison.
    None,
}

/// One line of the table.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) floor: Option<f64>,
    pub(crate) ours: f64,
    pub(crate) unit: Unit,
    pub(crate) bar: Bar,
}

impl Row {
    /// A row with a floor.
    pub(crate) fn of(what: &str, rounds: &Rounds, unit: Unit, bar: Bar) -> Self {
        Self {
            what: what.to_owned(),
            floor: Some(rounds.floor),
            ours: rounds.ours,
            unit,
            bar,
        }
    }

    /// A row that is held to an absolute figure.
    pub(crate) fn absolute(what: &str, ours: f64, unit: Unit, at_most: f64) -> Self {
        Self {
            what: what.to_owned(),
            floor: None,
            ours,
            unit,
            bar: Bar::Absolute(at_most),
        }
    }

    /// A row that is to reach an absolute figure.
    pub(crate) fn at_least(what: &str, ours: f64, unit: Unit, at_least: f64) -> Self {
        Self {
            bar: Bar::AtLeast(at_least),
            ..Self::shown(what, ours, unit)
        }
    }

    /// A row that is held to nothing.
    pub(crate) fn shown(what: &str, ours: f64, unit: Unit) -> Self {
        Self {
            what: what.to_owned(),
            floor: None,
            ours,
            unit,
            bar: Bar::None,
        }
    }

    fn ratio(&self) -> Option<f64> {
        self.floor.map(|floor| self.ours / floor)
    }

    fn met(&self) -> bool {
        match (self.bar, self.ratio()) {
            (Bar::UpTo(bar), Some(ratio)) => ratio <= bar,
            (Bar::NotUnder(bar), Some(ratio)) => ratio >= bar,
            (Bar::Absolute(bar), _) => self.ours <= bar,
            (Bar::AtLeast(bar), _) => self.ours >= bar,
            (Bar::UpTo(_) | Bar::NotUnder(_), None) | (Bar::None, _) => false,
        }
    }

    fn cells(&self) -> [String; 6] {
        let bar = match self.bar {
            Bar::UpTo(bar) => format!("<= {bar:.2}x"),
            Bar::NotUnder(bar) => format!(">= {bar:.2}x"),
            Bar::Absolute(bar) => format!("<= {}", self.unit.show(bar)),
            Bar::AtLeast(bar) => format!(">= {}", self.unit.show(bar)),
            Bar::None => "-".into(),
        };
        let met = match self.bar {
            Bar::None => "-",
            _ if self.met() => "yes",
            _ => "NO",
        };
        [
            self.what.clone(),
            self.floor
                .map_or_else(|| "-".into(), |floor| self.unit.show(floor)),
            self.unit.show(self.ours),
            self.ratio()
                .map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}x")),
            bar,
            met.into(),
        ]
    }
}

/// The rows in the order in which they were measured.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

impl Table {
    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Prints the table to standard output, columns as wide as their widest cell.
    pub(crate) fn print(&self) {
        let mut lines = vec![["what", "floor", "ours", "ratio", "bar", "met"].map(String::from)];
        lines.extend(self.rows.iter().map(Row::cells));
        let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
        let widths: [usize; 6] = std::array::from_fn(width);
        for (number, line) in lines.iter().enumerate() {
            let mut shown = format!("{:<width$}", line[0], width = widths[0]);
            for (cell, width) in line.iter().zip(widths).skip(1) {
                let _ = write!(shown, "  {cell:>width$}");
            }
            println!("{shown}");
            if number == 0 {
                println!("{}", "-".repeat(shown.len()));
            }
        }
        let held = self.rows.iter().filter(|row| !matches!(row.bar, Bar::None));
        let met = held.clone().filter(|row| row.met()).count();
        println!("{met} of {} bars met", held.count());
    }
}

/// Floor and ours measured in turns.
pub(crate) struct Rounds {
    pub(crate) floor: f64,
    pub(crate) ours: f64,
}

/// Alternates the two measurements, after one unmeasured turn of each, and returns the median of each side.
///
/// # Errors
/// The first failure of either.
pub(crate) async fn interleave(
    rounds: usize,
    mut floor: impl AsyncFnMut() -> Result<f64>,
    mut ours: impl AsyncFnMut() -> Result<f64>,
) -> Result<Rounds> {
    floor().await?;
    ours().await?;
    let (mut floors, mut own) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        floors.push(floor().await?);
        own.push(ours().await?);
    }
    Ok(Rounds {
        floor: median(&mut floors),
        ours: median(&mut own),
    })
}

/// The middle value, 0 of nothing.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// The middle of some latencies, in microseconds.
pub(crate) fn median_microseconds(latencies: &[Duration]) -> f64 {
    median(
        &mut latencies
            .iter()
            .map(|latency| latency.as_secs_f64() * 1e6)
            .collect::<Vec<_>>(),
    )
}

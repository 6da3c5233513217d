//! Log lines: a filter per module, text for people and the journal, JSON for machines, always on standard error.

use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt, LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::journal;
use super::writer::Lines;
use crate::error::Error;

/// Which lines are written: `info,boxd::exec=debug` is `info` everywhere and `debug` in one module.
#[derive(Debug, Clone)]
pub struct Filter {
    text: String,
    targets: Targets,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            text: "info".into(),
            targets: without_libraries("info", Targets::new().with_default(tracing::Level::INFO)),
        }
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let targets = text.parse::<Targets>().map_err(|error| {
            format!("{text:?} is not a log filter ({error}); write it like info or info,boxd::exec=debug")
        })?;
        Ok(Self {
            text: text.to_owned(),
            targets: without_libraries(text, targets),
        })
    }
}

/// The NATS client reports what links report in their own words, errors of ours among them; it is silent unless the
/// filter names it.
fn without_libraries(text: &str, targets: Targets) -> Targets {
    if text.contains("async_nats") {
        return targets;
    }
    targets.with_target("async_nats", LevelFilter::OFF)
}

impl fmt::Display for Filter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Text when standard error is a terminal or the journal, JSON otherwise.
    #[default]
    Auto,
    /// One line of text.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts writing log lines; `color` allows colours on a terminal. Where standard error is the stream of this
/// `device:inode`, lines are made for the journal: with a priority in front, and without a time.
///
/// # Errors
///
/// [`Error::Internal`] when called twice in one process.
pub fn init(filter: &Filter, format: Format, color: bool, journal_stream: Option<&str>) -> Result<(), Error> {
    let journal = journal_stream.is_some_and(journal::is_standard_error);
    let terminal = io::stderr().is_terminal();
    let json = match format {
        Format::Auto => !terminal && !journal,
        Format::Text => false,
        Format::Json => true,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(Lines::to(io::stderr(), json, journal));
    let lines = match (json, journal) {
        (true, false) => lines.json().flatten_event(true).with_span_list(false).boxed(),
        (true, true) => {
            let lines = lines
                .json()
                .flatten_event(true)
                .with_span_list(false)
                .without_time();
            lines.map_event_format(journal::Prefixed).boxed()
        }
        (false, false) => lines.with_ansi(terminal && color).with_target(false).boxed(),
        (false, true) => {
            let lines = lines.with_ansi(false).with_target(false).without_time();
            lines.map_event_format(journal::Prefixed).boxed()
        }
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter.targets.clone().and(filter_fn(tells_no_secret))))
        .try_init()
        .map_err(|error| Error::Internal {
            reason: format!("start logging: {error}"),
        })
}

/// Whether a line of this kind may be written whatever the filter says. The NATS client's debug lines hold broker URLs
/// with the password in them.
fn tells_no_secret(line: &tracing::Metadata<'_>) -> bool {
    !line.target().starts_with("async_nats") || *line.level() <= tracing::Level::INFO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_parsed_and_shown_as_given() {
        let filter: Filter = "info,boxd::exec=debug".parse().unwrap();
        assert_eq!(filter.to_string(), "info,boxd::exec=debug");
        assert!(filter.targets.would_enable("boxd::exec", &tracing::Level::DEBUG));
        assert!(!filter.targets.would_enable("boxd::fs", &tracing::Level::DEBUG));
        assert!("boxd=loud".parse::<Filter>().unwrap_err().contains("boxd=loud"));
    }
}

//! Log lines for the systemd journal: a priority in front of each, and no time, because the journal has its own.

use std::fmt;
use std::io;

use nix::sys::stat::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Whether standard error is the stream that the journal opened, whose `device:inode` it told us: see `JOURNAL_STREAM` in
/// `systemd.exec(5)`. Somebody may have led our output elsewhere since.
pub(super) fn is_standard_error(stream: &str) -> bool {
    fstat(io::stderr()).is_ok_and(|status| format!("{}:{}", status.st_dev, status.st_ino) == stream)
}

/// The number of a level in `syslog(3)`, between the marks by which the journal finds it: see `sd-daemon(3)`.
pub(super) fn prefix(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

/// Puts the priority in front of every line that an event is written as.
#[derive(Debug)]
pub(super) struct Prefixed<E>(pub(super) E);

impl<S, N, E> FormatEvent<S, N> for Prefixed<E>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    E: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        let prefix = prefix(*event.metadata().level());
        text.lines()
            .try_for_each(|line| writeln!(writer, "{prefix}{line}"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::telemetry::writer::Lines;

    #[test]
    fn every_line_has_the_priority_of_its_event() {
        let (mut reader, writer) = io::pipe().unwrap();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(Lines::to(writer, false, true))
            .with_ansi(false)
            .with_target(false)
            .without_time()
            .map_event_format(Prefixed);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            tracing::error!(reason = %"one\ntwo", "broken");
            tracing::warn!("careful");
            tracing::info!("started");
            tracing::debug!("detail");
            tracing::trace!("more");
        });
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines.len() >= 5, "{text}");
        assert!(lines[0].starts_with("<3>ERROR broken"), "{text}");
        let rest = &lines[lines.len() - 4..];
        assert_eq!(
            rest,
            [
                "<4> WARN careful",
                "<6> INFO started",
                "<7>DEBUG detail",
                "<7>TRACE more"
            ]
        );
        assert!(
            lines[..lines.len() - 4]
                .iter()
                .all(|line| line.starts_with("<3>")),
            "{text}"
        );
    }

    #[test]
    fn another_stream_is_not_ours() {
        assert!(!is_standard_error("0:0"));
        assert!(!is_standard_error("nonsense"));
    }
}

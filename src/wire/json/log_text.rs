//! Output as text for a reader that counts what it reads: lines, and what stands between them.

use std::fmt::Write as _;

use serde::Serialize;
use utoipa::ToSchema;

use crate::ops::LogText;
use crate::stream::{Chosen, Piece};

/// Lines of what a process wrote.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProcessLogsText)]
pub struct LogsText {
    /// `proc_N`.
    pub process_id: String,
    /// The part that was asked for.
    #[schema(value_type = String)]
    pub stream: &'static str,
    /// The lines, with what is to be said of them in brackets.
    pub text: String,
    /// Lines there are in all.
    pub total_lines: u64,
    /// Lines that match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matches: Option<u64>,
    /// Lines that were chosen and did not fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub omitted: Option<LinesOmitted>,
}

/// Lines that are not part of the answer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProcessLogsOmitted)]
pub struct LinesOmitted {
    /// How many.
    pub lines: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The query that reads them.
    pub query: String,
}

impl From<&LogText> for LogsText {
    fn from(read: &LogText) -> Self {
        let Chosen {
            head,
            omitted,
            tail,
            lines,
            matches,
        } = &read.chosen;
        let omitted = omitted.map(|omitted| LinesOmitted {
            lines: omitted.lines,
            bytes: omitted.bytes,
            query: query(read, omitted.first, omitted.last),
        });
        let (mut text, mut last) = (String::new(), None);
        let numbered = read.grep.is_some();
        pieces(&mut text, head, numbered, &mut last);
        if let Some(LinesOmitted { lines, bytes, query }) = &omitted {
            let id = read.id;
            let _ = writeln!(
                text,
                "[... {lines} lines ({bytes} bytes) left out here; GET /v1/processes/{id}/logs?{query} reads them ...]"
            );
            last = None;
        }
        pieces(&mut text, tail, numbered, &mut last);
        Self {
            process_id: read.id.to_string(),
            stream: read.stream.as_str(),
            text,
            total_lines: *lines,
            matches: numbered.then_some(*matches),
            omitted,
        }
    }
}

/// Lines as `grep -n` has them where something was looked for, as they are otherwise.
fn pieces(text: &mut String, pieces: &[Piece], numbered: bool, last: &mut Option<u64>) {
    for piece in pieces {
        match piece {
            Piece::Note(note) => {
                text.push_str(note);
                text.push('\n');
            }
            Piece::Line {
                number,
                matches,
                line,
            } => {
                if numbered {
                    if last.is_some_and(|last| last + 1 < *number) {
                        text.push_str("--\n");
                    }
                    let _ = write!(text, "{number}{}", if *matches { ':' } else { '-' });
                    *last = Some(*number);
                }
                text.push_str(&line.text);
                if line.cut > 0 {
                    let cut = line.cut;
                    let _ = write!(
                        text,
                        " [... {cut} bytes of this line left out; format=raw has them ...]"
                    );
                }
                text.push('\n');
            }
        }
    }
}

/// The query that reads these lines in the same way.
fn query(read: &LogText, first: u64, last: u64) -> String {
    let mut query = format!("format=text&stream={}&lines={first}-{last}", read.stream.as_str());
    if read.since > 0 {
        let _ = write!(query, "&since={}", read.since);
    }
    if read.collapse {
        query.push_str("&collapse=true");
    }
    if let Some(grep) = &read.grep {
        query.push_str("&grep=");
        for byte in grep.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                query.push(byte as char);
            } else {
                let _ = write!(query, "%{byte:02X}");
            }
        }
        if read.context > 0 {
            let _ = write!(query, "&context={}", read.context);
        }
    }
    query
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ProcessId;
    use crate::ops::LogStream;
    use crate::stream::{Line, Select, View};

    #[test]
    fn what_is_left_out_is_told_with_the_query_that_reads_it() {
        let mut view = View::new(Select {
            range: None,
            grep: Some(regex::Regex::new("a b").unwrap()),
            context: 0,
            head: Some(1),
            tail: None,
            max_bytes: 1000,
        });
        for _ in 0..3 {
            view.line(Line {
                text: "a b".into(),
                cut: 0,
                written: 4,
            });
        }
        let read = LogText {
            id: ProcessId(7),
            stream: LogStream::Stdout,
            since: 0,
            grep: Some("a b".into()),
            context: 0,
            collapse: true,
            chosen: view.finish(),
        };
        insta::assert_snapshot!(LogsText::from(&read).text, @r"
        1:a b
        [... 2 lines (8 bytes) left out here; GET /v1/processes/proc_7/logs?format=text&stream=stdout&lines=2-3&collapse=true&grep=a%20b reads them ...]
        ");
    }
}

//! Terminals: sizes, what a screen shows, the writer lock, and the messages of their `WebSocket`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::process_requests::{InputEncoding, process_id};
use crate::error::Error;
use crate::exec::Size;
use crate::ids::ProcessId;
use crate::ops::Op;
use crate::pty::{self, Color, Shown, SnapshotRequest, Style, Underline};

/// The size of a terminal.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = ProcessTerminalResizeRequest)]
pub struct ResizeRequest {
    /// `proc_N`; on its own route, that of the path.
    pub id: Option<String>,
    /// Columns, 1 to 1000.
    #[schema(required = true, nullable = false, minimum = 1, maximum = 1000)]
    pub cols: Option<u32>,
    /// Rows, 1 to 1000.
    #[schema(required = true, nullable = false, minimum = 1, maximum = 1000)]
    pub rows: Option<u32>,
}

impl ResizeRequest {
    /// The operation, on the process of `id` where that is known already.
    pub fn into_op(self, id: Option<ProcessId>) -> Result<Op, Error> {
        let required = |field| Error::Invalid {
            field,
            reason: "is required".into(),
        };
        Ok(Op::ProcessResize {
            id: one_id(id, self.id.as_deref())?,
            size: Size::new(
                self.cols.ok_or_else(|| required("cols"))?,
                self.rows.ok_or_else(|| required("rows"))?,
            )?,
        })
    }
}

fn one_id(known: Option<ProcessId>, given: Option<&str>) -> Result<ProcessId, Error> {
    match (known, given) {
        (Some(id), _) => Ok(id),
        (None, Some(text)) => process_id(text),
        (None, None) => Err(Error::Invalid {
            field: "id",
            reason: "is required".into(),
        }),
    }
}

/// The size of a terminal, as it is now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProcessTerminalResizeResponse)]
pub struct SizeReply {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

impl From<Size> for SizeReply {
    fn from(size: Size) -> Self {
        Self {
            cols: size.cols(),
            rows: size.rows(),
        }
    }
}

/// Arguments of `process.snapshot`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SnapshotArguments {
    /// `proc_N`.
    pub id: Option<String>,
    /// The cells with their attributes, too.
    pub cells: bool,
    /// So many lines that scrolled away, too.
    pub history_lines: Option<usize>,
    /// The first of them, counted from 0 for the first line ever; the last ones when not given.
    pub history_from: Option<u64>,
}

/// Lines of history in one answer.
const HISTORY: usize = 10_000;

impl SnapshotArguments {
    /// The operation, on the process of `id` where that is known already.
    pub fn into_op(self, id: Option<ProcessId>) -> Result<Op, Error> {
        let from = self.history_from.unwrap_or(u64::MAX);
        let history = match (self.history_lines, self.history_from) {
            (None, None) => None,
            (lines, _) => Some((from, lines.unwrap_or(HISTORY).min(HISTORY))),
        };
        Ok(Op::ProcessSnapshot {
            id: one_id(id, self.id.as_deref())?,
            request: SnapshotRequest {
                cells: self.cells,
                history,
            },
        })
    }
}

/// What a terminal shows.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TerminalSnapshot)]
pub struct Snapshot {
    /// The rows, top to bottom, without trailing blanks.
    pub lines: Vec<String>,
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
    /// Row and column of the cursor, from 0.
    pub cursor: (u16, u16),
    /// Whether the cursor is shown.
    pub cursor_visible: bool,
    /// What the program calls the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Whether a full-screen program has the screen.
    pub alternate: bool,
    /// Whether all output was seen: false when some was lost before.
    pub exact: bool,
    /// With `cells`: the runs of equal attributes of each row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cells: Option<Vec<Vec<Cells>>>,
    /// With `historyLines`: what scrolled away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<History>,
}

/// Cells beside one another with the same attributes.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TerminalCells)]
pub struct Cells {
    /// Their text.
    pub text: String,
    /// Foreground: `#rrggbb`, or the index of one of xterm's 256 colours; `1` is red.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreground: Option<String>,
    /// Background, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background: Option<String>,
    /// `bold`, `dim`, `italic`, `underline`, `inverse`, `hidden`, `blink`, `strikethrough`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<&'static str>,
}

/// A page of what scrolled away.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TerminalHistory)]
pub struct History {
    /// Number of the first line here, from 0 for the first that ever scrolled away.
    pub first: u64,
    /// The lines.
    pub lines: Vec<String>,
    /// Lines that are not kept any more.
    pub dropped: u64,
    /// Lines that ever scrolled away.
    pub total: u64,
}

impl From<&Shown> for Snapshot {
    fn from(shown: &Shown) -> Self {
        let screen = &shown.screen;
        Self {
            lines: screen.lines.clone(),
            cols: screen.size.cols(),
            rows: screen.size.rows(),
            cursor: (screen.cursor.row, screen.cursor.col),
            cursor_visible: screen.cursor.is_visible,
            title: screen.title.clone(),
            alternate: screen.is_alternate,
            exact: shown.is_exact,
            cells: shown.cells.as_ref().map(|rows| {
                let row = |runs: &Vec<pty::Run>| runs.iter().map(Cells::from).collect();
                rows.iter().map(row).collect()
            }),
            history: shown.history.as_ref().map(|page| History {
                first: page.first,
                lines: page.lines.clone(),
                dropped: page.dropped,
                total: page.total,
            }),
        }
    }
}

impl From<&pty::Run> for Cells {
    fn from(run: &pty::Run) -> Self {
        Self {
            text: run.text.clone(),
            foreground: color(run.style.foreground),
            background: color(run.style.background),
            attributes: attributes(&run.style),
        }
    }
}

/// `None` for the terminal's own.
fn color(color: Color) -> Option<String> {
    match color {
        Color::Default => None,
        Color::Indexed(index) => Some(index.to_string()),
        Color::Rgb(red, green, blue) => Some(format!("#{red:02x}{green:02x}{blue:02x}")),
    }
}

fn attributes(style: &Style) -> Vec<&'static str> {
    let all = [
        ("bold", style.bold),
        ("dim", style.dim),
        ("italic", style.italic),
        ("underline", style.underline != Underline::None),
        ("blink", style.blink),
        ("inverse", style.inverse),
        ("hidden", style.hidden),
        ("strikethrough", style.strikethrough),
    ];
    all.into_iter()
        .filter_map(|(name, on)| on.then_some(name))
        .collect()
}

/// The writer lock of a terminal.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[schema(as = TerminalLockRequest)]
pub struct LockRequest {
    /// Who holds it: the `viewer` of a `WebSocket`, or the `holder` of input.
    #[schema(required = true, nullable = false, min_length = 1)]
    pub holder: Option<String>,
    /// How long, milliseconds; a minute when not given, at most an hour.
    pub lease_ms: Option<u64>,
    /// Take it from whoever has it.
    pub steal: Option<bool>,
}

/// What a client of the `WebSocket` says.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ClientMessage {
    /// Input.
    Input {
        /// What is typed.
        data: String,
        /// Plain text unless it says base64.
        encoding: Option<InputEncoding>,
    },
    /// The size of the viewer.
    Resize {
        /// Columns.
        cols: u32,
        /// Rows.
        rows: u32,
    },
    /// The viewer goes.
    Close,
}

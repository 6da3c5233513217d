//! Full-screen programs, looked at by a second viewer: its screen is that of the first, by an emulator that is not ours.

use serde_json::json;

use crate::harness::http::Http;
use crate::harness::viewer::Viewer;
use crate::harness::{Daemon, require};
use crate::http_process_life::made_of;

/// A screen that these bytes draw.
fn screen(cols: u16, rows: u16, bytes: &[u8]) -> vt100::Parser {
    let mut parser = vt100::Parser::new(rows.try_into().unwrap(), cols.try_into().unwrap(), 0);
    parser.process(bytes);
    parser
}

/// What a person sees of a cell: one that was never written is a blank.
fn looks(screen: &vt100::Screen, row: u16, col: u16) -> (String, String) {
    let cell = screen.cell(row, col).unwrap();
    let text = if cell.contents().is_empty() {
        " "
    } else {
        cell.contents()
    };
    if text == " " && !cell.underline() && !cell.inverse() {
        return (text.to_owned(), format!("on {:?}", cell.bgcolor()));
    }
    let attributes = format!(
        "{:?} on {:?}, bold {}, italic {}, underline {}, inverse {}, wide {}",
        cell.fgcolor(),
        cell.bgcolor(),
        cell.bold(),
        cell.italic(),
        cell.underline(),
        cell.inverse(),
        cell.is_wide(),
    );
    (text.to_owned(), attributes)
}

/// Compares the screen of a viewer that saw everything with that of one who comes now.
async fn same_for_a_second(http: &Http, id: &str, first: &mut Viewer, (cols, rows): (u16, u16)) {
    let second = Viewer::open(http, id, "?restore=true").await;
    let (mut second, ready) = (second, |viewer: &Viewer, name: &str| {
        viewer.ready[name].as_u64().unwrap()
    });
    let (offset, frame) = (ready(&second, "offset"), ready(&second, "frameBytes") as usize);
    assert_eq!(second.ready["exact"], true, "{}", second.ready);
    assert_eq!(
        (ready(&second, "cols"), ready(&second, "rows")),
        (cols.into(), rows.into())
    );
    second
        .until("the frame", |viewer| viewer.bytes.len() >= frame)
        .await;
    first
        .until("as much output", |viewer| viewer.offset() >= offset)
        .await;
    let seen = screen(cols, rows, &first.bytes[..offset as usize]);
    let restored = screen(cols, rows, &second.bytes[..frame]);
    let (seen, restored) = (seen.screen(), restored.screen());
    for row in 0..rows {
        let of = |screen: &vt100::Screen| (0..cols).map(|col| looks(screen, row, col)).collect::<Vec<_>>();
        assert_eq!(of(restored), of(seen), "row {row}");
    }
    assert_eq!(restored.cursor_position(), seen.cursor_position());
    assert_eq!(restored.alternate_screen(), seen.alternate_screen());
    assert_eq!(restored.hide_cursor(), seen.hide_cursor());
    assert_eq!(restored.application_cursor(), seen.application_cursor());
    assert_eq!(restored.application_keypad(), seen.application_keypad());
    assert_eq!(restored.bracketed_paste(), seen.bracketed_paste());
    assert_eq!(restored.mouse_protocol_mode(), seen.mouse_protocol_mode());
    assert_eq!(restored.mouse_protocol_encoding(), seen.mouse_protocol_encoding());
}

#[tokio::test]
async fn vim_is_restored_exactly() {
    require("vim");
    let daemon = Daemon::start();
    let http = daemon.http();
    let lines = (1..=200).map(|line| format!("fn line_{line}() {{ /* ü 漢字 */ }}"));
    let text = lines.collect::<Vec<_>>().join("\n");
    std::fs::write(daemon.workspace().join("file.rs"), text).unwrap();
    let asked = json!({
        "command": "vim", "args": ["-u", "NONE", "-i", "NONE", "-N", "-n", "file.rs"], "tty": true, "cols": 100, "rows": 30,
        "env": { "LC_ALL": "C.UTF-8" },
    });
    let id = made_of(&http, &asked).await;
    let mut first = Viewer::open(&http, &id, "").await;
    first.until_shown("line_20").await;
    for (keys, shown) in [
        (":syntax on | set number hlsearch mouse=a\r", "ü"),
        ("/line_15\r", "line_15"),
        (":vsplit\r\x06", "line_4"),
        ("ihere é\x1b:echo 'at' 'rest'\r", "at rest"),
    ] {
        first.input(keys).await;
        first.until_shown(shown).await;
        same_for_a_second(&http, &id, &mut first, (100, 30)).await;
    }
    first.input(":qa!\r").await;
    assert_eq!(first.end().await.0["exitCode"], 0);
    same_for_a_second(&http, &id, &mut first, (100, 30)).await;
}

#[tokio::test]
async fn htop_is_restored_exactly() {
    require("htop");
    let daemon = Daemon::start();
    let http = daemon.http();
    let asked = json!({
        "command": "htop", "args": ["-d", "2"], "tty": true, "cols": 120, "rows": 40, "env": { "LC_ALL": "C.UTF-8" },
    });
    let id = made_of(&http, &asked).await;
    let mut first = Viewer::open(&http, &id, "").await;
    first.until_shown("Load average").await;
    for keys in ["", "t", "\x1bOQ"] {
        first.input(keys).await;
        let seen = first.offset();
        first.until("a change", |viewer| viewer.offset() > seen).await;
        same_for_a_second(&http, &id, &mut first, (120, 40)).await;
    }
    first.input("\x1b\x1b").await;
    first.input("q").await;
}

//! What the screen, the history and the answers are after given output, and that no output can harm.

use proptest::prelude::*;

use super::fixture::{differences, fed, grid, restored, size};
use super::{Budget, Color, Grid, Limits, Run, Style, Underline};
use crate::error::Code;

fn lines(grid: &Grid) -> Vec<String> {
    let mut lines = grid.snapshot().lines;
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

fn asked(question: &str) -> String {
    let mut grid = fed(80, 24, b"\x1b[5;8H");
    grid.feed(question.as_bytes());
    String::from_utf8(grid.take_answers()).unwrap()
}

#[test]
fn a_snapshot_is_what_a_person_sees() {
    let mut grid = fed(
        20,
        4,
        "\x1b]2;build; all\x07one  \r\n\x1b[31mtwo\x1b[m \u{4e2d}e\u{301}\t|".as_bytes(),
    );
    let snapshot = grid.snapshot();
    assert_eq!(snapshot.lines, ["one", "two \u{4e2d}e\u{301} |", "", ""]);
    assert_eq!((snapshot.cursor.row, snapshot.cursor.col), (1, 9));
    assert!(snapshot.cursor.is_visible && !snapshot.is_alternate);
    assert_eq!(snapshot.title.as_deref(), Some("build; all"));
    assert_eq!((snapshot.size.cols(), snapshot.size.rows()), (20, 4));
    grid.feed(b"\x1b[?1049h\x1b[?25l\x1b[HX");
    let snapshot = grid.snapshot();
    assert_eq!(snapshot.lines[0], "X");
    assert!(snapshot.is_alternate && !snapshot.cursor.is_visible);
}

#[test]
fn cells_are_runs_of_the_same_attributes() {
    let mut grid = fed(10, 1, "ab\x1b[1;38;5;208;4:3;58;5;9mc\u{4e2d}\x1b[m".as_bytes());
    let styled = Style {
        foreground: Color::Indexed(208),
        underline: Underline::Curly,
        underline_color: Some(Color::Indexed(9)),
        bold: true,
        ..Style::default()
    };
    let run = |text: &str, cols, style: &Style| Run {
        text: text.into(),
        cols,
        style: style.clone(),
    };
    let plain = Style::default();
    let expected = [
        run("ab", 2, &plain),
        run("c\u{4e2d}", 3, &styled),
        run("     ", 5, &plain),
    ];
    assert_eq!(grid.cells(), [expected]);
    grid.feed(b"\x1b[H\x1b[2;3;5;7;8;9;21;91;48;2;1;2;3m\x1b]8;;http://box/\x1b\\x");
    let style = &grid.cells()[0][0].style;
    let expected = Style {
        foreground: Color::Indexed(9),
        background: Color::Rgb(1, 2, 3),
        underline: Underline::Double,
        dim: true,
        italic: true,
        blink: true,
        inverse: true,
        hidden: true,
        strikethrough: true,
        link: Some("http://box/".into()),
        ..Style::default()
    };
    assert_eq!(*style, expected);
}

#[test]
fn lines_that_leave_the_main_screen_at_the_top_are_history() {
    let mut grid = fed(10, 3, b"1\r\n2\r\n3\r\n4\r\nlong enough to wrap");
    assert_eq!(grid.history(0, 99).lines, ["1", "2", "3"]);
    grid.feed(b"\x1b[?1049ha\r\nb\r\nc\r\nd\x1b[?1049l");
    assert_eq!(grid.history(0, 99).total, 3, "the alternate screen has none");
    grid.feed(b"\x1b[2;3r\x1b[3;1H\n\n\x1b[r\x1b[3;1H");
    assert_eq!(
        grid.history(0, 99).total,
        3,
        "nor has what scrolls below a margin"
    );
    grid.feed(b"\x1b[1;2r\x1b[2;1H\n\x1b[r\x1b[S");
    assert_eq!(grid.history(3, 1).lines, ["4"]);
    assert_eq!(grid.history(0, 99).total, 5);
    grid.feed(b"\x1b[3J");
    let page = grid.history(0, 99);
    assert_eq!(
        (page.first, page.lines.len(), page.dropped, page.total),
        (5, 0, 5, 5)
    );
}

#[test]
fn history_is_bounded_by_the_budget_and_the_screen_goes_before_it() {
    let limits = Limits {
        lines: 100,
        bytes: 2400,
    };
    let budget = Budget::new(2 * 80 * 24 * 2 + 50);
    let mut rich = Grid::open(size(80, 24), limits, &budget).unwrap();
    assert_eq!(budget.used(), 2 * 80 * 24 + 100);
    let refused = Grid::open(size(80, 24), limits, &budget).unwrap_err();
    assert_eq!(refused.code(), Code::Overloaded);
    assert!(
        refused.to_string().contains("needs 3840, 3790 are left"),
        "{refused}"
    );
    drop(rich);
    rich = Grid::open(
        size(80, 24),
        Limits {
            bytes: 2400 - 24 * 60,
            ..limits
        },
        &budget,
    )
    .unwrap();
    let mut poor = Grid::open(size(80, 24), limits, &budget).unwrap();
    assert_eq!(budget.used(), budget.limit());
    for _ in 0..200 {
        poor.feed(b"sixty bytes, sixty bytes, sixty bytes, sixty bytes, sixty..\r\n");
    }
    let page = poor.history(0, 999);
    assert_eq!(
        (page.lines.len(), page.total),
        (4, 177),
        "ten cells are 240 bytes"
    );
    assert_eq!(rich.resize(size(80, 25)).unwrap_err().code(), Code::Overloaded);
    assert_eq!(rich.size(), size(80, 24), "nothing changed");
    poor.resize(size(40, 24)).unwrap();
    rich.resize(size(80, 25)).unwrap();
    drop((rich, poor));
    assert_eq!(budget.used(), 0);
}

#[test]
fn questions_are_answered_as_xterm_does() {
    let answers = [
        ("\x1b[5n", "\x1b[0n"),
        ("\x1b[6n", "\x1b[5;8R"),
        ("\x1b[?6n", "\x1b[?5;8R"),
        ("\x1b[c", "\x1b[?1;2c"),
        ("\x1b[0c", "\x1b[?1;2c"),
        ("\x1bZ", "\x1b[?1;2c"),
        ("\x1b[>c", "\x1b[>0;276;0c"),
        ("\x1b[=c", "\x1bP!|00000000\x1b\\"),
        ("\x1b[18t", "\x1b[8;24;80t"),
        ("\x1b[?7$p", "\x1b[?7;1$y"),
        ("\x1b[?2004$p", "\x1b[?2004;2$y"),
        (
            "\x1b[?1002h\x1b[?1002$p\x1b[?1003$p",
            "\x1b[?1002;1$y\x1b[?1003;2$y",
        ),
        ("\x1b[?9999$p", "\x1b[?9999;0$y"),
        ("\x1b[4h\x1b[4$p\x1b[20$p", "\x1b[4;1$y\x1b[20;2$y"),
        ("\x1b]11;?\x07", "\x1b]11;rgb:0000/0000/0000\x07"),
        (
            "\x1b]10;#123456\x07\x1b]10;?\x1b\\",
            "\x1b]10;rgb:1212/3434/5656\x1b\\",
        ),
        ("\x1b]4;1;?\x07", "\x1b]4;1;rgb:cdcd/0000/0000\x07"),
        ("\x1b]4;231;?\x07", "\x1b]4;231;rgb:ffff/ffff/ffff\x07"),
        ("\x1b[3;9r\x1bP$qr\x1b\\", "\x1bP1$r3;9r\x1b\\"),
        ("\x1b[1;31m\x1bP$qm\x1b\\", "\x1bP1$r0;1;31m\x1b\\"),
        ("\x1b[4 q\x1bP$q q\x1b\\", "\x1bP1$r4 q\x1b\\"),
        ("\x1bP$qx\x1b\\", "\x1bP0$r\x1b\\"),
        ("\x1b[?u\x1b[21t\x1b]52;c;?\x07", ""),
    ];
    for (question, answer) in answers {
        assert_eq!(asked(question), answer, "{question:?}");
    }
    let version = concat!("\x1bP>|boxd(", env!("CARGO_PKG_VERSION"), ")\x1b\\");
    assert_eq!(asked("\x1b[>q"), version);
    assert_eq!(
        asked("\x1b[3;9r\x1b[?6h\x1b[2;2H\x1b[6n"),
        "\x1b[2;2R",
        "from the margin"
    );
}

#[test]
fn answers_that_nobody_takes_are_few() {
    let mut grid = fed(80, 24, &b"\x1b[6n".repeat(100_000));
    let answers = grid.take_answers();
    assert!((4000..=4096).contains(&answers.len()), "{}", answers.len());
    assert!(answers.ends_with(b"R"), "none is cut");
    assert_eq!(grid.take_answers(), b"");
}

#[test]
fn a_program_cannot_make_it_keep_any_amount() {
    let mut grid = grid(20, 4);
    for number in 0..4_000 {
        grid.feed(format!("\x1b]2;{}\x07\x1b[22t\x1b[>1u\x1b[?{number}h", "t".repeat(3000)).as_bytes());
    }
    grid.feed("e".as_bytes());
    grid.feed("\u{301}".repeat(100_000).as_bytes());
    let frame = grid.restore();
    assert!(frame.len() < 20_000, "{}", frame.len());
    for number in 0..4_000 {
        grid.feed(format!("\x1b[H\x1b]8;;{}{number}\x1b\\x", "u".repeat(3000)).as_bytes());
    }
    assert_eq!(
        grid.cells()[0][0].style.link.as_ref().map(String::len),
        Some(3004)
    );
}

#[test]
fn a_hundred_megabytes_between_escape_and_bell_are_no_title() {
    let mut grid = fed(20, 4, b"\x1b]2;before\x07\x1b]2;");
    let block = vec![b'x'; 1 << 20];
    for _ in 0..100 {
        grid.feed(&block);
    }
    assert!(grid.restore().len() < 10_000);
    grid.feed(b"\x07after");
    assert_eq!(grid.snapshot().title.as_deref(), Some("before"));
    assert_eq!(lines(&grid), ["after"]);
}

#[test]
fn repeating_costs_a_line_at_most() {
    assert_eq!(lines(&fed(10, 3, b"-\x1b[3b|")), ["----|"]);
    let mut grid = fed(10, 3, b"-");
    grid.feed(&b"\x1b[65535b".repeat(2000));
    assert_eq!(lines(&grid)[0], "----------");
    assert_eq!(grid.history(0, 0).total, 1998);
}

#[test]
fn both_halves_of_a_wide_character_go_together() {
    let cases = [
        ("\x1b[2G\x1b[4hx", " x ab"),
        ("\x1b[2Gx", " xab"),
        ("\x1b[Gx", "x ab"),
        ("\x1b[2G\x1b[@", "   ab"),
        ("\x1b[G\x1b[P", " ab"),
        ("\x1b[2G\x1b[K", ""),
        ("\x1b[G\x1b[X", "  ab"),
        ("\x1b[G\x1b[1J", "  ab"),
    ];
    for (output, expected) in cases {
        let mut grid = fed(6, 1, format!("\u{4e2d}ab{output}").as_bytes());
        assert_eq!(grid.snapshot().lines, [expected], "{output:?}");
        let mut copy = restored(&mut grid);
        assert_eq!(
            differences(&mut grid, &mut copy),
            Vec::<String>::new(),
            "{output:?}"
        );
    }
    let grid = fed(3, 2, "ab\u{4e2d}".as_bytes());
    assert_eq!(
        grid.snapshot().lines,
        ["ab", "\u{4e2d}"],
        "it does not fit behind the b"
    );
}

#[test]
fn sizes_change_as_terminals_do() {
    let mut grid = fed(10, 4, b"one\r\n0123456789abcde\r\n$ ");
    grid.resize(size(5, 4)).unwrap();
    assert_eq!(lines(&grid), ["01234", "56789", "abcde", "$"], "wrapped anew");
    assert_eq!(grid.history(0, 9).lines, ["one"]);
    grid.resize(size(20, 4)).unwrap();
    assert_eq!(lines(&grid), ["0123456789abcde", "$"]);
    grid.resize(size(20, 1)).unwrap();
    assert_eq!(lines(&grid), ["$"]);
    assert_eq!(grid.history(0, 9).lines, ["one", "0123456789abcde"]);
    grid.resize(size(1000, 1000)).unwrap();
    grid.resize(size(1, 1)).unwrap();
    grid.feed("\u{4e2d}x".as_bytes());
    assert_eq!(lines(&grid), ["x"], "a wide character has no room in one column");

    let mut grid = fed(10, 3, b"main\x1b[?1049h\x1b[Halternate\r\nbelow");
    grid.resize(size(6, 2)).unwrap();
    assert_eq!(lines(&grid), ["altern", "below"], "cut");
    grid.feed(b"\x1b[?1049l");
    assert_eq!(lines(&grid), ["main"]);
}

#[test]
fn random_bytes_do_no_harm() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut grid = grid(80, 24);
    let mut bytes = vec![0; 4096];
    for round in 0..400 {
        random.fill(&mut bytes);
        // Sequences, which are rare among all bytes, are half of every second block.
        for byte in bytes.iter_mut().filter(|_| round % 2 == 0) {
            match random.u8(..40) {
                0 => *byte = 0x1b,
                1..8 => *byte = b'[',
                8..15 => *byte = b"0123456789;?"[random.usize(..12)],
                15..20 => *byte = random.u8(0x40..0x7f),
                _ => {}
            }
        }
        grid.feed(&bytes);
        if round % 20 == 0 {
            let (cols, rows) = (random.u32(1..=200), random.u32(1..=60));
            grid.resize(size(cols, rows)).unwrap();
            let mut copy = restored(&mut grid);
            assert_eq!(differences(&mut grid, &mut copy), Vec::<String>::new());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_flood_leaves_what_its_emulation_would(
        start in "[a-z\r\n]{0,20}(\x1b\\[[1-9]m)?",
        early in "(\x1b\\[(0;)?(1|4|33|4:3)m){0,2}",
        line in "[a-z\t\u{e4}\u{4e2d}]{0,9}(\x1b\\[(0;)?3[1-7]m|\x1b\\[0?m|\x1b\\[K)?[a-z]{0,2}(\r\n|\r\n|\n)",
        ends in 0..40_usize, is_alternate in any::<bool>(), lines in 0..50_usize
    ) {
        let limits = Limits { lines, bytes: 100_000 };
        let budget = Budget::new(1_000_000);
        let open = || Grid::open(size(40, 5), limits, &budget).unwrap();
        let (mut careful, mut quick) = (open(), open());
        // What stands on the screen before must not shine through.
        let before = if is_alternate { "\x1b[?1049h" } else { "" };
        let before = format!("{before}\x1b[44m{}\x1b[2;3H\x1b[42m", "filled".repeat(33));
        let numbered: Vec<String> = (0..6000).map(|number| format!("{} {line}", number % 1000)).collect();
        let flood = format!("{start}{line}{early}{}{}\x1b[1mend", numbered.concat(), "x".repeat(ends));
        careful.feed(before.as_bytes());
        quick.feed(before.as_bytes());
        for piece in flood.as_bytes().chunks(1000) {
            careful.feed(piece);
        }
        quick.feed(flood.as_bytes());
        prop_assert_eq!(differences(&mut careful, &mut quick), Vec::<String>::new());
        prop_assert_eq!(careful.history(0, 99).lines, quick.history(0, 99).lines);
        if line.ends_with("\r\n") && !line.contains('\t') {
            prop_assert_eq!(careful.history(0, 0).total, quick.history(0, 0).total, "no line wraps");
        }
    }

    #[test]
    fn so_does_a_line_without_end(start in "[a-z\r\n]{0,60}", length in 40_000..60_000_usize, lines in 0..50_usize) {
        let limits = Limits { lines, bytes: 100_000 };
        let budget = Budget::new(1_000_000);
        let open = || Grid::open(size(40, 5), limits, &budget).unwrap();
        let (mut careful, mut quick) = (open(), open());
        let before = format!("{}\x1b[2;3H", "filled".repeat(33));
        careful.feed(before.as_bytes());
        quick.feed(before.as_bytes());
        let flood = start + &"0123456789abcdefghijk".repeat(length / 20)[..length] + "\x1b[1mend";
        for piece in flood.as_bytes().chunks(1000) {
            careful.feed(piece);
        }
        quick.feed(flood.as_bytes());
        prop_assert_eq!(differences(&mut careful, &mut quick), Vec::<String>::new());
        prop_assert_eq!(careful.history(0, 99), quick.history(0, 99));
    }
}

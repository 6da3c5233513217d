//! The promise of the restore frame: a restored terminal equals its original now and after whatever comes, shown with
//! generated output and with recorded sessions.

use proptest::collection::vec;
use proptest::prelude::*;
use serde::Deserialize;

use super::fixture::{can_say_what_to_repeat, differences, fed, grid, restored, size, state};

/// How often each property is tried.
const CASES: u32 = 128;

/// What one piece of output can be: every sequence that means something, and many that do not.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let csi = (
        prop_oneof![4 => Just(""), 1 => Just("?"), 1 => Just(">"), 1 => Just("!"), 1 => Just("=")],
        vec(
            prop_oneof![
                Just(String::new()),
                (0..30_u16).prop_map(|n| n.to_string()),
                any::<u16>().prop_map(|n| n.to_string())
            ],
            0..3,
        ),
        prop_oneof![4 => Just(""), 1 => Just(" "), 1 => Just("$")],
        proptest::char::range('@', '~'),
    )
        .prop_map(|(prefix, parameters, intermediate, last)| {
            format!("\x1b[{prefix}{}{intermediate}{last}", parameters.join(";"))
        });
    let attribute = prop_oneof![
        (0..110_u8).prop_map(|n| format!("\x1b[{n}m")),
        (0..10_u8).prop_map(|n| format!("\x1b[4:{n}m")),
        any::<(u8, u8)>().prop_map(|(a, b)| format!("\x1b[38;5;{a};48;2;{b};2;3m")),
        any::<u8>().prop_map(|n| format!("\x1b[58;5;{n}m")),
        Just("\x1b[m".to_owned()),
    ];
    let mode = (
        prop_oneof![
            (1..50_u16).prop_map(|n| n.to_string()),
            (1000..1050_u16).prop_map(|n| n.to_string()),
            Just("1049".to_owned()),
            Just("2004".to_owned()),
            Just("7".to_owned()),
            Just("6".to_owned()),
            Just("47".to_owned())
        ],
        prop_oneof![Just('h'), Just('l')],
    )
        .prop_map(|(mode, end)| format!("\x1b[?{mode}{end}"));
    let other = prop_oneof![
        "[()*+][0BA]".prop_map(|set| format!("\x1b{set}")),
        "[78=>DEHMc]".prop_map(|end| format!("\x1b{end}")),
        Just("\x1b#8".to_owned()),
        Just("\x1b[4h".to_owned()),
        Just("\x1b[4l".to_owned()),
        Just("\x1b[20h".to_owned()),
        (1..9_u8, 1..9_u8).prop_map(|(top, bottom)| format!("\x1b[{top};{bottom}r")),
        (1..9_u8, 1..25_u8).prop_map(|(row, col)| format!("\x1b[{row};{col}H")),
        "[a-z;\u{e4}]{0,8}".prop_map(|title| format!("\x1b]2;{title}\x07")),
        Just("\x1b[22t".to_owned()),
        Just("\x1b[23t".to_owned()),
        "[a-z]{0,3}".prop_map(|link| format!("\x1b]8;id={link};{link}\x1b\\")),
        any::<(u8, u8)>().prop_map(|(n, c)| format!("\x1b]4;{n};rgb:{c:02x}/00/ff\x07")),
        Just("\x1b]11;#102030\x1b\\".to_owned()),
        "[>=<][0-9]{0,2}".prop_map(|keys| format!("\x1b[{keys}u")),
        Just("\x1bPq#1\x1b\\".to_owned()),
    ];
    let text = prop_oneof![
        "[ -~]{1,30}",
        "[a-c \u{4e2d}\u{301}\u{1f600}\u{ad}\u{200d}\u{fe0f}]{1,8}",
        "[\r\n\t\\x08\\x0b\\x0e\\x0f\\x07]{1,3}",
    ];
    prop_oneof![
        6 => text.prop_map(String::into_bytes),
        4 => csi.prop_map(String::into_bytes),
        2 => attribute.prop_map(String::into_bytes),
        2 => mode.prop_map(String::into_bytes),
        2 => other.prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 1..4),
    ]
}

/// Pieces in a row, the last one perhaps cut.
fn output() -> impl Strategy<Value = Vec<u8>> {
    (vec(piece(), 0..60), 0..4_usize).prop_map(|(pieces, cut)| {
        let mut bytes = pieces.concat();
        bytes.truncate(bytes.len().saturating_sub(cut));
        bytes
    })
}

fn sizes() -> impl Strategy<Value = (u32, u32)> {
    (prop_oneof![1..4_u32, 1..24_u32], prop_oneof![1..3_u32, 1..9_u32])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn a_restored_terminal_equals_its_original_now_and_later(
        (cols, rows) in sizes(), output in output(), more in output(), (new_cols, new_rows) in sizes(), last in output(), cut in 1..40_usize
    ) {
        let mut original = grid(cols, rows);
        for chunk in output.chunks(cut) {
            original.feed(chunk);
        }
        let before = state(&mut original);
        let mut copy = restored(&mut original);
        prop_assert_eq!(&state(&mut original), &before, "restoring changed the original");
        prop_assert_eq!(differences(&mut original, &mut copy), Vec::<String>::new());
        if !can_say_what_to_repeat(original.screen()) {
            copy.screen().last = original.screen().last;
        }
        prop_assert_eq!(copy.screen().last, original.screen().last);

        original.feed(&more);
        for chunk in more.chunks(cut) {
            copy.feed(chunk);
        }
        prop_assert_eq!(differences(&mut original, &mut copy), Vec::<String>::new());
        for grid in [&mut original, &mut copy] {
            grid.resize(size(new_cols, new_rows)).unwrap();
        }
        prop_assert_eq!(differences(&mut original, &mut copy), Vec::<String>::new());
        let mut again = restored(&mut original);
        prop_assert_eq!(differences(&mut original, &mut again), Vec::<String>::new());
        for grid in [&mut original, &mut copy] {
            grid.feed(&last);
        }
        prop_assert_eq!(differences(&mut original, &mut copy), Vec::<String>::new());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn a_terminal_at_rest_wakes_as_it_was((cols, rows) in sizes(), output in output()) {
        let (mut original, mut rested) = (fed(cols, rows, &output), fed(cols, rows, &output));
        let mut woken = rested.rest().wake().unwrap();
        if !can_say_what_to_repeat(original.screen()) {
            woken.screen().last = original.screen().last;
        }
        prop_assert_eq!(differences(&mut original, &mut woken), Vec::<String>::new());
        prop_assert_eq!(original.history(0, 1000), woken.history(0, 1000));
    }
}

/// What a program wrote to a terminal of 80 columns and 24 rows, from its start to some moment.
const SESSIONS: [(&str, &[u8]); 6] = [
    ("htop", include_bytes!("../../tests/vectors/terminal/htop")),
    ("less", include_bytes!("../../tests/vectors/terminal/less")),
    // In a locale without UTF-8, so that lines are drawn with the other character set.
    (
        "mc-ascii",
        include_bytes!("../../tests/vectors/terminal/mc-ascii"),
    ),
    ("tmux", include_bytes!("../../tests/vectors/terminal/tmux")),
    (
        "tmux-ascii",
        include_bytes!("../../tests/vectors/terminal/tmux-ascii"),
    ),
    ("vim", include_bytes!("../../tests/vectors/terminal/vim")),
];

#[test]
fn a_session_can_be_left_and_joined_at_any_moment() {
    /// Moments per session, spread so that they fall inside of sequences too.
    const MOMENTS: usize = 13;
    for (name, session) in SESSIONS {
        let mut original = grid(80, 24);
        let whole = state(&mut fed(80, 24, session));
        for moment in 0..MOMENTS {
            let (at, next) = (
                session.len() * moment / MOMENTS,
                session.len() * (moment + 1) / MOMENTS,
            );
            let mut copy = restored(&mut original);
            let wrong = differences(&mut original, &mut copy);
            assert_eq!(wrong, Vec::<String>::new(), "{name} at {at}");
            copy.feed(&session[at..]);
            assert!(state(&mut copy) == whole, "{name} from {at}");
            original.feed(&session[at..next]);
        }
    }
}

/// What an emulator that is not ours shows after so many bytes of a session.
#[derive(Deserialize)]
struct Shown {
    bytes: usize,
    alternate: bool,
    cursor: (u16, u16),
    lines: Vec<String>,
}

#[test]
fn sessions_look_as_they_do_elsewhere() {
    let screens = include_str!("../../tests/vectors/terminal/screens.json");
    let screens: std::collections::HashMap<String, Vec<Shown>> = serde_json::from_str(screens).unwrap();
    for (name, session) in SESSIONS {
        for shown in &screens[name] {
            let snapshot = fed(80, 24, &session[..shown.bytes]).snapshot();
            assert_eq!(snapshot.lines, shown.lines, "{name} after {}", shown.bytes);
            assert_eq!(
                (snapshot.cursor.row, snapshot.cursor.col),
                shown.cursor,
                "{name} after {}",
                shown.bytes
            );
            assert_eq!(
                snapshot.is_alternate, shown.alternate,
                "{name} after {}",
                shown.bytes
            );
        }
    }
}

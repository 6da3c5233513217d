//! Bytes as text: lossy where that is asked for, cut at character boundaries, base64 where every byte counts.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use crate::error::Error;
use crate::exec::Kept;
use crate::ids::ProcessId;
use crate::stream::Channel;

/// base64 with padding, the alphabet of RFC 4648 section 4.
pub(super) fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of a base64 field.
pub(super) fn from_base64(field: &'static str, text: &str) -> Result<Vec<u8>, Error> {
    STANDARD.decode(text).map_err(|error| Error::Invalid {
        field,
        reason: format!("is not base64: {error}"),
    })
}

/// A cursor, which may stand in a URL as it is: base64 of RFC 4648 section 5 without padding.
pub(super) fn to_cursor(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The bytes of a cursor.
pub(super) fn from_cursor(field: &'static str, text: &str) -> Result<Vec<u8>, Error> {
    URL_SAFE_NO_PAD.decode(text).map_err(|error| Error::Invalid {
        field,
        reason: format!("is none that was answered: {error}"),
    })
}

/// A name for people, and its exact bytes in base64 where the readable form lost something.
pub(super) fn legible(name: &OsStr) -> (Cow<'_, str>, Option<String>) {
    let text = name.to_string_lossy();
    let exact = matches!(text, Cow::Owned(_)).then(|| to_base64(name.as_bytes()));
    (text, exact)
}

/// The same, to be kept.
pub(super) fn readable(name: &OsStr) -> (String, Option<String>) {
    let (text, exact) = legible(name);
    (text.into_owned(), exact)
}

/// A channel as text: head and tail with a note between them where bytes are out.
pub(super) fn captured_text(captured: &Kept, id: ProcessId, channel: Channel) -> String {
    if captured.omitted == 0 {
        let mut text = String::from_utf8_lossy(&captured.head).into_owned();
        text.push_str(&String::from_utf8_lossy(&captured.tail));
        return text;
    }
    let head = whole_head(&captured.head);
    let tail = whole_tail(&captured.tail);
    let cut = (captured.head.len() - head.len() + captured.tail.len() - tail.len()) as u64;
    let omitted = captured.omitted + cut;
    let total = (captured.head.len() + captured.tail.len()) as u64 + captured.omitted;
    let mut text = String::from_utf8_lossy(head).into_owned();
    let channel = channel.as_str();
    let _ = write!(
        text,
        "\n[... {omitted} of {total} bytes left out here; GET /v1/processes/{id}/logs?stream={channel}&format=raw reads \
         what is kept of them ...]\n"
    );
    text.push_str(&String::from_utf8_lossy(tail));
    text
}

/// Whether [`captured_text`] says every byte that was kept, but for a character that an omission has cut.
pub(super) fn is_text(captured: &Kept) -> bool {
    let is_text = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok();
    if captured.omitted == 0 {
        return is_text(&captured.head) && is_text(&captured.tail);
    }
    is_text(whole_head(&captured.head)) && is_text(whole_tail(&captured.tail))
}

/// `bytes` without a character that was cut off at the end.
fn whole_head(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => &bytes[..error.valid_up_to()],
        _ => {
            // There may be invalid bytes before the cut; then only the last three bytes can hold the cut character.
            let start = bytes.len().saturating_sub(3);
            for at in start..bytes.len() {
                if let Err(error) = std::str::from_utf8(&bytes[at..])
                    && error.error_len().is_none()
                    && error.valid_up_to() == 0
                {
                    return &bytes[..at];
                }
            }
            bytes
        }
    }
}

/// `bytes` without the continuation bytes of a character that began before them.
fn whole_tail(bytes: &[u8]) -> &[u8] {
    let continuation = bytes
        .iter()
        .take(3)
        .take_while(|byte| **byte & 0xC0 == 0x80)
        .count();
    &bytes[continuation..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(head: &[u8], tail: &[u8], omitted: u64) -> String {
        let captured = Kept {
            head: head.to_vec().into(),
            tail: tail.to_vec().into(),
            omitted,
        };
        captured_text(&captured, ProcessId(7), Channel::Stderr)
    }

    #[test]
    fn whole_output_is_itself() {
        assert_eq!(cut("ä".as_bytes(), b"", 0), "ä");
        assert_eq!(cut(b"a\xff", b"", 0), "a\u{fffd}");
    }

    #[test]
    fn a_cut_says_how_much_is_out_and_splits_no_character() {
        let euro = "€".as_bytes();
        let text = cut(&[b"ab", &euro[..2]].concat(), &[&euro[1..], b"yz"].concat(), 100);
        assert!(text.starts_with("ab\n[... 104 of 108 bytes left out"), "{text}");
        assert!(text.contains("/v1/processes/proc_7/logs?stream=stderr"), "{text}");
        assert!(text.ends_with("...]\nyz"), "{text}");
        assert!(!text.contains('\u{fffd}'), "{text}");
    }

    #[test]
    fn invalid_bytes_before_the_cut_do_not_hide_it() {
        assert_eq!(whole_head(b"\xff\xe2\x82"), b"\xff");
        assert_eq!(whole_head(b"\xffab"), b"\xffab");
    }

    #[test]
    fn lossy_names_keep_their_bytes() {
        assert_eq!(readable(OsStr::new("plain")), ("plain".to_owned(), None));
        let (text, bytes) = readable(OsStr::from_bytes(b"a\xff"));
        assert_eq!(text, "a\u{fffd}");
        assert_eq!(from_base64("pathB64", &bytes.unwrap()).unwrap(), b"a\xff");
    }
}

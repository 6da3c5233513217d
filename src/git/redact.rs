//! What git said, without secrets: passwords in URLs, which it repeats from a configuration, and a credential that a server
//! sends back. Pure.

/// What stands in the place of a secret.
const HIDDEN: &[u8] = b"***";

/// `text` without `secret` and without passwords in URLs.
pub(super) fn redact(text: Vec<u8>, secret: Option<&str>) -> Vec<u8> {
    let text = match secret.filter(|secret| !secret.is_empty()) {
        Some(secret) => replace(&text, secret.as_bytes()),
        None => text,
    };
    without_passwords(text)
}

fn replace(text: &[u8], secret: &[u8]) -> Vec<u8> {
    let mut clean = Vec::with_capacity(text.len());
    let mut from = 0;
    for at in memchr::memmem::find_iter(text, secret) {
        clean.extend_from_slice(&text[from..at]);
        clean.extend_from_slice(HIDDEN);
        from = at + secret.len();
    }
    clean.extend_from_slice(&text[from..]);
    clean
}

/// `scheme://user:password@host` becomes `scheme://user:***@host`.
fn without_passwords(text: Vec<u8>) -> Vec<u8> {
    let schemes: Vec<usize> = memchr::memmem::find_iter(&text, b"://").collect();
    let mut clean = Vec::with_capacity(text.len());
    let mut from = 0;
    for scheme in schemes {
        let begin = scheme + 3;
        if begin < from {
            continue;
        }
        let ends =
            |byte: &u8| matches!(byte, b'/' | b'\'' | b'"' | b'?' | b'#') || byte.is_ascii_whitespace();
        let end = text[begin..]
            .iter()
            .position(ends)
            .map_or(text.len(), |at| begin + at);
        let authority = &text[begin..end];
        let Some(host) = memchr::memrchr(b'@', authority) else {
            continue;
        };
        let Some(password) = memchr::memchr(b':', &authority[..host]) else {
            continue;
        };
        clean.extend_from_slice(&text[from..=begin + password]);
        clean.extend_from_slice(HIDDEN);
        from = begin + host;
    }
    if from == 0 {
        return text;
    }
    clean.extend_from_slice(&text[from..]);
    clean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str, secret: Option<&str>) -> String {
        String::from_utf8(redact(text.as_bytes().to_vec(), secret)).unwrap()
    }

    #[test]
    fn secrets_are_hidden_and_the_rest_stays() {
        let cases = [
            (
                "fatal: 'https://me:hush@host/x': no",
                None,
                "fatal: 'https://me:***@host/x': no",
            ),
            (
                "a http://u:p@h b ssh://u:q@h:1/\n",
                None,
                "a http://u:***@h b ssh://u:***@h:1/\n",
            ),
            ("https://me@host/a:b@c", None, "https://me@host/a:b@c"),
            (
                "https://host:80/x git@host:x",
                None,
                "https://host:80/x git@host:x",
            ),
            ("remote: hush, it is hush", Some("hush"), "remote: ***, it is ***"),
            ("nothing", Some(""), "nothing"),
        ];
        for (text, secret, expected) in cases {
            assert_eq!(shown(text, secret), expected);
        }
    }

    proptest! {
        #[test]
        fn no_password_stays_and_nothing_panics(before in "[ a-z:/@]{0,20}", password in "[0-9]{6,9}", after in any::<Vec<u8>>()) {
            let mut text = format!("{before} https://u:{password}@h/").into_bytes();
            text.extend(after);
            let clean = redact(text.clone(), None);
            let needle = format!(":{password}@");
            prop_assert!(memchr::memmem::find(&clean, needle.as_bytes()).is_none());
            let clean = redact(text, Some(&password));
            prop_assert!(memchr::memmem::find(&clean, password.as_bytes()).is_none());
        }
    }
}

//! The address of a daemon as people write it, and paths as they travel in a URI. Pure.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::error::Error;

/// Where a daemon listens.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// `host:port`.
    Tcp(String),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// The address in `http://host:port` or `unix:/path`.
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let invalid = |reason: &str| Error::Invalid {
            field: "--url",
            reason: reason.to_owned(),
        };
        if let Some(path) = url.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        if url.starts_with("https://") {
            return Err(Error::Unsupported {
                what: "https".into(),
                why: "boxd serves plain HTTP on loopback and Unix sockets".into(),
                fix: Some("forward the port (ssh -L) and use http://127.0.0.1:PORT".into()),
            });
        }
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(invalid(
                "write it like http://127.0.0.1:2468 or unix:/run/boxd.sock",
            ));
        };
        if rest.contains('#') {
            return Err(invalid(
                "leave the #token out; give the token by --token-file or BOXD_TOKEN",
            ));
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.is_empty() || authority.contains(['/', '?', '@']) {
            return Err(invalid("only a host and a port are expected after http://"));
        }
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        Ok(Self::Tcp(if has_port {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        }))
    }
}

/// Percent-encodes every byte that is not unreserved in a URI.
pub(super) fn encoded(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len()), |mut text, byte| {
            if byte.is_ascii_alphanumeric() || b"-._~/".contains(byte) {
                text.push(char::from(*byte));
            } else {
                let _ = write!(text, "%{byte:02X}");
            }
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_host_or_a_socket() {
        assert_eq!(
            Address::parse("http://127.0.0.1:2468").unwrap(),
            Address::Tcp("127.0.0.1:2468".into())
        );
        assert_eq!(
            Address::parse("http://[::1]:1/").unwrap(),
            Address::Tcp("[::1]:1".into())
        );
        assert_eq!(
            Address::parse("http://box").unwrap(),
            Address::Tcp("box:80".into())
        );
        assert_eq!(
            Address::parse("unix:/run/boxd.sock").unwrap(),
            Address::Unix("/run/boxd.sock".into())
        );
        assert!(matches!(
            Address::parse("https://x"),
            Err(Error::Unsupported { .. })
        ));
        for wrong in [
            "127.0.0.1:2468",
            "http://",
            "http://u:p@h",
            "http://h/v1",
            "http://h/#token=x",
        ] {
            assert!(
                matches!(Address::parse(wrong), Err(Error::Invalid { .. })),
                "{wrong}"
            );
        }
    }

    #[test]
    fn paths_survive_a_query_string() {
        assert_eq!(encoded(b"a b/\xff&c=%"), "a%20b/%FF%26c%3D%25");
    }
}

//! What a broker means by an `-ERR` line. NATS has no codes for these, so this one function reads the text; nothing
//! else in the house classifies an error by its words.

/// The meaning of an `-ERR` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BrokerError {
    /// The credential was good and has run out: dial again at once, a newer one may be in place.
    Expired,
    /// The credential is not accepted.
    Refused,
    /// This subject may not be published to or subscribed; the connection goes on.
    Denied {
        /// `publish` or `subscription`.
        what: &'static str,
        /// The subject.
        subject: String,
    },
    /// Anything else.
    Other(String),
}

/// Reads an `-ERR` line, quotes and client prefix tolerated.
pub(super) fn read(line: &str) -> BrokerError {
    let text = line.trim().trim_start_matches("nats: ").trim_matches('\'');
    let lower = text.to_ascii_lowercase();
    for (words, what) in [
        ("permissions violation for publish to ", "publish"),
        ("permissions violation for subscription to ", "subscription"),
    ] {
        if lower.starts_with(words) {
            // The subject may be followed by ` using queue "…"`; ours never is.
            let subject = text[words.len()..].trim_start_matches('"');
            let subject = subject.split('"').next().unwrap_or_default().to_owned();
            return BrokerError::Denied { what, subject };
        }
    }
    if lower.ends_with("authentication expired") {
        return BrokerError::Expired;
    }
    let refusals = [
        "authorization violation",
        "authentication timeout",
        "authentication revoked",
    ];
    if refusals.iter().any(|refusal| lower.contains(refusal)) {
        return BrokerError::Refused;
    }
    BrokerError::Other(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_real_brokers_are_understood() {
        let denied = |what, subject: &str| BrokerError::Denied {
            what,
            subject: subject.to_owned(),
        };
        let cases = [
            ("'User Authentication Expired'", BrokerError::Expired),
            ("nats: User Authentication Expired", BrokerError::Expired),
            ("'Account Authentication Expired'", BrokerError::Expired),
            ("'Authorization Violation'", BrokerError::Refused),
            ("nats: authorization violation", BrokerError::Refused),
            ("'User Authentication Revoked'", BrokerError::Refused),
            ("'Authentication Timeout'", BrokerError::Refused),
            (
                r#"'Permissions Violation for Publish to "agent.W.a.events"'"#,
                denied("publish", "agent.W.a.events"),
            ),
            (
                r#"Permissions Violation for Subscription to "a.rpc""#,
                denied("subscription", "a.rpc"),
            ),
            (
                r#"'Permissions Violation for Subscription to "a.rpc" using queue "q"'"#,
                denied("subscription", "a.rpc"),
            ),
            ("'Slow Consumer'", BrokerError::Other("Slow Consumer".into())),
        ];
        for (line, meaning) in cases {
            assert_eq!(read(line), meaning, "{line}");
        }
    }
}

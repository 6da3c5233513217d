//! What works on this machine right now, in the one shape that doctor, Hello and `/v1/capabilities` share.
//!
//! Rooms answer with a list of these; nothing here probes anything.

/// One feature, whether it works now, and if not why and what would fix it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// The stable operation or feature name, as in the operations table: `process.run`.
    pub name: &'static str,
    /// Whether a request for it would be served now.
    pub available: bool,
    /// Why not, when it is not available.
    pub why: Option<String>,
    /// The one command or setting that would make it available, where there is one.
    pub fix: Option<String>,
}

impl Capability {
    /// A feature that works now.
    pub fn available(name: &'static str) -> Self {
        Self {
            name,
            available: true,
            why: None,
            fix: None,
        }
    }

    /// A feature that does not work now, with the reason and the fix.
    pub fn missing(name: &'static str, why: impl Into<String>, fix: Option<String>) -> Self {
        Self {
            name,
            available: false,
            why: Some(why.into()),
            fix,
        }
    }
}

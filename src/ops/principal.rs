//! Who is asking: a link or a token, what it may do, and which of its requests share fate.

use std::sync::Arc;

/// The door a request came through; spans and the admission counters carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the doors")]
pub enum Door {
    Nats,
    Http,
}

impl Door {
    /// The name in metrics and log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Http => "http",
        }
    }
}

/// What a principal may do. The operations table names the scope of every operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everything, also what no narrower scope names: exec, processes, config.
    Full,
    /// Reading files, metrics and lists.
    Read,
    /// Writing files.
    Workspace,
}

/// Who is asking. Idempotency keys, quotas and audit lines belong to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal {
    /// Stable and unique: `link:<connection id>` or `token:<label>`.
    pub id: Arc<str>,
    /// The door it came through.
    pub door: Door,
    /// What it may do; [`Scope::Full`] is everything.
    pub scopes: Arc<[Scope]>,
    /// Whether the owner consented to more than the workspace (`consented_whole_machine`).
    pub whole_machine: bool,
}

impl Principal {
    /// A principal that may do everything.
    pub fn full(id: impl Into<Arc<str>>, door: Door) -> Self {
        Self {
            id: id.into(),
            door,
            scopes: Arc::new([Scope::Full]),
            whole_machine: true,
        }
    }

    /// Whether this principal holds `needed`.
    pub fn allows(&self, needed: Scope) -> bool {
        self.scopes
            .iter()
            .any(|held| *held == Scope::Full || *held == needed)
    }
}

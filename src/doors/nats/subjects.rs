//! The subjects of a link, in one or both families, and which reply subjects are acceptable. Pure.

use super::config::Families;
use crate::ids::InstanceId;

/// Which of the two families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FamilyKind {
    /// `agent.<ws>.<id>`
    Plain,
    /// `agent.<ws>.<id>.connection.<inst>`
    Instance,
}

/// The subjects of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Family {
    /// Which one it is.
    pub(super) kind: FamilyKind,
    /// Frames are published below this.
    op: String,
    /// Requests arrive here.
    pub(super) rpc: String,
    /// Acknowledgements and credit arrive here.
    pub(super) ack: String,
    /// Hello is published here.
    pub(super) hello: String,
    /// Heartbeats and going offline are published here.
    pub(super) events: String,
}

impl Family {
    fn below(prefix: &str, kind: FamilyKind) -> Self {
        let subject = |leaf: &str| format!("{prefix}.{leaf}");
        Self {
            kind,
            op: subject("op"),
            rpc: subject("rpc"),
            ack: subject("ack"),
            hello: subject("hello"),
            events: subject("events"),
        }
    }

    /// The subject of the frames of an op, whose id is one token.
    pub(super) fn op(&self, id: &str) -> String {
        format!("{}.{id}", self.op)
    }

    /// All that are fixed.
    pub(super) fn subjects(&self) -> [&str; 4] {
        [&self.rpc, &self.ack, &self.hello, &self.events]
    }
}

/// The families of a link, plain first.
pub(super) fn families(
    root: &str,
    workspace_id: &str,
    agent_id: &str,
    instance: InstanceId,
    which: Families,
) -> Vec<Family> {
    let plain = format!("{root}.{workspace_id}.{agent_id}");
    let instance = format!("{plain}.connection.{instance}");
    let plain = || Family::below(&plain, FamilyKind::Plain);
    let instance = || Family::below(&instance, FamilyKind::Instance);
    match which {
        Families::Plain => vec![plain()],
        Families::Instance => vec![instance()],
        Families::Both => vec![plain(), instance()],
    }
}

/// Where every process that answers as this agent says Hello.
pub(super) fn hellos(root: &str, workspace_id: &str, agent_id: &str) -> String {
    format!("{root}.{workspace_id}.{agent_id}.connection.*.hello")
}

/// Whether `text` can be one token of a subject.
pub(super) fn is_token(text: &str) -> bool {
    /// A broker takes lines of 4,096 bytes by default, and drops whoever sends a longer one.
    const LONGEST: usize = 512;
    (1..=LONGEST).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Whether a reply may be published to `subject`: never into our own subjects, where it would pass for a request or
/// an event, nor into the broker's.
pub(super) fn may_reply_to(root: &str, subject: &str) -> bool {
    let first = subject.split('.').next().unwrap_or_default();
    !first.is_empty() && first != root && !first.starts_with('$') && !subject.contains(['*', '>'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_spelled_as_the_contract_says() {
        let instance = InstanceId::mint();
        let both = families("agent", "w", "a", instance, Families::Both);
        assert_eq!(both[0].rpc, "agent.w.a.rpc");
        assert_eq!(both[0].op("x"), "agent.w.a.op.x");
        assert_eq!(both[1].events, format!("agent.w.a.connection.{instance}.events"));
        assert_eq!(families("agent", "w", "a", instance, Families::Plain), both[..1]);
        assert_eq!(
            families("agent", "w", "a", instance, Families::Instance),
            both[1..]
        );
    }

    #[test]
    fn replies_never_enter_our_subjects_or_the_brokers() {
        for fine in ["_INBOX.x.y", "reply", "agents.x", "a.agent.b"] {
            assert!(may_reply_to("agent", fine), "{fine}");
        }
        for bad in ["agent", "agent.w.a.rpc", "$SYS.REQ", "$JS.API", "", "a.>", "a.*"] {
            assert!(!may_reply_to("agent", bad), "{bad}");
        }
    }

    #[test]
    fn ids_are_single_tokens() {
        assert!(is_token("5f0c6b1e-1_A"));
        for bad in ["", "a.b", "*", ">", "a b", "é"] {
            assert!(!is_token(bad), "{bad}");
        }
    }
}

//! Who may attach to which channel: the address in the query, the first message and the token in it have to agree. Pure.

use crate::error::Error;
use crate::wire::proto::{StreamOpen, StreamRole};
use crate::wire::relay_token::{Mode, ProducerClaims, ViewerClaims, verify};

/// The ports that streams have: desktop, terminal, and those given out on demand.
const PORTS: [std::ops::RangeInclusive<u16>; 3] = [6080..=6080, 7681..=7681, 20_000..=65_535];

/// Whether streams have this port: 6080, 7681, and 20000 to 65535.
pub fn is_stream_port(port: u16) -> bool {
    PORTS.iter().any(|ports| ports.contains(&port))
}

/// The address of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) workspace: String,
    pub(super) agent: String,
    pub(super) port: u16,
    pub(super) channel: String,
}

/// What a connection says in its URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) workspace: String,
    pub(super) agent: String,
    pub(super) port: u16,
    /// A viewer may leave it out where exactly one channel of that port is live.
    pub(super) channel: Option<String>,
}

/// As what somebody attaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    /// The machine.
    Producer,
    /// Somebody who looks.
    Viewer {
        /// What its token calls it.
        viewer: String,
        epoch: u64,
        mode: Mode,
    },
}

impl Query {
    /// Of the part of a URL behind `?`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming what is missing or wrong.
    pub(super) fn parse(query: &str) -> Result<Self, Error> {
        let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let value = |name: &str| {
            let found = pairs.iter().find(|(key, _)| key == name);
            found
                .map(|(_, value)| value.clone())
                .filter(|value| !value.is_empty())
        };
        let required = |name: &'static str| {
            value(name).ok_or(Error::Invalid {
                field: name,
                reason: "is missing from the query".into(),
            })
        };
        let port = required("port")?;
        let known = port.parse().ok().filter(|port| is_stream_port(*port));
        Ok(Self {
            workspace: required("ws")?,
            agent: required("agent")?,
            port: known.ok_or_else(|| Error::Invalid {
                field: "port",
                reason: format!("{port:.20?} is no stream port: 6080, 7681 and 20000 to 65535 are"),
            })?,
            channel: value("channel"),
        })
    }

    /// Whether a channel has this address.
    pub(super) fn fits(&self, key: &Key) -> bool {
        (&self.workspace, &self.agent, self.port) == (&key.workspace, &key.agent, key.port)
    }
}

/// Checks the first message of a connection. `channel` is what the query leaves open: `None` when it does and not exactly
/// one is live.
///
/// # Errors
///
/// Why it is refused; nothing of the token is in it.
pub(super) fn admit(
    query: &Query,
    channel: Option<String>,
    open: &StreamOpen,
    secret: &[u8],
    now: u64,
) -> Result<(Key, Role), Error> {
    let said = open.channel.clone().unwrap_or_default();
    let channel = query.channel.clone().or(channel).ok_or_else(|| Error::NotFound {
        what: "the one live channel of port",
        name: query.port.to_string(),
    })?;
    let key = Key {
        workspace: query.workspace.clone(),
        agent: query.agent.clone(),
        port: query.port,
        channel,
    };
    for (name, said, addressed) in [
        ("workspace_id", &said.workspace_id, &key.workspace),
        ("agent_id", &said.agent_id, &key.agent),
        ("channel_id", &said.channel_id, &key.channel),
    ] {
        // What a viewer leaves out of the query it may leave out here.
        if said != addressed && !(said.is_empty() && query.channel.is_none()) {
            return Err(disagree(name));
        }
    }
    if said.port != 0 && said.port != u32::from(key.port) {
        return Err(disagree("port"));
    }
    let role = match open.role() {
        StreamRole::Agent => {
            let claims: ProducerClaims = verify(&open.token, secret, now)?;
            is_for(claims.workspace_id == key.workspace, "workspace")?;
            is_for(claims.agent_id == key.agent, "agent")?;
            Role::Producer
        }
        StreamRole::Client => {
            let claims: ViewerClaims = verify(&open.token, secret, now)?;
            is_for(claims.workspace_id == key.workspace, "workspace")?;
            is_for(claims.port == key.port, "port")?;
            is_for(claims.agent_id.is_none_or(|agent| agent == key.agent), "agent")?;
            Role::Viewer {
                viewer: claims.viewer_id,
                epoch: claims.lease_epoch,
                mode: claims.mode,
            }
        }
        StreamRole::Unspecified => {
            return Err(Error::Protocol {
                reason: "StreamOpen has no role".into(),
            });
        }
    };
    Ok((key, role))
}

fn disagree(what: &str) -> Error {
    Error::Protocol {
        reason: format!("{what} of StreamOpen is not that of the query"),
    }
}

fn is_for(fits: bool, what: &str) -> Result<(), Error> {
    if fits {
        return Ok(());
    }
    Err(Error::Forbidden {
        reason: format!("the token is for another {what}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::wire::proto::StreamChannel;
    use crate::wire::relay_token::mint;

    const SECRET: &[u8] = b"secret";

    fn query() -> Query {
        Query::parse("ws=w&agent=a&port=7681&channel=c").unwrap()
    }

    fn open(role: StreamRole, token: &str) -> StreamOpen {
        StreamOpen {
            channel: Some(StreamChannel {
                channel_id: "c".into(),
                workspace_id: "w".into(),
                agent_id: "a".into(),
                port: 7681,
                ..StreamChannel::default()
            }),
            token: token.into(),
            role: role.into(),
            resume_from_seq: 0,
        }
    }

    fn producer(agent: &str) -> String {
        let claims = ProducerClaims {
            workspace_id: "w".into(),
            agent_id: agent.into(),
            exp: 100,
        };
        mint(&claims, SECRET).unwrap()
    }

    fn viewer(agent: Option<&str>, port: u16) -> String {
        let claims = ViewerClaims {
            workspace_id: "w".into(),
            agent_id: agent.map(str::to_owned),
            session_id: "s".into(),
            viewer_id: "v".into(),
            lease_epoch: 3,
            mode: Mode::View,
            port,
            exp: 100,
        };
        mint(&claims, SECRET).unwrap()
    }

    fn refused(open: &StreamOpen, now: u64) -> Code {
        admit(&query(), None, open, SECRET, now).unwrap_err().code()
    }

    #[test]
    fn queries_name_a_channel_or_say_what_is_wrong() {
        assert_eq!(query().channel.as_deref(), Some("c"));
        let open = Query::parse("port=20000&agent=a%20b&ws=w&channel=").unwrap();
        assert_eq!(
            (open.agent.as_str(), open.port, open.channel),
            ("a b", 20000, None)
        );
        for wrong in [
            "",
            "ws=w&agent=a",
            "ws=&agent=a&port=7681",
            "ws=w&agent=a&port=80",
            "ws=w&agent=a&port=70000",
        ] {
            assert!(Query::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tokens_open_what_they_are_for() {
        let admitted = |open: &StreamOpen| admit(&query(), None, open, SECRET, 100).unwrap().1;
        assert_eq!(admitted(&open(StreamRole::Agent, &producer("a"))), Role::Producer);
        let looks = Role::Viewer {
            viewer: "v".into(),
            epoch: 3,
            mode: Mode::View,
        };
        for agent in [None, Some("a")] {
            assert_eq!(admitted(&open(StreamRole::Client, &viewer(agent, 7681))), looks);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for (role, token, code) in [
            (StreamRole::Agent, producer("other"), Code::Forbidden),
            (StreamRole::Client, viewer(Some("other"), 7681), Code::Forbidden),
            (StreamRole::Client, viewer(None, 6080), Code::Forbidden),
            (StreamRole::Agent, viewer(Some("a"), 7681), Code::Unauthenticated),
            (
                StreamRole::Agent,
                viewer(Some("a"), 7681).replacen("ogs_", "ogr_", 1),
                Code::Unauthenticated,
            ),
            (StreamRole::Client, producer("a"), Code::Unauthenticated),
            (StreamRole::Unspecified, producer("a"), Code::Protocol),
        ] {
            assert_eq!(refused(&open(role, &token), 100), code, "{role:?} {token}");
        }
        assert_eq!(
            refused(&open(StreamRole::Agent, &producer("a")), 101),
            Code::Unauthenticated
        );
        let mut elsewhere = open(StreamRole::Agent, &producer("a"));
        elsewhere.channel.as_mut().unwrap().channel_id = "d".into();
        assert_eq!(refused(&elsewhere, 100), Code::Protocol);
    }

    #[test]
    fn a_viewer_gets_the_one_that_is_live() {
        let query = Query::parse("ws=w&agent=a&port=7681").unwrap();
        let mut open = open(StreamRole::Client, &viewer(None, 7681));
        open.channel.as_mut().unwrap().channel_id = String::new();
        let (key, _) = admit(&query, Some("live".into()), &open, SECRET, 0).unwrap();
        assert_eq!(key.channel, "live");
        let none = admit(&query, None, &open, SECRET, 0).unwrap_err();
        assert_eq!(none.code(), Code::NotFound);
    }
}

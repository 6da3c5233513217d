//! `boxd relay` as a process, and either end of a channel, spoken by hand.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boxd::wire::proto::{
    AgentError, StreamChannel, StreamClose, StreamCloseReason, StreamFrame, StreamKind, StreamOpen,
    StreamOpenAck, StreamRole,
};
use boxd::wire::relay::Message;
use boxd::wire::relay_token::{Mode, ProducerClaims, ViewerClaims, mint};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message as Packet;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::PATIENCE;
use super::group::Group;
use super::ready::Watch;

/// What the relay of the tests signs with.
pub(crate) const SECRET: &str = "the secret of a relay under test";
/// Whose channels they are.
pub(crate) const WORKSPACE: &str = "w";
/// The machine.
pub(crate) const AGENT: &str = "a";

/// The relay; it can be killed and started again on the same port.
pub(crate) struct Relay {
    group: Option<Group>,
    directory: TempDir,
    arguments: Vec<String>,
    pub(crate) port: u16,
}

impl Relay {
    /// With default settings.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// With more arguments.
    #[track_caller]
    pub(crate) fn with(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let secret = directory.path().join("secret");
        std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
        set_private(&secret);
        let mut relay = Self {
            group: None,
            directory,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            port: 0,
        };
        relay.restart();
        relay
    }

    /// Kills it where it stands: what its rings held is gone.
    pub(crate) fn kill(&mut self) {
        self.group = None;
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        self.group.as_ref().expect("a relay that runs").pid()
    }

    /// Starts it (again), on the port it had.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.kill();
        let ready = self.directory.path().join("ready");
        let _ = std::fs::remove_dir_all(&ready);
        std::fs::create_dir(&ready).unwrap();
        let watch = Watch::new(&ready);
        let mut command = Command::new(env!("CARGO_BIN_EXE_boxd"));
        command
            .arg("relay")
            .args(["--bind", &format!("127.0.0.1:{}", self.port), "--secret-file"])
            .arg(self.directory.path().join("secret"))
            .arg("--ready-file")
            .arg(ready.join("ready.json"))
            .args(&self.arguments)
            .env_clear()
            .env("HOME", self.directory.path());
        let mut group = Group::spawn("boxd relay", &mut command, &self.directory.path().join("log"));
        self.port = watch.wait(&mut group, |directory| {
            let text = std::fs::read(directory.join("ready.json")).ok()?;
            let ready: serde_json::Value = serde_json::from_slice(&text).ok()?;
            ready["address"].as_str()?.rsplit(':').next()?.parse().ok()
        });
        self.group = Some(group);
    }

    /// Where both ends dial.
    pub(crate) fn url(&self) -> String {
        format!("ws://127.0.0.1:{}/stream", self.port)
    }

    /// One of its plain pages.
    pub(crate) async fn page(&self, path: &str) -> String {
        let http = super::Http {
            address: ([127, 0, 0, 1], self.port).into(),
            token: None,
        };
        http.get(path).await.text()
    }
}

fn set_private(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Unix time, seconds from now.
pub(crate) fn unix_time(offset: i64) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    now.saturating_add_signed(offset)
}

/// A token of the machine.
pub(crate) fn producer_token() -> String {
    token_of(WORKSPACE, AGENT)
}

/// A token of any machine.
pub(crate) fn token_of(workspace: &str, agent: &str) -> String {
    token_until(workspace, agent, unix_time(300))
}

/// The same, until a moment in unix seconds.
pub(crate) fn token_until(workspace: &str, agent: &str, exp: u64) -> String {
    let claims = ProducerClaims {
        workspace_id: workspace.into(),
        agent_id: agent.into(),
        exp,
    };
    mint(&claims, SECRET.as_bytes()).unwrap()
}

/// Claims of a viewer of terminals.
pub(crate) fn viewer_claims() -> ViewerClaims {
    ViewerClaims {
        workspace_id: WORKSPACE.into(),
        agent_id: None,
        session_id: "session".into(),
        viewer_id: "viewer".into(),
        lease_epoch: 0,
        mode: Mode::Control,
        port: 7681,
        exp: unix_time(300),
    }
}

/// A token of a viewer.
pub(crate) fn viewer_token(claims: &ViewerClaims) -> String {
    mint(claims, SECRET.as_bytes()).unwrap()
}

/// How an end dials.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
    pub(crate) query: String,
    pub(crate) open: StreamOpen,
}

impl Dial {
    fn new(role: StreamRole, token: String, channel: &str) -> Self {
        Self {
            query: format!("ws={WORKSPACE}&agent={AGENT}&port=7681&channel={channel}"),
            open: StreamOpen {
                channel: Some(StreamChannel {
                    channel_id: channel.into(),
                    workspace_id: WORKSPACE.into(),
                    agent_id: AGENT.into(),
                    kind: StreamKind::Pty.into(),
                    port: 7681,
                }),
                token,
                role: role.into(),
                resume_from_seq: 0,
            },
        }
    }

    /// The machine.
    pub(crate) fn producer(channel: &str) -> Self {
        Self::new(StreamRole::Agent, producer_token(), channel)
    }

    /// Somebody who looks and types.
    pub(crate) fn viewer(channel: &str) -> Self {
        Self::as_viewer(channel, &viewer_claims())
    }

    /// Somebody with these claims.
    pub(crate) fn as_viewer(channel: &str, claims: &ViewerClaims) -> Self {
        Self::new(StreamRole::Client, viewer_token(claims), channel)
    }

    /// Somebody who looks at a channel that was given out, and types.
    pub(crate) fn at(channel: &StreamChannel) -> Self {
        let claims = ViewerClaims {
            workspace_id: channel.workspace_id.clone(),
            ..viewer_claims()
        };
        Self {
            query: format!(
                "ws={}&agent={}&port={}&channel={}",
                channel.workspace_id, channel.agent_id, channel.port, channel.channel_id
            ),
            open: StreamOpen {
                channel: Some(channel.clone()),
                token: viewer_token(&claims),
                role: StreamRole::Client.into(),
                resume_from_seq: 0,
            },
        }
    }

    /// The same, going on at a sequence.
    pub(crate) fn resume(mut self, seq: u64) -> Self {
        self.open.resume_from_seq = seq;
        self
    }

    /// Attaches; `Err` is the refusal.
    pub(crate) async fn attach(&self, relay: &Relay) -> Result<End, AgentError> {
        let mut end = End {
            socket: self.connect(relay).await,
            first: 0,
            channel: self.open.channel.clone().unwrap_or_default().channel_id,
        };
        end.say(&Message::Open(self.open.clone())).await;
        let Message::OpenAck(StreamOpenAck {
            accepted,
            error,
            resume_from_seq,
        }) = end.next().await
        else {
            panic!("no answer to StreamOpen");
        };
        if !accepted {
            assert!(end.closed().await, "a refusal closes");
            return Err(error.unwrap());
        }
        end.first = resume_from_seq;
        Ok(end)
    }

    /// A connection that has not said anything.
    pub(crate) async fn connect(&self, relay: &Relay) -> WebSocketStream<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", relay.port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let url = format!("{}?{}", relay.url(), self.query);
        client_async(url, stream).await.unwrap().0
    }
}

/// One end of a channel.
pub(crate) struct End {
    socket: WebSocketStream<TcpStream>,
    /// The first sequence that it is sent.
    pub(crate) first: u64,
    channel: String,
}

impl End {
    /// Sends a message.
    pub(crate) async fn say(&mut self, message: &Message) {
        self.socket.send(Packet::Binary(message.encode())).await.unwrap();
    }

    /// Sends a frame; false when the socket is gone.
    pub(crate) async fn send(&mut self, seq: u64, data: impl Into<Bytes>) -> bool {
        let frame = Message::Frame(StreamFrame {
            channel_id: self.channel.clone(),
            seq,
            data: data.into(),
            produced_at_ms: 0,
        });
        self.socket.send(Packet::Binary(frame.encode())).await.is_ok()
    }

    /// The next message, `None` when the socket is closed.
    pub(crate) async fn try_next(&mut self) -> Option<Message> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await;
            match next.expect("the relay says nothing")? {
                Ok(Packet::Binary(bytes)) => return Some(Message::decode(bytes).unwrap()),
                Ok(Packet::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Message {
        self.try_next().await.expect("the socket was closed")
    }

    /// The next frame: its number and bytes.
    pub(crate) async fn frame(&mut self) -> (u64, Bytes) {
        match self.next().await {
            Message::Frame(frame) => (frame.seq, frame.data),
            other => panic!("no frame but {other:?}"),
        }
    }

    /// Why the channel was closed, behind which nothing comes.
    pub(crate) async fn close(&mut self) -> StreamCloseReason {
        loop {
            if let Message::Close(StreamClose { reason, .. }) = self.next().await {
                assert!(self.closed().await, "the close is last");
                return StreamCloseReason::try_from(reason).unwrap();
            }
        }
    }

    /// Whether the socket is closed next.
    pub(crate) async fn closed(&mut self) -> bool {
        self.try_next().await.is_none()
    }

    /// Whether nothing comes for so long.
    pub(crate) async fn quiet_for(&mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.try_next()).await.is_err()
    }
}

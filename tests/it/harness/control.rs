//! The other end of the control wire: what a control plane does, in a few lines.

use std::time::Duration;

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::{AgentError, AgentEvent, ControlRequest, ControlResponse, Hello};
use bytes::Bytes;
use futures_util::StreamExt;
use prost::Message;

use super::{Connection, PATIENCE};

/// Which of the two subject families is spoken.
#[derive(Debug, Clone)]
pub(crate) enum Family {
    /// `agent.<ws>.<id>.rpc`
    Plain,
    /// `agent.<ws>.<id>.connection.<instance>.rpc`
    Instance(String),
}

/// A control plane that talks to one link.
#[derive(Debug, Clone)]
pub(crate) struct ControlPlane {
    client: async_nats::Client,
    base: String,
    family: Family,
}

impl ControlPlane {
    /// Connects with the credentials of the link itself.
    pub(crate) async fn connect(link: &Connection) -> Self {
        let options = async_nats::ConnectOptions::with_token(link.bearer.clone());
        Self::connect_with(options, link).await
    }

    /// Connects with other credentials.
    pub(crate) async fn connect_with(options: async_nats::ConnectOptions, link: &Connection) -> Self {
        let client = options
            .request_timeout(Some(PATIENCE))
            .connect(link.urls[0].as_str())
            .await
            .unwrap();
        let base = format!("agent.{}.{}", link.workspace_id, link.agent_id);
        Self {
            client,
            base,
            family: Family::Plain,
        }
    }

    /// The same connection, speaking to the other subject family.
    pub(crate) fn speaking(&self, family: Family) -> Self {
        Self {
            family,
            ..self.clone()
        }
    }

    /// The client below.
    pub(crate) fn client(&self) -> &async_nats::Client {
        &self.client
    }

    /// `rpc`, `hello`, `events`, `ack` or `op.<id>` of the chosen family.
    pub(crate) fn subject(&self, leaf: &str) -> String {
        match &self.family {
            Family::Plain => format!("{}.{leaf}", self.base),
            Family::Instance(instance) => format!("{}.connection.{instance}.{leaf}", self.base),
        }
    }

    /// Asks for `op` under a fresh request id.
    #[track_caller]
    pub(crate) fn ask(&self, op: Op) -> impl Future<Output = ControlResponse> + use<> {
        self.ask_as(&uuid::Uuid::new_v4().to_string(), 0, op)
    }

    /// Asks for `op` under this request id and epoch; the answer must echo the id.
    pub(crate) fn ask_as(
        &self,
        request_id: &str,
        epoch: u32,
        op: Op,
    ) -> impl Future<Output = ControlResponse> + use<> {
        let request = ControlRequest {
            request_id: request_id.to_owned(),
            epoch,
            op: Some(op),
            ..ControlRequest::default()
        };
        let this = self.clone();
        async move {
            let response = this.ask_bytes(request.encode_to_vec().into()).await;
            assert_eq!(
                response.request_id, request.request_id,
                "the request id is echoed"
            );
            response
        }
    }

    /// The error of an operation that must be refused.
    pub(crate) async fn refused(&self, op: Op) -> AgentError {
        self.ask(op).await.error.expect("a refusal")
    }

    /// Sends any bytes as a request.
    pub(crate) async fn ask_bytes(&self, payload: Bytes) -> ControlResponse {
        let reply = self.client.request(self.subject("rpc"), payload).await.unwrap();
        ControlResponse::decode(reply.payload).unwrap()
    }

    /// Listens for hellos from now on.
    pub(crate) async fn hellos(&self) -> Feed<Hello> {
        self.feed("hello").await
    }

    /// Listens for events from now on.
    pub(crate) async fn events(&self) -> Feed<AgentEvent> {
        self.feed("events").await
    }

    async fn feed<M>(&self, leaf: &str) -> Feed<M> {
        let subscriber = self.client.subscribe(self.subject(leaf)).await.unwrap();
        // The broker knows of the subscription before anything is published.
        self.client.flush().await.unwrap();
        Feed {
            subscriber,
            kind: std::marker::PhantomData,
        }
    }
}

/// Messages of one kind, as they are published.
pub(crate) struct Feed<M> {
    subscriber: async_nats::Subscriber,
    kind: std::marker::PhantomData<M>,
}

impl<M: Message + Default> Feed<M> {
    /// The next message; panics when none comes.
    #[track_caller]
    pub(crate) fn next(&mut self) -> impl Future<Output = M> {
        self.next_within(PATIENCE)
    }

    /// The next message, at most after `limit`.
    pub(crate) async fn next_within(&mut self, limit: Duration) -> M {
        let message = tokio::time::timeout(limit, self.subscriber.next()).await;
        let message = message
            .unwrap_or_else(|_| panic!("no message within {limit:?}"))
            .unwrap();
        M::decode(message.payload).unwrap()
    }

    /// Whether a message came within `limit`.
    pub(crate) async fn quiet_for(&mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.subscriber.next()).await.is_err()
    }
}

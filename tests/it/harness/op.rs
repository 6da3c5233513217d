//! A client of the op stream: what a control plane does with one streamed operation.

use std::time::Duration;

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;
use boxd::wire::proto::op_start::Op as StartOp;
use boxd::wire::proto::{
    AgentError, ExecRequest, FsReadRequest, OpAck, OpAttach, OpCancel, OpExit, OpFrame, OpQuery, OpStart,
    OpStarted, OpStatus, op_frame,
};
use bytes::Bytes;
use futures_util::StreamExt;
use prost::Message;

use super::{ControlPlane, PATIENCE};

/// One attachment to one op.
pub(crate) struct OpClient {
    control: ControlPlane,
    frames: async_nats::Subscriber,
    pub(crate) id: String,
    pub(crate) generation: u64,
    /// The last frame that came.
    pub(crate) seen: u64,
    /// The payloads of the messages that the frames came in, where a test wants them.
    pub(crate) raw: Option<Vec<Bytes>>,
}

/// Everything that an op said.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) content: Vec<u8>,
    pub(crate) progress: usize,
    pub(crate) exit: Option<OpExit>,
}

impl OpClient {
    /// Listens for the frames of `id`, then starts it.
    pub(crate) async fn start(control: &ControlPlane, id: &str, start: OpStart) -> (OpStarted, Self) {
        let client = Self::listen(control, id, 1).await;
        let started = self::start(control, id, start).await;
        (started.unwrap_or_else(|error| panic!("{error:?}")), client)
    }

    /// Listens for the frames of an op that was started by somebody.
    pub(crate) async fn listen(control: &ControlPlane, id: &str, generation: u64) -> Self {
        let frames = control
            .client()
            .subscribe(control.subject(&format!("op.{id}")))
            .await
            .unwrap();
        control.client().flush().await.unwrap();
        Self {
            control: control.clone(),
            frames,
            id: id.to_owned(),
            generation,
            seen: 0,
            raw: None,
        }
    }

    /// Attaches behind the frame `from`, as the next generation.
    pub(crate) async fn attach(&mut self, from: u64, window_bytes: u64) -> OpStatus {
        status(self.try_attach(from, window_bytes).await.unwrap())
    }

    /// Attaches behind the frame `from`, as the next generation; the error says what is gone.
    pub(crate) async fn try_attach(
        &mut self,
        from: u64,
        window_bytes: u64,
    ) -> Result<Option<Outcome>, AgentError> {
        self.generation += 1;
        self.seen = from;
        self.attach_again(from, window_bytes).await
    }

    /// Says the attach of this generation, again or for the first time.
    pub(crate) async fn attach_again(
        &self,
        from: u64,
        window_bytes: u64,
    ) -> Result<Option<Outcome>, AgentError> {
        let attach = OpAttach {
            op_id: self.id.clone(),
            from_seq: from,
            attach_generation: self.generation,
            window_bytes,
        };
        let answer = self.control.ask(Op::OpAttach(attach)).await;
        answer.error.map_or(Ok(answer.result), Err)
    }

    /// Asks for the state.
    pub(crate) async fn query(&self) -> OpStatus {
        query(&self.control, &self.id).await
    }

    /// Cancels.
    pub(crate) async fn cancel(&self) -> OpStatus {
        cancel(&self.control, &self.id).await
    }

    /// Acknowledges.
    pub(crate) async fn ack(&self, acked_seq: u64, credit_bytes: u64, is_final: bool) {
        let ack = OpAck {
            op_id: self.id.clone(),
            acked_seq,
            credit_bytes,
            r#final: is_final,
            attach_generation: self.generation,
        };
        let subject = self.control.subject("ack");
        let payload = ack.encode_to_vec().into();
        self.control.client().publish(subject, payload).await.unwrap();
    }

    /// The next frame; panics when none comes.
    pub(crate) async fn next(&mut self) -> OpFrame {
        self.next_within(PATIENCE)
            .await
            .unwrap_or_else(|| panic!("no frame behind {}", self.seen))
    }

    /// The next frame, if one comes in time. Frames of an earlier attachment that are still on their way are passed over.
    pub(crate) async fn next_within(&mut self, limit: Duration) -> Option<OpFrame> {
        loop {
            let message = tokio::time::timeout(limit, self.frames.next()).await.ok()??;
            let frame = OpFrame::decode(message.payload.clone()).unwrap();
            assert_eq!(frame.op_id, self.id);
            if frame.seq <= self.seen {
                continue;
            }
            assert_eq!(frame.seq, self.seen + 1, "no gap and no doubling");
            self.seen = frame.seq;
            self.raw
                .iter_mut()
                .for_each(|raw| raw.push(message.payload.clone()));
            return Some(frame);
        }
    }

    /// Whether no further frame comes for so long.
    pub(crate) async fn quiet_for(&mut self, limit: Duration) -> bool {
        self.next_within(limit).await.is_none()
    }

    /// Everything up to the exit, acknowledging every frame; then the final acknowledgement.
    pub(crate) async fn finish(&mut self) -> Said {
        let mut said = Said::default();
        while said.exit.is_none() {
            let frame = self.next().await;
            said.take(frame);
            self.ack(self.seen, 0, said.exit.is_some()).await;
        }
        said
    }
}

impl Said {
    /// Adds what a frame says.
    pub(crate) fn take(&mut self, frame: OpFrame) {
        match frame.body.unwrap() {
            op_frame::Body::Data(data) => match data.channel {
                1 => self.stdout.extend_from_slice(&data.bytes),
                2 => self.stderr.extend_from_slice(&data.bytes),
                3 => self.content.extend_from_slice(&data.bytes),
                other => panic!("channel {other}"),
            },
            op_frame::Body::Progress(_) => self.progress += 1,
            op_frame::Body::Exit(exit) => self.exit = Some(exit),
        }
    }
}

/// The start of a shell command.
pub(crate) fn shell(line: &str) -> OpStart {
    OpStart {
        op: Some(StartOp::Exec(ExecRequest {
            command: vec!["sh".to_owned(), "-c".to_owned(), line.to_owned()],
            ..ExecRequest::default()
        })),
        ..OpStart::default()
    }
}

/// The start of a read of a range; length 0 reads to the end.
pub(crate) fn read(path: &str, offset: u64, length: u64) -> OpStart {
    OpStart {
        op: Some(StartOp::FsRead(FsReadRequest {
            path: path.to_owned(),
            offset,
            length,
        })),
        ..OpStart::default()
    }
}

/// Starts an op without listening for its frames.
pub(crate) async fn start(control: &ControlPlane, id: &str, start: OpStart) -> Result<OpStarted, AgentError> {
    let answer = control.ask_as(id, 0, Op::OpStart(start)).await;
    match (answer.result, answer.error) {
        (Some(Outcome::OpStart(started)), None) => Ok(started),
        (None, Some(error)) => Err(error),
        other => panic!("neither an answer nor an error: {other:?}"),
    }
}

/// Asks for the state of an op.
pub(crate) async fn query(control: &ControlPlane, id: &str) -> OpStatus {
    let query = OpQuery { op_id: id.to_owned() };
    status(control.ask(Op::OpQuery(query)).await.result)
}

/// Cancels an op.
pub(crate) async fn cancel(control: &ControlPlane, id: &str) -> OpStatus {
    let cancel = OpCancel { op_id: id.to_owned() };
    status(control.ask(Op::OpCancel(cancel)).await.result)
}

/// The status in an answer.
#[track_caller]
pub(crate) fn status(result: Option<Outcome>) -> OpStatus {
    match result {
        Some(Outcome::OpStatus(status)) => status,
        other => panic!("{other:?}"),
    }
}

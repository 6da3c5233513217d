//! A client of the op stream: what a control plane does with one streamed operation.

use std::time::Duration;

use boxd::wire::proto::control_request::Op;
use boxd::wire::proto::control_response::Result as Outcome;
use boxd::wire::proto::{OpAck, OpAttach, OpExit, OpFrame, OpStart, OpStarted, OpStatus, op_frame};
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
        let answer = control.ask_as(id, 0, Op::OpStart(start)).await;
        match answer.result {
            Some(Outcome::OpStart(started)) => (started, client),
            other => panic!("{other:?} {:?}", answer.error),
        }
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
        }
    }

    /// Attaches behind the frame `from`, as the next generation.
    pub(crate) async fn attach(&mut self, from: u64, window_bytes: u64) -> OpStatus {
        self.generation += 1;
        self.seen = from;
        let attach = OpAttach {
            op_id: self.id.clone(),
            from_seq: from,
            attach_generation: self.generation,
            window_bytes,
        };
        status(self.control.ask(Op::OpAttach(attach)).await.result)
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
            let frame = OpFrame::decode(message.payload).unwrap();
            assert_eq!(frame.op_id, self.id);
            if frame.seq <= self.seen {
                continue;
            }
            assert_eq!(frame.seq, self.seen + 1, "no gap and no doubling");
            self.seen = frame.seq;
            return Some(frame);
        }
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

/// The status in an answer.
#[track_caller]
pub(crate) fn status(result: Option<Outcome>) -> OpStatus {
    match result {
        Some(Outcome::OpStatus(status)) => status,
        other => panic!("{other:?}"),
    }
}

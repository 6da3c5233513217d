//! The pump of one attachment: takes records from the log of its op and publishes them as frames, as far as credit lets
//! it, over the connection that the client attached on. It ends with that connection, or when another one took over.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use tokio::time::Instant;

use super::generation::Generation;
use super::op::Op;
use super::outbound::Gone;
use crate::exec::Output;
use crate::stream::{Cursor, Frame, Item, Lease, Offer, Record};
use crate::wire::opstream::{self, Failure};

/// A running op that says nothing for so long gives a sign of life.
const QUIET: Duration = Duration::from_secs(5);
/// Bytes of records that are taken from the log at once.
const BATCH: u64 = 512 << 10;

/// Publishes until the attachment of `lease` is over.
pub(super) async fn publish(generation: Arc<Generation>, op: Arc<Op>, lease: Lease) {
    // A client may attach while its op is being started.
    let has_started = tokio::select! {
        has_started = op.has_started() => has_started,
        () = generation.ended() => false,
    };
    let Some(running) = op.running().filter(|_| has_started) else {
        return op.give_back(lease);
    };
    let Some(subject) = generation.op_subject(op.family, &op.id) else {
        tracing::warn!(
            op = op.id,
            "frames have no subject: this family is not served any more"
        );
        return op.give_back(lease);
    };
    let pump = Pump {
        generation: &generation,
        op: &op,
        output: &running.output,
        subject,
        lease: &lease,
    };
    let ended = generation.ended();
    tokio::select! {
        _over = pump.run() => {}
        () = ended => {}
    }
    op.give_back(lease);
}

struct Pump<'a> {
    generation: &'a Generation,
    op: &'a Op,
    output: &'a Output,
    subject: Subject,
    lease: &'a Lease,
}

impl Pump<'_> {
    async fn run(&self) -> Result<(), Gone> {
        let mut said = Instant::now();
        loop {
            let mut news = std::pin::pin!(self.op.news());
            news.as_mut().enable();
            if !self.op.stands(self.lease) {
                return Ok(());
            }
            let next = self.op.next_seq();
            if self.op.exit().is_some_and(|exit| next >= exit.seq) {
                return self.say_exit(next).await;
            }
            // At the end the exit comes after the log was sealed, and is waited for.
            let is_over = self.output.is_sealed() && next >= self.output.next_seq();
            let mut cursor = Cursor::after(next - 1);
            tokio::select! {
                items = self.output.next(&mut cursor, BATCH), if !is_over => match items {
                    Ok(items) => {
                        self.publish_all(items).await?;
                        said = Instant::now();
                    }
                    Err(error) => {
                        self.op.fail(Failure::spool(error.to_string()));
                        return Ok(());
                    }
                },
                () = news => {}
                () = self.output.full(), if !is_over => self.op.drop_sent(),
                () = tokio::time::sleep_until(said + QUIET), if !is_over => {
                    self.output.mark();
                    said = Instant::now();
                }
            }
        }
    }

    async fn publish_all(&self, items: Vec<Item>) -> Result<(), Gone> {
        for item in items {
            let Item::Record(record) = item else {
                // The log let go of what was not sent: the delivery decides, so this is a bug.
                self.op.fail(Failure::overflow(self.output.retained()));
                return Ok(());
            };
            if !self.publish_record(record).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Publishes a record once credit lets it; false when the attachment is over.
    async fn publish_record(&self, record: Record) -> Result<bool, Gone> {
        let frame = Frame {
            seq: record.seq,
            payload: record.bytes.len() as u64,
            exit: false,
        };
        if !self.may_go(frame).await {
            return Ok(false);
        }
        self.send(opstream::frame(&self.op.id, record).into()).await?;
        Ok(true)
    }

    async fn may_go(&self, frame: Frame) -> bool {
        loop {
            let mut news = std::pin::pin!(self.op.news());
            news.as_mut().enable();
            match self.op.offer(self.lease, frame) {
                Offer::Publish => return true,
                Offer::LetGo => return false,
                Offer::Refused => {
                    // The log and the delivery disagree: a bug, and no frame to go on with.
                    self.op
                        .fail(Failure::pipe(format!("frame {} is out of turn", frame.seq)));
                    return false;
                }
                Offer::AwaitCredit | Offer::AwaitLease => news.await,
            }
        }
    }

    async fn say_exit(&self, next: u64) -> Result<(), Gone> {
        let Some(exit) = self.op.exit().filter(|exit| next == exit.seq) else {
            return self.until_let_go().await;
        };
        let frame = Frame {
            seq: exit.seq,
            payload: 0,
            exit: true,
        };
        if self.may_go(frame).await {
            let payload = opstream::exit_frame(&self.op.id, exit.seq, exit.message.clone());
            self.send(payload.into()).await?;
            self.op.exit_was_sent();
        }
        self.until_let_go().await
    }

    /// Everything was sent: the attachment stands until the client has it all or attaches anew.
    async fn until_let_go(&self) -> Result<(), Gone> {
        loop {
            let mut news = std::pin::pin!(self.op.news());
            news.as_mut().enable();
            if !self.op.stands(self.lease) {
                return Ok(());
            }
            news.await;
        }
    }

    async fn send(&self, payload: Bytes) -> Result<(), Gone> {
        self.generation.publish_frame(self.subject.clone(), payload).await
    }
}

//! The producer's side of a body: records, until the last or until the reader is to stop.

use core::time::Duration;
use std::rc::Rc;

use zipline_core::object::LeaseId;
use zipline_core::pull::{Planned, RecordChain, RecordHead, RecordPlan, Span};

use super::Proxy;
use super::ledger::{ReaderWatch, Stored};
use crate::content::Chunk;
use crate::net::{Broken, End, Matter};
use crate::wait::{First, race, timeout_at};

/// A reader of an object that is still being written hears from it at least this often.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// One body on its way.
pub(super) struct Sender<'a> {
    pub(super) proxy: Rc<Proxy>,
    pub(super) end: &'a End,
    pub(super) stored: Rc<Stored>,
    pub(super) lease: LeaseId,
    pub(super) chain: RecordChain,
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// With its last record: the connection can carry another answer.
    Whole,
    /// With an aborted record, or cut.
    Stopped,
}

enum Next {
    Record { chunk: Chunk, last: bool },
    Ended,
}

impl Sender<'_> {
    pub(super) async fn send(mut self, span: Span, watch: &mut ReaderWatch) -> Sent {
        let mut plan = RecordPlan::new(span);
        loop {
            let next = match race(watch.cut(), self.next(&mut plan)).await {
                First::Left(()) => Next::Ended,
                First::Right(Ok(next)) => next,
                First::Right(Err(Broken)) => return Sent::Stopped,
            };
            let Next::Record { chunk, last } = next else {
                let aborted = self.chain.seal(&RecordHead::aborted(self.stored.kind));
                self.end.try_send(Matter::Record(aborted));
                return Sent::Stopped;
            };
            match race(watch.cut(), self.record(chunk, last)).await {
                First::Right(Ok(())) if last => return Sent::Whole,
                First::Right(Ok(())) => {}
                First::Left(()) | First::Right(Err(Broken)) => return Sent::Stopped,
            }
        }
    }

    /// The next record, once it may be sent; heartbeats while it may not.
    async fn next(&mut self, plan: &mut RecordPlan) -> Result<Next, Broken> {
        let world = Rc::clone(&self.proxy.world);
        loop {
            let Some(written) = self.stored.written() else { return Ok(Next::Ended) };
            match plan.next(written) {
                Planned::Record { offset, length, last, .. } => {
                    let (id, lease, end) = (self.stored.id, self.lease, offset + u64::from(length));
                    world.check.books(self.proxy.process, |books| books.sends(id, lease, end));
                    return Ok(Next::Record { chunk: Chunk::new(self.stored.content, offset, length), last });
                }
                Planned::Wait { .. } => {
                    let beat = HEARTBEAT.min(world.settings().limits.lease / 3);
                    let changed =
                        self.stored.bell().until(&world.exec, || (self.stored.written() != Some(written)).then_some(()));
                    if timeout_at(&world.exec, world.now() + beat, changed).await.is_ok() {
                        continue;
                    }
                    let heartbeat = self.chain.seal(&RecordHead::heartbeat(self.stored.kind));
                    self.end.send(Matter::Record(heartbeat)).await?;
                    self.progressed();
                }
                Planned::Done => return Ok(Next::Ended), // `send` has returned after the last record.
            }
        }
    }

    async fn record(&mut self, chunk: Chunk, last: bool) -> Result<(), Broken> {
        let head = RecordHead::bytes(chunk.length, last, self.stored.kind, chunk.sum(self.stored.kind));
        let wire = self.chain.seal(&head);
        self.end.send(Matter::Record(wire)).await?;
        self.end.send_bytes(chunk, || self.progressed()).await?;
        self.progressed();
        Ok(())
    }

    fn progressed(&self) {
        self.proxy.progress(self.stored.id, self.lease);
    }
}

//! Room for what a proxy receives for its own function: as large there as it was at the producer.

use super::holdings::{Effect, Holdings};
use super::room::{Admission, NoRoom, Wish};
use super::{Now, Refusal};

/// Names one payload being received; a number that the driver counts up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiveId(pub u64);

impl<P> Holdings<P> {
    /// Takes room for a payload of `bytes` (or its first part), or waits for it; [`Holdings::received`] gives it back.
    ///
    /// One that can never fit is refused at once, before a byte of it moves.
    pub fn receive(&mut self, id: ReceiveId, bytes: u64, now: Now) -> Result<Admission, Refusal> {
        if self.received.contains_key(&id) || self.receiving.is_waiting(id) {
            return Err(Refusal::IdTaken);
        }
        let admission = self.enter_receiving(id, bytes, Wish { bytes, places: 1 }, now)?;
        if admission == Admission::Admitted {
            self.received.insert(id, bytes);
        }
        Ok(admission)
    }

    /// Takes more room, for a payload of `bytes` in all, or waits for it.
    pub fn receive_more(&mut self, id: ReceiveId, bytes: u64, now: Now) -> Result<Admission, Refusal> {
        let Some(has) = self.received.get(&id).copied() else { return Err(Refusal::IdTaken) };
        let more = bytes.saturating_sub(has);
        if more == 0 {
            return Ok(Admission::Admitted);
        }
        if self.receiving.is_waiting(id) {
            return Ok(Admission::Waiting);
        }
        let admission = self.enter_receiving(id, bytes, Wish { bytes: more, places: 0 }, now)?;
        if admission == Admission::Admitted {
            self.received.insert(id, has + more);
        }
        Ok(admission)
    }

    /// Gives the room back, and a place in the queue: the function has the payload, or does not want it any more.
    pub fn received(&mut self, id: ReceiveId) {
        self.receiving.withdraw(id);
        if let Some(bytes) = self.received.remove(&id) {
            self.receiving.leave(if mutant!("budget-kept-on-receive") { 0 } else { bytes }, 1);
        }
        self.admit_receiving();
    }

    pub(super) fn admit_receiving(&mut self) {
        while let Some((id, wish)) = self.receiving.next_admitted() {
            *self.received.entry(id).or_insert(0) += wish.bytes;
            self.effects.push_back(Effect::ReceiveAdmitted(id));
        }
    }

    pub(super) fn receiving_full(&self) -> Refusal {
        Refusal::Full {
            bytes: self.receiving.bytes(),
            bytes_max: self.receiving.limits().bytes_max,
            objects: self.receiving.places(),
            objects_max: self.receiving.limits().places_max,
            waiters: self.receiving.waiters(),
            next_expiry: None,
        }
    }

    fn enter_receiving(&mut self, id: ReceiveId, total: u64, wish: Wish, now: Now) -> Result<Admission, Refusal> {
        let bytes_max = self.receiving.limits().bytes_max;
        if total > bytes_max {
            return Err(Refusal::TooLarge { bytes: total, bytes_max });
        }
        self.receiving.enter(id, wish, now.mono).map_err(|refusal| match refusal {
            NoRoom::TooLarge => Refusal::TooLarge { bytes: total, bytes_max },
            NoRoom::Full => self.receiving_full(),
        })
    }
}

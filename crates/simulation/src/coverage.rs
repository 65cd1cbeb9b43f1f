//! Which transitions schedules went through: a simulation that never gets there proves nothing about it.

use std::cell::RefCell;

macro_rules! transitions {
    ($($variant:ident $name:literal;)*) => {
        /// A transition that schedules should go through.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Transition { $($variant,)* }

        /// The names of all transitions, in order.
        pub const TRANSITIONS: &[&str] = &[$($name,)*];

        const COUNT: usize = TRANSITIONS.len();
    };
}

transitions! {
    PutAdmitted "put: admitted at once";
    PutWaited "put: waited and admitted";
    PutRefusedFull "put: refused, buffer full at once";
    PutWaitOver "put: refused after its wait";
    PutTooLarge "put: larger than the buffer";
    PutDraining "put: refused by a drain";
    PutCancelled "put: given up while waiting";
    PutSentAway "put: sent away by a drain while waiting";
    GrowAdmitted "grow: admitted at once";
    GrowWaited "grow: waited and admitted";
    GrowRefused "grow: refused";
    GrowEnded "grow: the object ended while its writer waited";
    ReceiveAdmitted "receive: admitted at once";
    ReceiveWaited "receive: waited and admitted";
    ReceiveRefused "receive: refused";
    ObjectAvailable "object: writing to available";
    ObjectRetrieved "object: ended by its last retrieval";
    ObjectRetrievedWhileWritten "object: ended by its last retrieval while being written";
    ObjectReleased "object: freed";
    ObjectReleasedWhileWritten "object: freed while being written";
    ObjectExpired "object: expired by the timer";
    ObjectExpiredWhileWritten "object: expired while being written";
    ObjectAborted "object: aborted";
    LingeringLeft "object: the last reader that mapped an ended one left";
    LeaseGranted "lease: granted";
    LeaseResumed "lease: resumed";
    LeaseRegranted "lease: granted again, as a new attempt";
    LeaseHandover "lease: granted by hand-over";
    LeaseReleased "lease: given back";
    LeaseLapsed "lease: lapsed";
    LeaseCutByEnd "lease: cut by the object's end";
    LeaseCutBySlot "lease: cut by another reader of its slot";
    LeaseRenewed "lease: renewed while the function works";
    AckCounted "acknowledgement: counted";
    AckAfterLapse "acknowledgement: counted after its lease had lapsed";
    AckRepeated "acknowledgement: repeated while the object lives";
    AckRepeatedAfterEnd "acknowledgement: repeated after the object's end";
    AckNotCounted "acknowledgement: not counted";
    ReadEnded "read refused: the object ended";
    ReadUnknown "read refused: the object is not known";
    ReadAttempts "read refused: no attempts left";
    ReadSlot "read refused: the slot was retrieved";
    ReadAcknowledged "read refused: the lease was acknowledged";
    ReadRange "read refused: the range is not there";
    ReadGone "read refused: another instance answers";
    ReadConnections "read: the pull port had no connection left";
    ReferenceInvalid "reference: changed, and found out";
    ReferenceExpired "reference: expired";
    ReferenceUnknownKey "reference: sealed with a key that is not here yet";
    ReferenceReceiver "reference: for another service";
    ReferenceForbidden "reference: to an address that is not dialled";
    ReferenceNarrowed "reference: narrowed";
    NarrowRefused "reference: narrowing refused";
    KeyRotated "keys: a process got a new ring";
    RequestReplayed "pull: a replay was found out";
    RequestForged "pull: a changed request was found out";
    RequestSkewed "pull: refused for the distance of the clocks";
    AnswerForged "pull: a changed answer was found out";
    RecordForged "pull: a changed record head was found out";
    BlockCorrupt "pull: a changed block was found out";
    BlockAskedAgain "pull: a block was asked for once more";
    ReadResumed "pull: went on over a new connection";
    ReadResumedMidObject "pull: went on behind the first byte";
    ReadResumesOver "pull: broke more often than it may";
    ReadIdle "pull: no byte for too long";
    ReadHeartbeat "pull: a heartbeat";
    ReadAborted "pull: the body was flagged aborted";
    ReadEmptyLast "pull: an empty last record";
    ReadCutThrough "pull: of an object that is being written";
    ReadPart "pull: of a part";
    ReadOwn "read: of the proxy's own object";
    ReadHandover "read: of a descriptor";
    ReadWhole "read: whole";
    Unreachable "pull: the producer could not be reached";
    BreakerRun "breaker: runs at once";
    BreakerWait "breaker: waits";
    BreakerLetIn "breaker: let in";
    BreakerFull "breaker: refused";
    BreakerAbandoned "breaker: gave up waiting";
    BreakerTooLate "breaker: let in while giving up";
    ActivatorRouted "activator: an instance had room";
    ActivatorWait "activator: waits";
    ActivatorLetIn "activator: let in";
    ActivatorAbandoned "activator: gave up waiting";
    ActivatorDirect "activator: out of the path";
    ScaledOut "autoscaler: more instances";
    ScaledIn "autoscaler: fewer instances";
    ScaledToZero "autoscaler: to zero";
    ScaledFromZero "autoscaler: from zero";
    Panicked "autoscaler: panic";
    Poked "autoscaler: asked ahead of its tick";
    HeldIdle "hold: an idle instance reported its objects";
    ScrapeTooFew "autoscaler: too few answers";
    DrainQuiet "drain: quiet";
    DrainAnnounced "drain: announced";
    DrainCalledOff "drain: called off";
    DrainFinishing "drain: requests end";
    DrainHolding "drain: only objects are left";
    DrainClean "drain: ended, nothing left";
    DrainGraceOver "drain: ended by its grace limit";
    DrainLeftObjects "drain: ended with objects, counted";
    DrainServedRead "drain: a read was granted meanwhile";
    CallAnswered "call: answered";
    CallNamedError "call: ended with a named error";
    CallBroken "call: its connection broke";
    CallTimeout "call: timed out";
    CallCancelled "call: given up by its caller";
    CallRetried "call: sent again by its client";
    AnswerByReference "call: answered by reference";
    BodyCut "call: a body was cut before its end, and not taken for whole";
    LeaseGivenBackBy500 "call: answered 5xx, the lease given back";
    EarlyAccepted "call: answered before its body was read";
}

/// How often each transition was gone through.
#[derive(Clone, Debug)]
pub struct Coverage(Box<[u64]>);

impl Default for Coverage {
    fn default() -> Self {
        Self(vec![0; COUNT].into())
    }
}

impl Coverage {
    /// Adds another schedule's.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(&other.0) {
            *sum += more;
        }
    }

    /// Every transition with its count.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        TRANSITIONS.iter().copied().zip(self.0.iter().copied())
    }

    /// Transitions that were gone through.
    pub fn covered(&self) -> usize {
        self.0.iter().filter(|count| **count > 0).count()
    }
}

/// Counts while a schedule runs.
#[derive(Default)]
pub(crate) struct Counter(RefCell<Coverage>);

impl Counter {
    pub(crate) fn hit(&self, transition: Transition) {
        self.0.borrow_mut().0[transition as usize] += 1;
    }

    pub(crate) fn coverage(&self) -> Coverage {
        self.0.borrow().clone()
    }
}

//! The table of points.

/// Which process passes a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The queue-proxy that holds the object.
    Producer,
    /// The queue-proxy that reads it.
    Consumer,
    /// The local platform.
    Platform,
}

/// One step.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Its name: what is going on, and how far it has come.
    pub name: &'static str,
    /// Who passes it.
    pub part: Part,
    /// When.
    pub when: &'static str,
}

macro_rules! points {
    ($($part:ident $name:literal $when:literal;)*) => {
        /// Every point, in the order in which a payload meets them.
        pub const POINTS: &[Point] = &[$(Point { name: $name, part: Part::$part, when: $when },)*];
    };
}

points! {
    Producer "put.begun" "room was taken, no byte was written";
    Producer "put.body" "bytes came and are about to be written";
    Producer "put.sealed" "the payload is sealed, the object not yet available";
    Producer "put.held" "the object is available, its writer was not told";
    Producer "put.admitted" "a descriptor from the function was admitted";
    Producer "put.answering" "the answer with the reference is about to be sent";
    Producer "call.sent" "the request with the reference is about to travel";
    Producer "call.answered" "the head of the callee's answer came, the object was not freed";
    Consumer "resolve.opened" "the reference was opened, nobody was asked";
    Consumer "pull.connecting" "a connection to the producer is about to be taken or made";
    Consumer "pull.asking" "the request is about to be sent";
    Consumer "pull.head" "the answer's head was verified, nobody was told";
    Consumer "pull.block" "a block was verified and is about to be delivered";
    Consumer "pull.last" "the last block was verified";
    Consumer "pull.again" "the connection broke and the read is about to go on";
    Producer "serve.asked" "a request was authenticated";
    Producer "serve.granted" "the lease was granted, nothing was said";
    Producer "serve.record" "a record is about to be sent";
    Producer "serve.whole" "the last record was sent";
    Producer "handover.granted" "the lease was granted, the descriptor is about to be sent";
    Producer "handover.sent" "the descriptor was sent";
    Consumer "handover.asking" "the hand-over socket was connected";
    Consumer "handover.taken" "the descriptor was accepted";
    Consumer "ticket.issued" "the function is about to be sent a ticket";
    Consumer "ticket.redeemed" "the function redeemed its ticket and is about to be sent the descriptor";
    Consumer "deliver.connecting" "the function is about to be connected";
    Consumer "deliver.connected" "the function was connected, nothing was sent";
    Consumer "deliver.body" "bytes are about to be delivered";
    Consumer "deliver.done" "all of the body was written to the function";
    Consumer "answer.head" "the head of the function's answer came, nobody was told";
    Consumer "acknowledge.asking" "the acknowledgement is about to be sent";
    Consumer "acknowledge.answered" "the acknowledgement was answered";
    Producer "acknowledge.came" "an acknowledgement came and does not count yet";
    Producer "acknowledge.counted" "it counts, and was not answered";
    Consumer "release.asking" "a lease is about to be given back";
    Producer "release.came" "a lease came back, or an object was released, and it does not count yet";
    Producer "drain.begun" "a signal came";
    Producer "drain.unheld" "nothing is held any more";
    Producer "drain.over" "the drain is over, the process is about to end";
    Platform "ingress.arrived" "a request came to the front door";
    Platform "activator.placed" "an instance was chosen for a request";
    Platform "activator.answered" "the head of its answer came";
    Platform "instance.starting" "an instance's queue-proxy is about to be started";
    Platform "instance.stopping" "an instance is about to be told to go";
}

/// Whether a point of that name is in the table.
pub const fn is_known(name: &str) -> bool {
    let mut i = 0;
    while i < POINTS.len() {
        if is_equal(POINTS[i].name.as_bytes(), name.as_bytes()) {
            return true;
        }
        i += 1;
    }
    false
}

const fn is_equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_known_by_its_whole_name() {
        assert!(is_known("pull.head") && !is_known("pull.hea") && !is_known("pull.heads") && !is_known(""));
        for (i, point) in POINTS.iter().enumerate() {
            assert!(POINTS[..i].iter().all(|other| other.name != point.name), "{}", point.name);
        }
    }
}

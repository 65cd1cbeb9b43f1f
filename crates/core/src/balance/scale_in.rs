//! Which instance goes first when there are too many.

use core::cmp::Reverse;

use serde::{Deserialize, Serialize};

use crate::time::Monotonic;

/// What is known about an instance that may have to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Since when it has been ready; nothing: it is not.
    pub ready_since: Option<Monotonic>,
    /// Bytes of unread objects that it holds: what its end would cost.
    pub held_bytes: u64,
    /// How often its function was restarted.
    pub restarts: u32,
    /// When it was started.
    pub started: Monotonic,
}

/// The instances' indices, in the order in which they should go.
///
/// The order is a ReplicaSet's: not ready before ready, cheap before dear, recently ready before long ready, often before
/// seldom restarted, young before old; whoever is equal in all stays in the given order. A ReplicaSet also prefers crowded
/// nodes: here there is one node.
pub fn scale_in_order(candidates: &[Candidate]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|i| {
        let candidate = &candidates[*i];
        (
            candidate.ready_since.is_some(),
            candidate.held_bytes,
            Reverse(candidate.ready_since),
            Reverse(candidate.restarts),
            Reverse(candidate.started),
        )
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Candidate =
        Candidate { ready_since: Some(Monotonic::from_secs(50)), held_bytes: 0, restarts: 0, started: Monotonic::from_secs(40) };

    #[test]
    fn each_criterion_counts_only_when_those_before_it_are_equal() {
        let dear_and_not_ready = Candidate { ready_since: None, held_bytes: 1 << 30, ..BASE };
        let dear = Candidate { held_bytes: 1, ready_since: Some(Monotonic::from_secs(99)), restarts: 9, ..BASE };
        let recently_ready = Candidate { ready_since: Some(Monotonic::from_secs(60)), ..BASE };
        let restarted = Candidate { restarts: 2, ..BASE };
        let young = Candidate { started: Monotonic::from_secs(45), ..BASE };
        let order = scale_in_order(&[dear, BASE, young, restarted, recently_ready, dear_and_not_ready]);
        assert_eq!(order, [5, 4, 3, 2, 1, 0]);
    }

    #[test]
    fn equals_stay_in_order() {
        assert_eq!(scale_in_order(&[BASE; 3]), [0, 1, 2]);
        assert!(scale_in_order(&[]).is_empty());
    }
}

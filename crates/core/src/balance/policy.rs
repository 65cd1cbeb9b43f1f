//! How an activator chooses among instances.

/// What an instance has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Requests that this activator has sent there and that have not ended.
    pub in_flight: u32,
    /// How many it may have at once; nothing: any number.
    pub in_flight_max: Option<u32>,
}

impl Load {
    /// Whether another request may be sent there.
    pub fn has_room(self) -> bool {
        self.in_flight_max.is_none_or(|max| self.in_flight < max)
    }
}

/// A way to choose, with what it must remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The less loaded of two drawn at random; a tie is drawn too. For revisions without a concurrency limit.
    TwoChoices,
    /// The first with room. For a limit up to 3, where filling instances one by one keeps the others free of queues.
    FirstAvailable,
    /// The next with room after the one that was chosen last.
    RoundRobin {
        /// Where to begin looking.
        next: usize,
    },
}

/// The highest concurrency limit under which instances are filled one by one.
const FIRST_AVAILABLE_CONCURRENCY_MAX: u32 = 3;

impl Policy {
    /// The policy for revisions whose instances run `container_concurrency` requests at once; 0: no limit.
    pub fn for_concurrency(container_concurrency: u32) -> Self {
        match container_concurrency {
            0 => Self::TwoChoices,
            1..=FIRST_AVAILABLE_CONCURRENCY_MAX => Self::FirstAvailable,
            _ => Self::RoundRobin { next: 0 },
        }
    }

    /// The index of the instance to send a request to; nothing when none has room.
    ///
    /// `below(n)` answers a random number below `n`, evenly spread; only [`Policy::TwoChoices`] asks.
    pub fn choose(&mut self, loads: &[Load], below: &mut dyn FnMut(usize) -> usize) -> Option<usize> {
        match self {
            Self::TwoChoices => two_choices(loads, below),
            Self::FirstAvailable => loads.iter().position(|load| load.has_room()),
            Self::RoundRobin { next } => {
                // Instances may have gone since; then the round begins anew.
                let start = if *next >= loads.len() { 0 } else { *next };
                let chosen = (start..loads.len()).chain(0..start).find(|i| loads[*i].has_room())?;
                *next = chosen + 1;
                Some(chosen)
            }
        }
    }
}

fn two_choices(loads: &[Load], below: &mut dyn FnMut(usize) -> usize) -> Option<usize> {
    let roomy: Vec<usize> = (0..loads.len()).filter(|i| loads[*i].has_room()).collect();
    let mut draw = |n: usize| below(n).min(n - 1);
    let (first, second) = match roomy.len() {
        0 => return None,
        1 => return Some(roomy[0]),
        2 => (0, 1),
        n => {
            let first = draw(n);
            // Drawn from the others: those from `first` on move up by one.
            let second = draw(n - 1);
            (first, if second >= first { second + 1 } else { second })
        }
    };
    let (first, second) = (roomy[first], roomy[second]);
    Some(match loads[first].in_flight.cmp(&loads[second].in_flight) {
        core::cmp::Ordering::Less => first,
        core::cmp::Ordering::Greater => second,
        core::cmp::Ordering::Equal if draw(2) == 0 => second,
        core::cmp::Ordering::Equal => first,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads<const N: usize>(in_flight: [u32; N], max: Option<u32>) -> [Load; N] {
        in_flight.map(|in_flight| Load { in_flight, in_flight_max: max })
    }

    #[test]
    fn the_policy_follows_the_concurrency_limit() {
        let policies = [0, 1, 3, 4, 1_000].map(Policy::for_concurrency);
        let round_robin = Policy::RoundRobin { next: 0 };
        assert_eq!(policies, [Policy::TwoChoices, Policy::FirstAvailable, Policy::FirstAvailable, round_robin, round_robin]);
    }

    #[test]
    fn of_two_drawn_the_less_loaded_is_chosen_and_they_are_never_the_same() {
        let loads = loads([5, 1, 9, 1], None);
        // Draws instance 2, then the second of the others (instance 1).
        let mut draws = [2, 1].into_iter();
        let chosen = Policy::TwoChoices.choose(&loads, &mut |_| draws.next().unwrap_or_default());
        assert_eq!(chosen, Some(1));
        // Draws instance 0, then "0", which stands for instance 1.
        assert_eq!(Policy::TwoChoices.choose(&loads, &mut |_| 0), Some(1));
    }

    #[test]
    fn the_first_with_room_is_filled_before_the_next() {
        let mut policy = Policy::FirstAvailable;
        assert_eq!(policy.choose(&loads([2, 1, 0], Some(2)), &mut |_| 0), Some(1));
        assert_eq!(policy.choose(&loads([2, 2], Some(2)), &mut |_| 0), None);
    }

    #[test]
    fn round_robin_goes_on_behind_the_last_choice_and_skips_the_full() {
        let mut policy = Policy::RoundRobin { next: 0 };
        let full_in_the_middle = loads([0, 9, 0], Some(9));
        let mut choices = [0; 4];
        for choice in &mut choices {
            *choice = policy.choose(&full_in_the_middle, &mut |_| 0).unwrap_or(usize::MAX);
        }
        assert_eq!(choices, [0, 2, 0, 2]);
        assert_eq!(policy.choose(&loads([0], Some(9)), &mut |_| 0), Some(0), "after the others went");
        assert_eq!(policy.choose(&[], &mut |_| 0), None);
    }
}

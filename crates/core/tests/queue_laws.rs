//! Laws of queues, balancing and drain that hold for every order of events.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use zipline_core::balance::{Candidate, Load, Policy, Route, Throttler, scale_in_order};
use zipline_core::breaker::{Admission, Breaker, QueueFull, Ticket};
use zipline_core::drain::{Drain, DrainLimits, Effect, Held, Phase};
use zipline_core::time::Monotonic;

#[derive(Clone, Copy, Debug)]
enum QueueEvent {
    Arrive,
    Finish,
    Abandon(prop::sample::Index),
    Resize(usize),
}

fn queue_events() -> impl Strategy<Value = Vec<QueueEvent>> {
    let event = prop_oneof![
        4 => Just(QueueEvent::Arrive),
        3 => Just(QueueEvent::Finish),
        1 => any::<prop::sample::Index>().prop_map(QueueEvent::Abandon),
        1 => (0_usize..6).prop_map(QueueEvent::Resize),
    ];
    prop::collection::vec(event, 1..200)
}

proptest! {
    #[test]
    fn a_breaker_never_exceeds_its_capacity_and_lets_all_in_by_order_of_arrival(
        (capacity, depth) in (1_usize..5, 1_usize..8), events in queue_events(),
    ) {
        let mut breaker = Breaker::new(capacity, depth);
        let mut waiting: VecDeque<Ticket> = VecDeque::new();
        let mut running = 0_usize;
        let let_in = |ticket: Ticket, waiting: &mut VecDeque<Ticket>| {
            prop_assert_eq!(Some(ticket), waiting.pop_front(), "first come, first served");
            Ok(())
        };
        for event in events {
            match event {
                QueueEvent::Arrive => match breaker.arrive() {
                    Ok(Admission::Run) => { running += 1; prop_assert!(running <= breaker.capacity() && waiting.is_empty()); }
                    Ok(Admission::Wait(ticket)) => waiting.push_back(ticket),
                    Err(QueueFull) => prop_assert!(running + waiting.len() >= capacity + depth),
                },
                QueueEvent::Finish if running > 0 => {
                    running -= 1;
                    if let Some(ticket) = breaker.finish() {
                        let_in(ticket, &mut waiting)?;
                        running += 1;
                        prop_assert!(running <= breaker.capacity());
                    }
                }
                QueueEvent::Abandon(which) if !waiting.is_empty() => {
                    let ticket = waiting.remove(which.index(waiting.len()));
                    prop_assert!(ticket.is_some_and(|ticket| breaker.abandon(ticket)));
                }
                QueueEvent::Resize(to) => {
                    for ticket in breaker.set_capacity(to) {
                        let_in(ticket, &mut waiting)?;
                        running += 1;
                        prop_assert!(running <= breaker.capacity());
                    }
                }
                QueueEvent::Finish | QueueEvent::Abandon(_) => {}
            }
            prop_assert_eq!((breaker.running(), breaker.waiting()), (running, waiting.len()));
            prop_assert!(waiting.is_empty() || running >= breaker.capacity(), "nobody waits beside a free place");
        }
        // Nobody is lost: with places given back, everybody who waits gets one.
        breaker.set_capacity(capacity).into_iter().try_for_each(|ticket| let_in(ticket, &mut waiting))?;
        while let Some(ticket) = breaker.finish() {
            let_in(ticket, &mut waiting)?;
        }
        prop_assert!(waiting.is_empty());
    }

    #[test]
    fn a_throttler_never_overfills_an_instance_and_loses_nobody(
        concurrency in 0_u32..6, events in queue_events(), seed: usize,
    ) {
        let mut throttler: Throttler<usize> = Throttler::new(concurrency);
        let (mut waiting, mut assigned) = (VecDeque::new(), Vec::new());
        let mut draws = seed;
        let mut below = move |n: usize| { draws = draws.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1); (draws >> 33) % n };
        for event in events {
            let mut through = Vec::new();
            match event {
                QueueEvent::Arrive => match throttler.arrive(&mut below) {
                    Ok(Route::To(assignment)) => { prop_assert!(waiting.is_empty()); assigned.push(assignment); }
                    Ok(Route::Wait(ticket)) => waiting.push_back(ticket),
                    Err(QueueFull) => return Err(TestCaseError::fail("200 requests cannot fill the queue")),
                },
                QueueEvent::Finish if !assigned.is_empty() => through.extend(throttler.finish(&assigned.swap_remove(0), &mut below)),
                QueueEvent::Abandon(which) if !waiting.is_empty() => {
                    let ticket = waiting.remove(which.index(waiting.len()));
                    prop_assert!(ticket.is_some_and(|ticket| throttler.abandon(ticket)));
                }
                QueueEvent::Resize(to) => through.extend(throttler.set_pods(0..to, &mut below)),
                QueueEvent::Finish | QueueEvent::Abandon(_) => {}
            }
            for (ticket, assignment) in through {
                prop_assert_eq!(Some(ticket), waiting.pop_front(), "first come, first served");
                assigned.push(assignment);
            }
            let loads: Vec<Load> = throttler.pods().map(|(_, load)| load).collect();
            prop_assert!(concurrency == 0 || loads.iter().all(|load| load.in_flight <= concurrency));
            prop_assert!(waiting.is_empty() || !loads.iter().any(|load| load.has_room()), "nobody waits beside a free place");
            prop_assert_eq!(throttler.waiting(), waiting.len());
        }
        for (ticket, _) in throttler.set_pods(0..1_000, &mut below) {
            prop_assert_eq!(Some(ticket), waiting.pop_front());
        }
        prop_assert!(waiting.is_empty(), "with room for all, nobody waits");
    }

    #[test]
    fn a_policy_never_chooses_a_full_instance_and_always_finds_one_with_room(
        loads in prop::collection::vec((0_u32..4, prop::option::of(0_u32..4)), 0..12), next in 0_usize..20, seed: usize,
    ) {
        let loads: Vec<Load> = loads.into_iter().map(|(in_flight, in_flight_max)| Load { in_flight, in_flight_max }).collect();
        for mut policy in [Policy::TwoChoices, Policy::FirstAvailable, Policy::RoundRobin { next }] {
            let chosen = policy.choose(&loads, &mut |n| seed % n);
            prop_assert_eq!(chosen.is_some(), loads.iter().any(|load| load.has_room()));
            prop_assert!(chosen.is_none_or(|i| loads[i].has_room()));
        }
    }

    #[test]
    fn round_robin_gives_each_instance_its_turn(pods in 1_usize..10) {
        let loads = vec![Load { in_flight: 0, in_flight_max: Some(1) }; pods];
        let mut policy = Policy::RoundRobin { next: 0 };
        let mut turns = BTreeMap::new();
        for _ in 0..pods * 3 {
            *turns.entry(policy.choose(&loads, &mut |_| 0)).or_insert(0) += 1;
        }
        prop_assert!(turns.len() == pods && turns.values().all(|turns| *turns == 3));
    }

    #[test]
    fn scale_in_names_every_instance_once_and_spares_what_is_ready_and_dear(
        candidates in prop::collection::vec((prop::option::of(0_u64..5), 0_u64..3, 0_u32..3, 0_u64..5), 0..12),
    ) {
        let candidates: Vec<Candidate> = candidates.into_iter().map(|(ready, held_bytes, restarts, started)| Candidate {
            ready_since: ready.map(Monotonic::from_secs), held_bytes, restarts, started: Monotonic::from_secs(started),
        }).collect();
        let order = scale_in_order(&candidates);
        let mut all = order.clone();
        all.sort_unstable();
        prop_assert_eq!(all, (0..candidates.len()).collect::<Vec<_>>());
        for pair in order.windows(2) {
            let (first, then) = (candidates[pair[0]], candidates[pair[1]]);
            prop_assert!(first.ready_since.is_none() || then.ready_since.is_some());
            prop_assert!(first.ready_since.is_some() != then.ready_since.is_some() || first.held_bytes <= then.held_bytes);
        }
    }

    #[test]
    fn a_drain_goes_forward_exits_once_and_never_outlives_its_grace(
        (quiet, grace) in (0_u64..40, 0_u64..90),
        events in prop::collection::vec((0_u64..3_000, 0_u8..8, 0_u64..4), 1..80),
    ) {
        let mut drain = Drain::new(DrainLimits { quiet: Duration::from_secs(quiet), grace: Duration::from_secs(grace) });
        let (mut now, mut terminated, mut exits) = (Monotonic::from_secs(50), None, Vec::new());
        let (mut requests, mut upgraded) = (0_u32, 0_u32);
        let mut phase = Phase::Serving;
        for (pause, kind, objects) in events {
            now += Duration::from_millis(pause);
            while let Some(timeout) = drain.next_timeout().filter(|timeout| *timeout <= now) {
                drain.handle_timeout(timeout);
                prop_assert!(drain.next_timeout().is_none_or(|next| next > timeout), "a driver would spin");
            }
            match kind {
                0 => drain.handle_wait_for_drain(now),
                1 => { terminated = terminated.or(Some(now)); drain.handle_sigterm(now) }
                2 | 3 if drain.phase() < Phase::Finishing => { requests += 1; drain.handle_request_started(now) }
                4 if requests > 0 => { requests -= 1; drain.handle_request_ended(now) }
                5 if requests > 0 => { requests -= 1; upgraded += 1; drain.handle_upgraded(now) }
                6 if upgraded > 0 => { upgraded -= 1; drain.handle_upgraded_ended(now) }
                _ => drain.handle_held(now, Held { objects, bytes: objects * 10 }),
            }
            prop_assert!(drain.phase() >= phase || phase == Phase::Announced, "{phase:?} then {:?}", drain.phase());
            phase = drain.phase();
            prop_assert_eq!(phase >= Phase::Quiet, terminated.is_some());
            prop_assert_eq!(drain.accepts_puts(), terminated.is_none());
            exits.extend(core::iter::from_fn(|| drain.poll_effect()).filter_map(|effect| match effect {
                Effect::Exit(ending) => Some((now, ending)),
                _ => None,
            }));
        }
        if let Some(terminated) = terminated {
            let limit = terminated + Duration::from_secs(grace);
            while let Some(timeout) = drain.next_timeout() {
                prop_assert!(timeout <= limit);
                drain.handle_timeout(timeout);
            }
            exits.extend(core::iter::from_fn(|| drain.poll_effect()).filter_map(|effect| match effect {
                Effect::Exit(ending) => Some((limit, ending)),
                _ => None,
            }));
            prop_assert_eq!((drain.phase(), exits.len()), (Phase::Ended, 1));
        }
        prop_assert!(exits.iter().all(|(at, ending)| ending.is_clean() || terminated.is_some_and(|t| *at >= t + Duration::from_secs(grace)) || ending.upgraded > 0));
    }
}

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const CLEAN: Effect = Effect::Exit(Ending { requests: 0, upgraded: 0, held: Held { objects: 0, bytes: 0 } });

fn drain() -> Drain {
    Drain::new(DrainLimits { quiet: 30 * SECOND, grace: 300 * SECOND })
}

fn at(secs: u64) -> Monotonic {
    Monotonic::from_secs(1_000 + secs)
}

fn effects(drain: &mut Drain) -> Vec<Effect> {
    core::iter::from_fn(|| drain.poll_effect()).collect()
}

/// Follows the timeouts, as a driver does, up to `now`.
fn wait_until(drain: &mut Drain, now: Monotonic) {
    while let Some(timeout) = drain.next_timeout().filter(|timeout| *timeout <= now) {
        drain.handle_timeout(timeout);
    }
}

#[test]
fn an_idle_instance_fails_probes_at_once_and_ends_after_the_quiet_period() {
    let mut drain = drain();
    assert!(!drain.fails_probes());
    drain.handle_sigterm(at(0));
    assert!(drain.fails_probes() && !drain.accepts_puts());
    wait_until(&mut drain, at(29));
    assert_eq!((drain.phase(), effects(&mut drain)), (Phase::Quiet, vec![]));
    wait_until(&mut drain, at(30));
    assert_eq!(effects(&mut drain), [Effect::ReleaseWaiters, Effect::StopAccepting, CLEAN]);
    assert_eq!((drain.phase(), drain.next_timeout()), (Phase::Ended, None));
}

#[test]
fn each_request_begins_the_quiet_period_anew() {
    let mut drain = drain();
    drain.handle_sigterm(at(0));
    for second in [20, 40, 60] {
        drain.handle_request_started(at(second));
        drain.handle_request_ended(at(second));
    }
    wait_until(&mut drain, at(89));
    assert_eq!(drain.phase(), Phase::Quiet);
    wait_until(&mut drain, at(90));
    assert_eq!(drain.phase(), Phase::Ended);
}

#[test]
fn a_request_that_comes_before_a_late_timer_is_served_to_its_end() {
    let mut drain = drain();
    drain.handle_sigterm(at(0));
    drain.handle_request_started(at(31));
    assert_eq!((drain.phase(), effects(&mut drain)), (Phase::Finishing, vec![Effect::ReleaseWaiters, Effect::StopAccepting]));
    drain.handle_request_ended(at(40));
    assert_eq!(effects(&mut drain), [CLEAN]);
}

#[test]
fn requests_in_flight_are_awaited_beyond_the_quiet_period() {
    let mut drain = drain();
    drain.handle_request_started(at(0));
    drain.handle_sigterm(at(1));
    wait_until(&mut drain, at(100));
    assert_eq!(drain.phase(), Phase::Finishing);
    drain.handle_request_ended(at(101));
    assert_eq!(drain.phase(), Phase::Ended);
}

#[test]
fn the_process_lives_on_while_objects_are_held() {
    let mut drain = drain();
    drain.handle_held(at(0), Held { objects: 2, bytes: 7 });
    drain.handle_sigterm(at(0));
    wait_until(&mut drain, at(100));
    assert_eq!((drain.phase(), effects(&mut drain)), (Phase::Holding, vec![Effect::ReleaseWaiters, Effect::StopAccepting]));
    drain.handle_held(at(120), Held { objects: 1, bytes: 3 });
    assert_eq!(drain.phase(), Phase::Holding);
    drain.handle_held(at(130), Held::default());
    assert_eq!(effects(&mut drain), [CLEAN]);
}

#[test]
fn the_grace_limit_ends_it_and_what_is_left_is_counted() {
    let mut drain = drain();
    let held = Held { objects: 2, bytes: 7 };
    drain.handle_held(at(0), held);
    drain.handle_request_started(at(0));
    drain.handle_request_started(at(0));
    drain.handle_upgraded(at(0));
    drain.handle_sigterm(at(0));
    wait_until(&mut drain, at(299));
    assert_eq!(drain.phase(), Phase::Finishing);
    assert_eq!(drain.guaranteed_for(at(299)), SECOND);
    effects(&mut drain);
    wait_until(&mut drain, at(300));
    let ending = Ending { requests: 1, upgraded: 1, held };
    assert!(!ending.is_clean());
    assert_eq!(effects(&mut drain), [Effect::Exit(ending)]);
}

#[test]
fn a_grace_limit_shorter_than_the_quiet_period_releases_those_who_wait() {
    let mut drain = Drain::new(DrainLimits { quiet: 30 * SECOND, grace: 2 * SECOND });
    drain.handle_wait_for_drain(at(0));
    drain.handle_sigterm(at(0));
    wait_until(&mut drain, at(2));
    assert_eq!(effects(&mut drain), [Effect::ReleaseWaiters, CLEAN]);
}

#[test]
fn upgraded_connections_get_a_minute_of_their_own_and_are_then_cut() {
    let mut drain = drain();
    drain.handle_held(at(0), Held { objects: 1, bytes: 1 });
    drain.handle_request_started(at(0));
    drain.handle_upgraded(at(0));
    drain.handle_sigterm(at(0));
    wait_until(&mut drain, at(30));
    assert_eq!(drain.phase(), Phase::Upgraded);
    effects(&mut drain);
    wait_until(&mut drain, at(90));
    assert_eq!(effects(&mut drain), [Effect::CutUpgraded]);
    drain.handle_upgraded_ended(at(90));
    drain.handle_held(at(91), Held::default());
    assert_eq!(effects(&mut drain), [Effect::Exit(Ending { upgraded: 1, ..Ending::default() })]);
}

#[test]
fn an_announcement_without_a_signal_is_called_off_after_a_second() {
    let mut drain = drain();
    drain.handle_wait_for_drain(at(0));
    assert!(drain.fails_probes() && drain.accepts_puts());
    wait_until(&mut drain, at(1));
    assert_eq!(effects(&mut drain), [Effect::ReleaseWaiters, Effect::CallOff]);
    assert_eq!((drain.phase(), drain.fails_probes(), drain.next_timeout()), (Phase::Serving, false, None));
}

#[test]
fn the_quiet_period_counts_from_the_announcement() {
    let mut drain = drain();
    drain.handle_wait_for_drain(at(0));
    drain.handle_sigterm(Monotonic::from_millis(1_000_900));
    wait_until(&mut drain, at(30));
    assert_eq!(drain.phase(), Phase::Ended);
}

#[test]
fn a_short_quiet_period_may_be_over_before_the_signal_and_stays_over() {
    let mut drain = Drain::new(DrainLimits { quiet: Duration::ZERO, grace: 300 * SECOND });
    drain.handle_wait_for_drain(at(0));
    assert_eq!(effects(&mut drain), [Effect::ReleaseWaiters]);
    drain.handle_request_started(Monotonic::from_millis(1_000_400));
    drain.handle_sigterm(Monotonic::from_millis(1_000_500));
    assert_eq!((drain.phase(), effects(&mut drain)), (Phase::Finishing, vec![Effect::StopAccepting]));
}

#[test]
fn whoever_asks_late_is_answered_at_once_and_a_second_signal_changes_nothing() {
    let mut drain = drain();
    drain.handle_held(at(0), Held { objects: 1, bytes: 1 });
    drain.handle_sigterm(at(0));
    wait_until(&mut drain, at(30));
    effects(&mut drain);
    drain.handle_wait_for_drain(at(31));
    drain.handle_sigterm(at(200));
    assert_eq!(effects(&mut drain), [Effect::ReleaseWaiters]);
    assert_eq!(drain.next_timeout(), Some(at(300)));
}

#[test]
fn before_the_signal_an_object_is_guaranteed_for_the_grace_limit() {
    assert_eq!(drain().guaranteed_for(at(0)), 300 * SECOND);
}

//! Which services are known to have a queue-proxy of ours, so that a reference may travel to them.
//!
//! On the local platform every service has one. In a cluster one is learnt from an answer that said
//! `Zipline-Capable: 1`, remembered for a minute, and forgotten: a revision may be rolled back to the stock proxy.
//! Learning is confined to the own namespace, which is the trust domain there.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;
use zipline_contract::headers;
use zipline_contract::limits::{PEER_KNOWN_MS, PEERS_KNOWN_MAX};

use crate::zipline::service::Service;

/// What is known about services' queue-proxies.
#[derive(Debug)]
pub(crate) enum Peers {
    /// Every service has one of ours.
    All,
    /// Those that said so lately.
    Learnt(Learnt),
}

/// Services of one namespace and when they last said that their proxy is ours.
#[derive(Debug)]
pub(crate) struct Learnt {
    own_namespace: String,
    seen: Mutex<HashMap<String, Instant>>,
}

impl Peers {
    /// Knows nothing yet, and learns about services of a namespace.
    pub(crate) fn learning(own_namespace: &str) -> Self {
        Self::Learnt(Learnt { own_namespace: own_namespace.to_owned(), seen: Mutex::default() })
    }

    /// Whether a reference may travel to this service.
    pub(crate) fn is_ours(&self, service: &Service, now: Instant) -> bool {
        match self {
            Self::All => true,
            Self::Learnt(learnt) => learnt.is_ours(service, now),
        }
    }

    /// Whether this service is told, by `Zipline-Accept`, that a large answer may come by reference; where it is learnt, that
    /// also asks whether its proxy is ours.
    pub(crate) fn asks(&self, service: &Service) -> bool {
        match self {
            Self::All => true,
            Self::Learnt(learnt) => learnt.own_namespace == service.namespace,
        }
    }

    /// Takes in what the head of an answer says.
    pub(crate) fn heard(&self, service: &Service, answer: &HeaderMap, now: Instant) {
        if let Self::Learnt(learnt) = self
            && learnt.own_namespace == service.namespace
        {
            // An answer without it proves nothing: it may come from a gateway or the activator.
            if answer.get(headers::CAPABLE).is_some_and(|value| value == "1") {
                learnt.remember(service, now);
            }
        }
    }
}

impl Learnt {
    fn is_ours(&self, service: &Service, now: Instant) -> bool {
        service.namespace == self.own_namespace
            && self.seen().get(&service.name).is_some_and(|seen| now.saturating_duration_since(*seen) < known())
    }

    fn remember(&self, service: &Service, now: Instant) {
        let mut seen = self.seen();
        if seen.len() >= PEERS_KNOWN_MAX && !seen.contains_key(&service.name) {
            seen.retain(|_, seen| now.saturating_duration_since(*seen) < known());
            if seen.len() >= PEERS_KNOWN_MAX {
                return; // Its calls stay inline until others are forgotten.
            }
        }
        seen.insert(service.name.clone(), now);
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner) // Every state of the map is a valid one.
    }
}

const fn known() -> Duration {
    Duration::from_millis(PEER_KNOWN_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn service(name: &str, namespace: &str) -> Service {
        Service { name: name.into(), namespace: namespace.into() }
    }

    fn capable() -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(headers::CAPABLE), HeaderValue::from_static("1"))])
    }

    #[test]
    fn a_service_is_ours_for_a_minute_after_it_said_so() {
        let (peers, cart, start) = (Peers::learning("shop"), service("cart", "shop"), Instant::now());
        assert!(!peers.is_ours(&cart, start));
        assert!(peers.asks(&cart));
        peers.heard(&cart, &capable(), start);
        assert!(peers.is_ours(&cart, start + known() - Duration::from_millis(1)));
        assert!(!peers.is_ours(&cart, start + known()));
    }

    #[test]
    fn a_gateways_answer_in_between_changes_nothing() {
        let (peers, cart, start) = (Peers::learning("shop"), service("cart", "shop"), Instant::now());
        peers.heard(&cart, &capable(), start);
        peers.heard(&cart, &HeaderMap::new(), start);
        assert!(peers.is_ours(&cart, start));
    }

    #[test]
    fn another_namespace_is_never_learnt() {
        let (peers, foreign, start) = (Peers::learning("shop"), service("cart", "other"), Instant::now());
        peers.heard(&foreign, &capable(), start);
        assert!(!peers.is_ours(&foreign, start));
        assert!(!peers.asks(&foreign));
    }

    #[test]
    fn at_most_the_limit_is_remembered_and_what_is_forgotten_makes_room() {
        let (peers, start) = (Peers::learning("shop"), Instant::now());
        for i in 0..PEERS_KNOWN_MAX {
            peers.heard(&service(&format!("s{i}"), "shop"), &capable(), start);
        }
        let late = service("late", "shop");
        peers.heard(&late, &capable(), start);
        assert!(!peers.is_ours(&late, start));
        peers.heard(&late, &capable(), start + known());
        assert!(peers.is_ours(&late, start + known()));
    }

    #[test]
    fn on_the_local_platform_every_service_is_ours_and_is_asked_for_large_answers() {
        let cart = service("cart", "anywhere");
        assert!(Peers::All.is_ours(&cart, Instant::now()));
        assert!(Peers::All.asks(&cart));
    }
}

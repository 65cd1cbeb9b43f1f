//! A reference in a request becomes the request's body.
//!
//! The caller holds the breaker's slot. Here the reference is opened and the pull's authenticated head awaited; a plain
//! function then gets the bytes as they are verified, a registered one a ticket. Nothing reaches the function unless the
//! head held: a reference that fails is answered by name in its place.

use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::{BodyExt, Empty};
use zipline_contract::{ErrorCode, headers};
use zipline_transfer::{FetchOptions, Incoming, Node, Taking};

use crate::payload::{Payload, Refusal};
use crate::zipline::counters::Counters;
use crate::zipline::problem::{Dialect, Problem};
use crate::zipline::reading::{self, Settlement};
use crate::zipline::tasks::Tasks;
use crate::zipline::tickets::{Awaiting, Tickets};
use crate::zipline::trace;

/// Resolves references for the ingress.
pub(crate) struct Resolver {
    pub(super) node: Node,
    pub(super) tickets: Arc<Tickets>,
    pub(super) acknowledgements: Arc<Tasks>,
    pub(super) counters: Arc<Counters>,
}

impl Resolver {
    /// Puts the payload that a request refers to in the place of its empty body. See
    /// [`Zipline::resolve`](super::Zipline::resolve).
    ///
    /// # Errors
    /// The answer for the client.
    pub(crate) async fn resolve(&self, head: &mut Parts, taken: &HeaderMap, has_body: bool) -> Result<Payload, Refusal> {
        let dialect = Dialect::of(&head.headers);
        match self.payload(head, taken, has_body, dialect).await {
            Ok(payload) => Ok(payload),
            Err(problem) => {
                tracing::debug!(error = problem.code.name(), detail = %problem.detail, "a reference was not resolved");
                Err(refusal(&self.counters, &problem, dialect))
            }
        }
    }

    async fn payload(&self, head: &mut Parts, taken: &HeaderMap, has_body: bool, dialect: Dialect) -> Result<Payload, Problem> {
        let reference = the_reference(taken, has_body)?;
        let is_served = self.tickets.is_served();
        let taking = if is_served { Taking::Whole } else { Taking::Stream };
        let trace = trace::of(&head.headers, &head.extensions);
        let incoming = self.node.fetch(reference, FetchOptions { taking, trace, ..FetchOptions::default() }).await?;
        self.counters.swap_in();
        let content_type = incoming.content_type().and_then(|text| HeaderValue::from_str(text).ok());
        if let Some(content_type) = content_type
            && !head.headers.contains_key(CONTENT_TYPE)
        {
            head.headers.insert(CONTENT_TYPE, content_type);
        }
        if is_served { self.ticket(head, incoming) } else { Ok(self.body(incoming, dialect)) }
    }

    /// A plain function reads the payload as its request's body.
    fn body(&self, incoming: Incoming, dialect: Dialect) -> Payload {
        let length = incoming.content_length();
        let settlement = Settlement::new(self.acknowledgements.clone());
        let (counters, reader) = (self.counters.clone(), settlement.clone());
        let body = reading::body(incoming, Box::new(move |incoming| reader.returned(incoming, None)))
            .map_err(move |problem| refusal(&counters, &problem, dialect))
            .boxed_unsync();
        Payload { body, length, answered: answered(settlement, || ()) }
    }

    /// A registered function gets a ticket in place of the bytes.
    fn ticket(&self, head: &mut Parts, incoming: Incoming) -> Result<Payload, Problem> {
        let settlement = Settlement::new(self.acknowledgements.clone());
        let issued = self.tickets.issue(Awaiting { incoming, settlement: settlement.clone() })?;
        zipline_fault_point::fault_point!("ticket.issued");
        let text = HeaderValue::from_str(issued.text()).map_err(|error| Problem::invalid(error.to_string()))?;
        head.headers.insert(HeaderName::from_static(headers::TICKET), text);
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        Ok(Payload { body, length: Some(0), answered: answered(settlement, move || drop(issued)) })
    }
}

/// What the ingress calls with the status of the function's answer, and drops if there is none.
fn answered(settlement: Settlement, before: impl FnOnce() + Send + 'static) -> Box<dyn FnOnce(StatusCode) + Send> {
    /// Refuses unless it was disarmed.
    struct Unanswered(Option<Settlement>);
    impl Drop for Unanswered {
        fn drop(&mut self) {
            if let Some(settlement) = &self.0 {
                settlement.refused();
            }
        }
    }
    let mut unanswered = Unanswered(Some(settlement));
    Box::new(move |status| {
        before();
        if status.is_server_error() {
            return; // Dropping gives the lease back.
        }
        if let Some(settlement) = unanswered.0.take() {
            settlement.accepted();
        }
    })
}

/// The one reference of a request without a body.
fn the_reference(taken: &HeaderMap, has_body: bool) -> Result<&str, Problem> {
    let mut references = taken.get_all(headers::REFERENCE).iter();
    let ambiguous = |detail: &str| Problem::new(ErrorCode::ReferenceAmbiguous, detail);
    let (Some(reference), None) = (references.next(), references.next()) else {
        return Err(ambiguous("the request has more than one Zipline-Reference"));
    };
    let invalid = || Problem::new(ErrorCode::ReferenceInvalid, "the reference is not a text of visible characters");
    let reference = reference.to_str().map_err(|_| invalid())?.trim();
    if reference.contains(',') {
        return Err(ambiguous("Zipline-Reference lists more than one reference"));
    }
    if has_body {
        return Err(ambiguous("the request has a reference and a body of at least one byte"));
    }
    Ok(reference)
}

/// A problem as the ingress passes it on, counted.
fn refusal(counters: &Counters, problem: &Problem, dialect: Dialect) -> Refusal {
    counters.error(problem.code);
    Refusal(Box::new(problem.response(dialect)))
}

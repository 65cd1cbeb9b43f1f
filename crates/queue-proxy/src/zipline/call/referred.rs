//! An answer that came by reference, made whole again.
//!
//! The callee's proxy holds the body; it is pulled as the function reads it, and acknowledged when all of it has been
//! handed on. What fails before the function was answered is a named error in the place of the answer: the callee *has*
//! run. What fails later cuts the body, as a broken connection would. An answer that is given up frees the object.

use std::sync::Arc;

use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout_at;
use zipline_contract::{ErrorCode, headers};
use zipline_transfer::{FetchOptions, Node};

use super::answer::Deadline;
use super::{Calls, timed_out};
use crate::zipline::body::{self, Body, BodyError};
use crate::zipline::problem::Problem;
use crate::zipline::reading;
use crate::zipline::response::BY_REFERENCE;
use crate::zipline::tasks::Tasks;

impl Calls {
    /// The answer with its body: the one that came, or the one behind its reference. `asked`: it was us who said that it
    /// may come so; else a reference in it is the function's own affair.
    pub(super) async fn received(
        &self,
        response: Response<Incoming>,
        asked: bool,
        deadline: Option<Deadline>,
    ) -> Result<Response<Body>, Problem> {
        let is_referred = |response: &Response<Incoming>| {
            response.headers().get(headers::BODY).is_some_and(|kind| kind.as_bytes() == BY_REFERENCE.as_bytes())
        };
        if !asked || !is_referred(&response) {
            return Ok(response.map(body::passed_on));
        }
        let (mut head, _empty) = response.into_parts();
        head.headers.remove(headers::BODY);
        let reference = head.headers.remove(headers::REFERENCE);
        let Some(token) = reference.as_ref().and_then(|value| value.to_str().ok()) else {
            return Err(Problem::new(
                ErrorCode::ReferenceInvalid,
                "the callee's answer is said to come by reference and has none",
            ));
        };
        let mut unread = Unread { object: Some((self.node.clone(), token.to_owned())), frees: self.acknowledgements.clone() };
        let fetched = self.node.fetch(token, FetchOptions::default());
        let fetched = match deadline {
            Some(deadline) => timeout_at(deadline.at(), fetched).await.map_err(|_| timed_out(deadline))?,
            None => fetched.await,
        };
        let incoming = fetched.inspect_err(|_| unread.object = None)?; // Who did not answer cannot be told to free it.
        self.counters.swap_in();
        match incoming.content_length() {
            Some(length) => head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length)),
            None => head.headers.remove(CONTENT_LENGTH),
        };
        let acknowledgements = self.acknowledgements.clone();
        let delivered = Box::new(move |incoming| {
            unread.read();
            acknowledgements.spawn(reading::acknowledged(incoming));
        });
        let body = reading::body(incoming, delivered).map_err(BodyError::Payload).boxed_unsync();
        Ok(Response::from_parts(head, body))
    }
}

/// The object of an answer that was not read to its end: dropped so, it is freed at the callee.
struct Unread {
    object: Option<(Node, String)>,
    frees: Arc<Tasks>,
}

impl Unread {
    /// It was read to its end: its acknowledgement ends it.
    fn read(mut self) {
        self.object = None;
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let Some((node, token)) = self.object.take() else { return };
        if tokio::runtime::Handle::try_current().is_err() {
            return; // The process ends; the object expires.
        }
        self.frees.spawn(async move {
            if let Err(error) = node.free(&token).await {
                tracing::debug!(%error, "an answer that nobody reads could not be freed; it expires");
            }
        });
    }
}

//! What a message of a descriptor channel asks for.

use std::os::fd::OwnedFd;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use zipline_core::object::Owner;
use zipline_core::trace::TraceContext;
use zipline_transfer::PutOptions;

use super::message::Message;
use crate::zipline::api::objects::checked_content_type;
use crate::zipline::api::options;
use crate::zipline::problem::Problem;

/// A message that was understood.
#[derive(Debug)]
pub(super) enum Operation {
    /// Take this descriptor as an object.
    Put { descriptor: OwnedFd, options: PutOptions },
    /// Give the payload of a reference.
    Get { reference: String, trace: Option<TraceContext> },
    /// Count the read as a retrieval.
    Accept { lease: u64 },
    /// Give the lease back.
    Discard { lease: u64 },
    /// This connection's owner serves requests.
    Serve,
    /// Give the payload of a request in progress.
    Redeem { ticket: String },
}

/// Any message; which fields it needs depends on `op`.
#[derive(Deserialize)]
struct Fields {
    op: Option<String>,
    reference: Option<String>,
    lease: Option<u64>,
    ticket: Option<String>,
    retrievals: Option<u64>,
    ttl_ms: Option<u64>,
    durability: Option<String>,
    content_type: Option<String>,
    sum: Option<String>,
    traceparent: Option<String>,
}

/// Reads a message: its id, to be echoed whatever becomes of it, and what it asks for.
pub(super) fn read(message: Message, ttl_max: Duration) -> (Value, Result<Operation, Problem>) {
    let (value, id) = match serde_json::from_slice::<Value>(&message.text) {
        Ok(value) => {
            let id = value.get("id").filter(|id| id.is_u64() || id.is_i64()).cloned();
            (value, id)
        }
        // The parser's own words could quote a reference.
        Err(error) => {
            return (Value::Null, Err(Problem::invalid(format!("the message is not JSON at column {}", error.column()))));
        }
    };
    let Some(id) = id else {
        return (Value::Null, Err(Problem::invalid("a message needs an `id`, a whole number")));
    };
    let operation = serde_json::from_value::<Fields>(value)
        .map_err(|_| Problem::invalid("a field of the message has another type than docs/reference/local-api.md gives it"))
        .and_then(|fields| fields.operation(message.descriptor, ttl_max));
    (id, operation)
}

impl Fields {
    fn operation(self, descriptor: Option<OwnedFd>, ttl_max: Duration) -> Result<Operation, Problem> {
        let op = needed(self.op.as_deref(), "a message", "op")?;
        match op {
            "put" => {
                let descriptor = descriptor
                    .ok_or_else(|| Problem::invalid("put needs a descriptor, attached to the first byte of its message"))?;
                Ok(Operation::Put { descriptor, options: self.put_options(ttl_max)? })
            }
            "get" => {
                let trace = self.trace();
                Ok(Operation::Get { reference: needed(self.reference, op, "reference")?.trim().to_owned(), trace })
            }
            "accept" => Ok(Operation::Accept { lease: needed(self.lease, op, "lease")? }),
            "discard" => Ok(Operation::Discard { lease: needed(self.lease, op, "lease")? }),
            "serve" => Ok(Operation::Serve),
            "redeem" => Ok(Operation::Redeem { ticket: needed(self.ticket, op, "ticket")? }),
            other => Err(Problem::invalid(format!("op {other:?} is unknown; known: put, get, accept, discard, serve, redeem"))),
        }
    }

    fn put_options(&self, ttl_max: Duration) -> Result<PutOptions, Problem> {
        let defaults = PutOptions::default();
        let owner = match self.retrievals {
            Some(count) => Owner::Put { retrievals: options::retrievals(Some(count), &count.to_string())? },
            None => defaults.owner,
        };
        let ttl = self.ttl_ms.map(|ms| options::ttl_within(Duration::from_millis(ms), ttl_max)).transpose()?;
        let sum = self.sum.as_deref().map(options::sum).transpose()?.unwrap_or(defaults.sum);
        let content_type = self.content_type.as_deref().map(checked_content_type).transpose()?;
        let durability = self.durability.as_deref().map(options::durability).transpose()?;
        Ok(PutOptions { owner, ttl, sum, content_type, durability, trace: self.trace(), ..defaults })
    }

    /// As a request's header: one that is none is as good as absent.
    fn trace(&self) -> Option<TraceContext> {
        self.traceparent.as_deref()?.parse().ok()
    }
}

fn needed<T>(field: Option<T>, what: &str, name: &str) -> Result<T, Problem> {
    field.ok_or_else(|| Problem::invalid(format!("{what} needs `{name}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> (Value, Result<Operation, Problem>) {
        read(Message { text: text.as_bytes().to_vec(), descriptor: None }, Duration::from_secs(3600))
    }

    #[test]
    fn the_id_is_echoed_and_unknown_fields_are_ignored() {
        let (id, operation) = read_text(r#"{"op":"get","id":7,"reference":" zl1.x ","future":{"a":1}}"#);
        assert_eq!(id, 7);
        assert!(matches!(operation, Ok(Operation::Get { reference, trace: None }) if reference == "zl1.x"));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (text, named) in [
            ("nonsense", "JSON"),
            (r#"{"op":"get"}"#, "`id`"),
            (r#"{"op":"get","id":"1"}"#, "`id`"),
            (r#"{"id":1}"#, "`op`"),
            (r#"{"op":"invoke","id":1}"#, "invoke"),
            (r#"{"op":"get","id":1}"#, "`reference`"),
            (r#"{"op":"accept","id":1}"#, "`lease`"),
            (r#"{"op":"redeem","id":1}"#, "`ticket`"),
            (r#"{"op":"put","id":1}"#, "descriptor"),
            (r#"{"op":"get","id":1,"reference":5}"#, "type"),
        ] {
            let (_, operation) = read_text(text);
            let problem = operation.expect_err(text);
            assert!(problem.detail.contains(named), "{text}: {problem}");
        }
    }

    #[test]
    fn an_error_never_quotes_the_reference() {
        let (_, operation) = read_text(r#"{"op":"get","id":1,"reference":["zl1.secret"]}"#);
        assert!(!operation.expect_err("refused").detail.contains("secret"));
    }
}

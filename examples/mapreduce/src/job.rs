//! What driver, mappers and reducers say to each other: small JSON messages. Every payload goes by reference.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zipline_sdk::{Failure, Payload, Reference, Response};

/// Version of these messages.
pub(crate) const SCHEMA: u32 = 1;

/// To the driver: run a job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) schema: u32,
    /// Path of the list of documents; empty where `inputs` has them.
    #[serde(default)]
    pub(crate) documents: String,
    /// A bundle of documents for each mapper, where mappers can't read the files themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) inputs: Vec<Reference>,
    /// Parts of the list, and so calls of the mapper.
    pub(crate) mappers: u32,
    /// Calls of the reducer.
    pub(crate) reducers: u32,
    /// Service of the mappers.
    pub(crate) mapper: String,
    /// Service of the reducers.
    pub(crate) reducer: String,
}

/// The driver's answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ran {
    pub(crate) schema: u32,
    /// The result, a part with every word.
    pub(crate) result: Reference,
    pub(crate) result_bytes: u64,
    pub(crate) words: u64,
    pub(crate) tokens: u64,
    pub(crate) documents: u64,
    pub(crate) input_bytes: u64,
    pub(crate) edges: Vec<Edge>,
    pub(crate) phases: Vec<Phase>,
}

/// Bytes that went from one call to another.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Edge {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) method: String,
    pub(crate) bytes: u64,
}

/// A step of the job, and how long it took.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) seconds: f64,
}

/// To a mapper: count the words of the documents of one part.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Map {
    pub(crate) schema: u32,
    /// Path of the list of documents; empty where `input` has them.
    #[serde(default)]
    pub(crate) documents: String,
    /// The bundle of the part's documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) input: Option<Reference>,
    pub(crate) part: u32,
    pub(crate) reducers: u32,
}

/// A mapper's answer: one part per reducer, in the order of the reducers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Mapped {
    pub(crate) parts: Vec<Stored>,
    pub(crate) documents: u64,
    pub(crate) input_bytes: u64,
    pub(crate) tokens: u64,
}

/// A payload that was put.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) reference: Reference,
    pub(crate) bytes: u64,
}

/// To a reducer: merge these parts.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reduce {
    pub(crate) schema: u32,
    pub(crate) parts: Vec<Reference>,
}

/// A reducer's answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reduced {
    pub(crate) result: Stored,
    pub(crate) words: u64,
}

/// A message as a payload.
pub(crate) fn payload(message: &impl Serialize) -> Result<Payload, Failure> {
    Ok(Payload::from(serde_json::to_vec(message)?).with_content_type("application/json"))
}

/// A message as an answer.
pub(crate) fn answer(message: &impl Serialize) -> Result<Response, Failure> {
    payload(message).map(Response::ok)
}

/// The message that a request carries.
pub(crate) fn parse<T: DeserializeOwned>(payload: &Payload) -> Result<T, Failure> {
    serde_json::from_slice(payload)
        .map_err(|error| Failure::new(http::StatusCode::BAD_REQUEST, format!("the request is not understood: {error}")))
}

/// Refuses messages of another version.
pub(crate) fn check_schema(schema: u32) -> Result<(), Failure> {
    match schema {
        SCHEMA => Ok(()),
        other => {
            Err(Failure::new(http::StatusCode::BAD_REQUEST, format!("message schema {other}; this program speaks {SCHEMA}")))
        }
    }
}

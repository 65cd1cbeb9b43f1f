//! `zipline invoke`: a request to a service, by way of the client proxy.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use serde::Serialize;
use serde_json::{Map, Value};
use zipline_sdk::{Call, Payload, Reference, Response};

use crate::commands::object::read_payload;
use crate::failure::{Failure, Outcome};
use crate::output::{Output, SCHEMA, write_out};
use crate::running::Running;

#[derive(Debug, Args)]
pub(crate) struct Invoke {
    /// Service, NAME or NAME.NAMESPACE
    service: String,
    /// Path and query
    #[arg(long, default_value = "/", value_name = "PATH")]
    path: String,
    /// Method
    #[arg(short = 'X', long, default_value = "POST", value_name = "METHOD")]
    method: Method,
    /// Header, `NAME: VALUE`; may be repeated
    #[arg(short = 'H', long = "header", value_parser = parse_header, value_name = "HEADER")]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The body, as text
    #[arg(short, long, value_name = "TEXT", conflicts_with_all = ["file", "reference"])]
    data: Option<String>,
    /// The body, from a file; `-` is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "reference")]
    file: Option<PathBuf>,
    /// The body, as the reference of an object
    #[arg(short, long, value_name = "REFERENCE")]
    reference: Option<String>,
}

#[derive(Serialize)]
struct Document {
    schema: u32,
    status: u16,
    headers: Map<String, Value>,
    size: u64,
    #[serde(flatten)]
    body: Body,
}

/// The body as text where it is text.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Body {
    Body(String),
    BodyBase64(String),
}

pub(crate) async fn run(arguments: Invoke, running: &Running, output: Output) -> Result<Outcome, Failure> {
    let client = running.calling_client().await?;
    let mut call = Call::new(&arguments.service).method(arguments.method).path(&arguments.path);
    for (name, value) in arguments.headers {
        call = call.header(name, value);
    }
    call = match (arguments.data, arguments.file, arguments.reference) {
        (Some(text), _, _) => call.payload(text),
        (_, Some(file), _) => call.payload(read_payload(file).await?),
        (_, _, Some(reference)) => call.reference(Reference::from_token(reference)),
        (None, None, None) => call,
    };
    let response = client.call(call).await?;
    let status = response.status;
    if output.json {
        let _shown = output.result(&document(&response), String::new)?;
    } else {
        write_out(&response.payload)?;
    }
    if status.as_u16() < 400 {
        return Ok(Outcome::Yes);
    }
    output.note(&format!("service `{}` answered {status}", arguments.service));
    Ok(Outcome::No)
}

fn document(response: &Response) -> Document {
    Document {
        schema: SCHEMA,
        status: response.status.as_u16(),
        headers: headers(&response.headers),
        size: response.payload.len() as u64,
        body: body(&response.payload),
    }
}

fn body(payload: &Payload) -> Body {
    match std::str::from_utf8(payload) {
        Ok(text) => Body::Body(text.to_owned()),
        Err(_) => Body::BodyBase64(STANDARD.encode(payload)),
    }
}

/// Headers as an object; of a name that repeats, the values with commas between, as HTTP reads them.
fn headers(headers: &HeaderMap) -> Map<String, Value> {
    let mut object = Map::new();
    for name in headers.keys() {
        let values: Vec<_> = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        object.insert(name.to_string(), Value::String(values.join(", ")));
    }
    object
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected `NAME: VALUE`")?;
    let name = HeaderName::try_from(name.trim()).map_err(|error| format!("`{name}`: {error}"))?;
    let value = HeaderValue::try_from(value.trim()).map_err(|error| format!("`{name}`: {error}"))?;
    Ok((name, value))
}

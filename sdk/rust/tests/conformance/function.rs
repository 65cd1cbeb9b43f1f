//! The function that every SDK's runner serves; `conformance/README.md` says what it answers.

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zipline_sdk::{Client, Failure, PutOptions, Request, Response};

pub(crate) async fn answer(client: Client, request: Request) -> Result<Response, Failure> {
    let path = request.path().to_owned();
    match path.as_str() {
        "/echo" => Ok(Response::ok(request.payload)),
        "/describe" => Ok(Response::ok(describe(&request).to_string())),
        "/put" => Ok(Response::ok(client.put(request.payload, PutOptions::default()).await?.to_string())),
        _ => match path.strip_prefix("/status/").map(|digits| StatusCode::from_bytes(digits.as_bytes())) {
            Some(Ok(status)) => Ok(Response::text(status, format!("status {}", status.as_u16()))),
            _ => Err(Failure::new(StatusCode::NOT_FOUND, format!("no path {path}"))),
        },
    }
}

fn describe(request: &Request) -> Value {
    let sum: String = Sha256::digest(&*request.payload).iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "method": request.method.as_str(),
        "target": request.uri.path_and_query().map(ToString::to_string),
        "content_type": text(&request.headers, "content-type"),
        "x-test": text(&request.headers, "x-test"),
        "size": request.payload.len(),
        "sha256": sum,
    })
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

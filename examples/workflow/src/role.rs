//! A program in one of its roles: a function that serves.

use std::future::Future;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use zipline_sdk::{Client, Failure, Request, Response};

use crate::message::{Letter, decode};

/// Serves one role on `$PORT` until told to stop. One thread answers; what takes long runs beside it.
///
/// # Errors
/// When the environment names no local API or port, or the port cannot be had.
pub fn serve<F>(role: fn(Client, Request) -> F) -> Result<()>
where
    F: Future<Output = Result<Response, Failure>> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        let client = Client::from_env()?;
        zipline_sdk::serve_with(client.clone(), move |request| role(client.clone(), request)).await
    })?;
    Ok(())
}

/// The message that a request carries.
///
/// # Errors
/// 400 for a body that is no message with such a head.
pub fn letter<H: DeserializeOwned>(request: &Request) -> Result<Letter<H>, Failure> {
    decode(&request.payload).map_err(bad_request)
}

/// A request that is not understood or cannot be served as it is.
pub fn bad_request(reason: impl std::fmt::Display) -> Failure {
    Failure::new(http::StatusCode::BAD_REQUEST, format!("{reason:#}"))
}

/// A step of a function that failed.
pub fn failed(reason: impl std::fmt::Display) -> Failure {
    Failure::new(http::StatusCode::INTERNAL_SERVER_ERROR, format!("{reason:#}"))
}

//! A relay in front of a real S3 server that makes it as slow as S3 is in its region, and writes down what it added.
//!
//! The client is unchanged: it is given the relay's address for the server's. A GET's first byte, or a PUT's answer, is held
//! back until the [drawn](model) time since the request has passed; what the server itself took is part of that time, not on
//! top of it, and is written down apart. Bytes of a GET then pass at the drawn rate. A multipart upload's parts are PUTs of
//! their own size, a HEAD is a GET; the upload's beginning and end, and deletions, are not in the published figures and pass
//! undelayed, which is kind to S3.
//!
//! It runs as a process of its own ([`S3Delay`]), so that its timers do not wait for whoever measures.

mod model;
mod relay;

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

pub(crate) use self::model::Service;
pub(crate) use self::relay::serve;
use crate::process::Process;

/// Path of the relay's own report. No bucket's name begins with a dash.
const REPORT_PATH: &str = "/-/report";

/// A running relay. Dropping it ends its process.
pub(crate) struct S3Delay {
    _process: Process,
    address: SocketAddr,
}

/// What a relay did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Of the delays.
    pub(crate) seed: u64,
    /// Each drawn time was multiplied by it.
    pub(crate) factor: f64,
    /// Whose delays they are.
    pub(crate) service: String,
    /// Whole objects and parts written.
    pub(crate) puts: Operations,
    /// Whole objects and parts read.
    pub(crate) gets: Operations,
    /// Requests that passed undelayed.
    pub(crate) others: u64,
}

/// Operations of one kind.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Operations {
    pub(crate) count: u64,
    /// Bytes of their payloads.
    pub(crate) bytes: u64,
    /// Time that was drawn, all together.
    pub(crate) drawn_seconds: f64,
    /// Of it, what the server took by itself.
    pub(crate) server_seconds: f64,
    /// What was added to it. (A server slower than drawn is not made faster.)
    pub(crate) added_seconds: f64,
    /// Operations that took the server longer than was drawn.
    pub(crate) server_slower: u64,
}

impl S3Delay {
    /// Starts a relay to an S3 server.
    pub(crate) fn start(server: SocketAddr, service: Service, factor: f64, seed: u64) -> Result<Self> {
        let arguments = [server.to_string(), service.name().to_owned(), factor.to_string(), seed.to_string()];
        let (process, address) = Process::role("s3-delay", &arguments)?;
        Ok(Self { _process: process, address })
    }

    /// Where S3 clients find it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it did so far.
    pub(crate) async fn report(&self) -> Result<Report> {
        let stream = TcpStream::connect(self.address).await.context("the relay in front of S3 is gone")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = http::Request::get(REPORT_PATH).header(http::header::HOST, "relay").body(Empty::<Bytes>::new())?;
        let asked = async { anyhow::Ok(sender.send_request(request).await?.into_body().collect().await?.to_bytes()) };
        let body = tokio::select! {
            body = asked => body?,
            ended = connection => anyhow::bail!("the relay in front of S3 gave no report: {ended:?}"),
        };
        Ok(serde_json::from_slice(&body)?)
    }
}

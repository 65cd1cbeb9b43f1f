//! A function as a server on `$PORT`, HTTP/1.1 and h2c.
//!
//! While it serves, it is registered at its queue-proxy: a request whose payload came by reference then carries a
//! one-time ticket instead of a body, and is given to the handler with its payload mapped, not copied. Without a
//! registration (another system, an older proxy) the payload arrives as an ordinary body.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use zipline_contract::{ErrorCode, STORED_PAYLOAD_MEDIA_TYPE, headers};

use crate::client::Client;
use crate::config::Config;
use crate::error::Error;
use crate::http::{CollectError, collect, describe};
use crate::message::{Envelope, Failure, Request, Response, content_type};
use crate::payload::Payload;
use crate::reference::Resolved;
use crate::store::key::Stored;

/// Connections at once; further ones wait in the kernel's queue. A queue-proxy keeps at most its concurrency, or 1,000.
const CONNECTIONS_MAX: usize = 1024;
/// After the shutdown signal, requests in progress have this long to finish.
const GRACE: Duration = Duration::from_secs(30);
/// First and longest pause before registering anew. A proxy that restarts must find its function again, so the
/// number of tries has no limit; their rate has.
const REGISTER_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Pause after the system refused a connection, most often for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Serves `$PORT` with the client that the environment describes, until SIGTERM or SIGINT.
///
/// ```no_run
/// # async fn example() -> Result<(), zipline_sdk::Error> {
/// zipline_sdk::serve(|request| async move { Ok(zipline_sdk::Response::ok(request.payload)) }).await
/// # }
/// ```
///
/// # Errors
/// [`Error::Configuration`] for `PORT` or `ZIPLINE_API`, [`Error::System`] when the port cannot be had.
pub async fn serve<H, F>(handler: H) -> Result<(), Error>
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Response, Failure>> + Send + 'static,
{
    serve_with(Client::from_env()?, handler).await
}

/// As [`serve`], with a client that the handler may share.
///
/// # Errors
/// As [`serve`].
pub async fn serve_with<H, F>(client: Client, handler: H) -> Result<(), Error>
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Response, Failure>> + Send + 'static,
{
    Server::from_env(client).await?.serve(handler, terminated()?).await
}

/// A bound port that requests will come to.
pub struct Server {
    listener: TcpListener,
    client: Client,
}

impl Server {
    /// Binds loopback at `$PORT`, where the queue-proxy connects to.
    ///
    /// # Errors
    /// [`Error::Configuration`] when `PORT` is missing or no port, [`Error::System`] when it cannot be bound.
    pub async fn from_env(client: Client) -> Result<Self, Error> {
        let text = std::env::var("PORT").unwrap_or_default();
        let port: u16 = text.parse().ok().filter(|port| *port != 0).ok_or(Error::Configuration {
            variable: "PORT",
            value: text,
            reason: "expected the TCP port that the function is to listen on",
        })?;
        Self::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), client).await
    }

    /// Binds that address; port 0 chooses one.
    ///
    /// # Errors
    /// [`Error::System`] when it cannot be bound.
    pub async fn bind(address: SocketAddr, client: Client) -> Result<Self, Error> {
        let listener = TcpListener::bind(address).await.map_err(Error::system("binding the function's port"))?;
        Ok(Self { listener, client })
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// [`Error::System`] when the system does not tell.
    pub fn address(&self) -> Result<SocketAddr, Error> {
        self.listener.local_addr().map_err(Error::system("asking for the function's port"))
    }

    /// Serves until `stop` is ready, then lets requests in progress finish, for at most 30 s.
    ///
    /// # Errors
    /// None at present; a connection that fails ends alone.
    pub async fn serve<H, F>(self, handler: H, stop: impl Future<Output = ()>) -> Result<(), Error>
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Response, Failure>> + Send + 'static,
    {
        let function = Arc::new(Function { handler, client: self.client.clone() });
        let (stopping, stopped) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut registration = JoinSet::new();
        let client = self.client.clone();
        registration.spawn(stay_registered(self.client));
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(_) = connections.join_next() => {} // How a connection ended concerns its peer alone.
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => drop(connections.spawn(connection(stream, Arc::clone(&function), stopped.clone()))),
                    Err(_) => sleep(ACCEPT_PAUSE).await,
                },
            }
        }
        drop(self.listener); // From here on new connections are refused.
        drop(stopping);
        // Whoever is not done by then is cut, as the platform would do a moment later.
        timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await.ok();
        // What has been read is freed; what others still hold references to stays for them.
        timeout(GRACE, client.inner.stores.clean_up(false)).await.ok();
        Ok(())
    }
}

struct Function<H> {
    handler: H,
    client: Client,
}

impl<H, F> Function<H>
where
    H: Fn(Request) -> F,
    F: Future<Output = Result<Response, Failure>>,
{
    async fn answer(&self, request: hyper::Request<Incoming>) -> hyper::Response<Full<Bytes>> {
        let (mut parts, body) = request.into_parts();
        let ticket = parts.headers.remove(headers::TICKET);
        let received = match ticket {
            Some(ticket) => self.redeem(&ticket).await,
            None => self.receive(body).await,
        };
        let resolved = match received {
            Ok(payload) => self.resolve(payload, &mut parts.headers).await,
            Err(error) => Err(error),
        };
        let (payload, stored) = match resolved {
            Ok((payload, stored)) => (payload.with_optional_content_type(content_type(&parts.headers)), stored),
            Err(error) => return refusal(&error),
        };
        let request = Request { method: parts.method, uri: parts.uri, headers: parts.headers, payload };
        let response = (self.handler)(request).await.unwrap_or_else(Response::from);
        if let Some(stored) = stored.filter(|_| !response.status.is_server_error()) {
            // As for every payload that came by reference: an answer below 500 is its retrieval.
            self.client.inner.stores.retrieved(&self.client.config().stores, &stored);
        }
        let mut answer = hyper::Response::new(Full::new(Bytes::new()));
        *answer.status_mut() = response.status;
        *answer.headers_mut() = response.headers;
        set_content_type(answer.headers_mut(), response.payload.content_type());
        *answer.body_mut() = Full::new(response.payload.into_bytes());
        answer
    }

    /// Puts the payload in place of a body that says in which store it lies. A function without a store takes such a body
    /// as it is.
    async fn resolve(&self, received: Payload, headers: &mut HeaderMap) -> Result<(Payload, Option<Stored>), Error> {
        let Config { stores, limits, .. } = self.client.config();
        if !stores.any() || content_type(headers) != Some(STORED_PAYLOAD_MEDIA_TYPE) {
            return Ok((received, None));
        }
        let invalid = |detail: String| Error::refused(ErrorCode::ReferenceInvalid, detail);
        let envelope: Envelope = serde_json::from_slice(&received)
            .map_err(|error| invalid(format!("the body that stands for a payload is not understood: {error}")))?;
        let Resolved::Stored(stored) = envelope.reference.resolve()? else {
            return Err(invalid("the body that stands for a payload has a reference to no store".to_owned()));
        };
        let payload = self.client.inner.stores.peek(stores, &stored, limits.heap_bytes_max).await?;
        headers.remove(header::CONTENT_TYPE);
        headers.remove(header::CONTENT_LENGTH);
        let content_type = envelope.content_type.as_deref().or(payload.content_type());
        set_content_type(headers, content_type);
        Ok((payload, Some(stored)))
    }

    async fn redeem(&self, ticket: &HeaderValue) -> Result<Payload, Error> {
        let ticket = ticket.to_str().map_err(|error| Error::protocol("redeem", error))?;
        self.client.inner.channels.redeem(ticket).await
    }

    async fn receive(&self, body: Incoming) -> Result<Payload, Error> {
        let bytes_max = self.client.config().limits.heap_bytes_max;
        collect(body, bytes_max).await.map(Payload::from).map_err(|failure| match failure {
            CollectError::TooLarge(bytes) => Error::refused(
                ErrorCode::PayloadTooLarge,
                format!("a request's body is received up to {bytes_max} bytes, this one has {bytes} or more"),
            ),
            CollectError::Broken(error) => Error::Source { sent_bytes: 0, reason: describe(&error) },
        })
    }
}

/// The answer to a request whose payload could not be had; the handler did not see it.
fn refusal(error: &Error) -> hyper::Response<Full<Bytes>> {
    let code = error.code();
    let status = code.and_then(|code| StatusCode::from_u16(code.http_status()).ok()).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut answer = hyper::Response::new(Full::new(Bytes::from(format!("{error}\n"))));
    *answer.status_mut() = status;
    set_content_type(answer.headers_mut(), Some("text/plain; charset=utf-8"));
    if let Some(code) = code {
        answer.headers_mut().insert(headers::ERROR, HeaderValue::from_static(code.name()));
    }
    answer
}

fn set_content_type(headers: &mut HeaderMap, content_type: Option<&str>) {
    if let Some(value) = content_type.and_then(|text| HeaderValue::from_str(text).ok()) {
        headers.entry(header::CONTENT_TYPE).or_insert(value);
    }
}

async fn connection<H, F>(stream: TcpStream, function: Arc<Function<H>>, mut stopped: watch::Receiver<()>)
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Response, Failure>> + Send + 'static,
{
    if stream.set_nodelay(true).is_err() {
        return; // The peer is gone already.
    }
    let service = service_fn(move |request| {
        let function = Arc::clone(&function);
        async move { Ok::<_, Infallible>(function.answer(request).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        outcome = served.as_mut() => return drop(outcome), // The peer knows how it ended.
        _ = stopped.changed() => served.as_mut().graceful_shutdown(),
    }
    served.await.ok();
}

/// Keeps this process registered at its queue-proxy, for as long as it serves.
async fn stay_registered(client: Client) {
    let (mut pause, longest) = REGISTER_PAUSE;
    loop {
        match client.descriptors().await {
            Ok(false) => return, // Payloads come as bodies.
            Ok(true) => {
                if client.inner.channels.serve_until_closed().await.is_ok() {
                    pause = REGISTER_PAUSE.0; // It was registered; the proxy restarts.
                }
            }
            Err(_) => {} // The proxy is not up yet, or no longer.
        }
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Ready at SIGTERM or SIGINT.
fn terminated() -> Result<impl Future<Output = ()>, Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::system("listening for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::system("listening for SIGINT"))?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

//! The Kubernetes API through `kubectl proxy` on a Unix socket.
//!
//! kubectl knows every way there is to authenticate, and a socket's path leads across network namespaces: so the same few lines
//! serve a cluster of our own and whatever `KUBECONFIG` names. Nothing is retried.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::time::Instant;
use zipline_testkit::http::{self as client, Open};
use zipline_testkit::{Answer, Target};

/// Longest line of a watch: an object, which Kubernetes itself bounds at about 1.5 MiB.
const WATCH_LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How often a state is looked at: each look costs the API server, with which the tested things share two cores.
const LOOK: Duration = Duration::from_millis(100);

/// A way to talk to the API server.
#[derive(Clone, Debug)]
pub struct Api {
    target: Target,
}

impl Api {
    /// Through the socket that `kubectl proxy` serves.
    pub fn at(socket: &Path) -> Self {
        Self { target: Target::Unix(PathBuf::from(socket)) }
    }

    /// One request, whatever its answer.
    pub async fn request(&self, method: Method, path: &str, content_type: &str, body: Vec<u8>) -> Result<Answer> {
        let request = Request::builder().method(&method).uri(path).header("content-type", content_type);
        client::send(&self.target, request.body(client::full(body))?).await.with_context(|| format!("{method} {path}"))
    }

    /// An object or a list; none where the server knows no such thing.
    pub async fn find(&self, path: &str) -> Result<Option<Value>> {
        let answer = self.request(Method::GET, path, "application/json", Vec::new()).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        read(path, &answer).map(Some)
    }

    /// An object or a list that is there.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.find(path).await?.with_context(|| format!("{path}: not there"))
    }

    /// The objects of a list.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>> {
        Ok(self.get(path).await?["items"].as_array().cloned().unwrap_or_default())
    }

    /// Makes an object at the collection's path.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        read(path, &self.request(Method::POST, path, "application/json", object.to_string().into()).await?)
    }

    /// Makes or changes an object: what is in `object` becomes ours, the rest stays.
    pub async fn apply(&self, path: &str, object: &Value) -> Result<Value> {
        let path = format!("{path}?fieldManager=zipline-e2e&force=true");
        read(&path, &self.request(Method::PATCH, &path, "application/apply-patch+yaml", object.to_string().into()).await?)
    }

    /// Changes some fields; `null` removes one.
    pub async fn patch(&self, path: &str, change: &Value) -> Result<Value> {
        read(path, &self.request(Method::PATCH, path, "application/merge-patch+json", change.to_string().into()).await?)
    }

    /// Removes an object, in the foreground; one that is gone is no error.
    pub async fn delete(&self, path: &str) -> Result<()> {
        self.delete_with(path, &json!({ "propagationPolicy": "Foreground" })).await
    }

    /// Removes an object with these options.
    pub async fn delete_with(&self, path: &str, options: &Value) -> Result<()> {
        let answer = self.request(Method::DELETE, path, "application/json", options.to_string().into()).await?;
        if answer.status == StatusCode::NOT_FOUND { Ok(()) } else { read(path, &answer).map(|_| ()) }
    }

    /// Waits until what is at `path` is as wanted; absent counts as null.
    pub async fn until(&self, what: &str, limit: Duration, path: &str, mut holds: impl FnMut(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + limit;
        loop {
            let seen = self.find(path).await.map(Option::unwrap_or_default);
            match seen {
                Ok(seen) if holds(&seen) => return Ok(seen),
                seen if Instant::now() >= deadline => bail!("waited {limit:?} for {what} at {path}; seen instead: {seen:?}"),
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Follows a collection for ever.
    pub fn follow(&self, path: &'static str) -> Follow {
        Follow { api: self.clone(), path, watch: None }
    }

    /// Events of a collection from now on.
    pub async fn watch(&self, path: &str) -> Result<Watch> {
        let path = format!("{path}?watch=1&allowWatchBookmarks=false");
        let open = client::open(&self.target, Request::get(&path).body(client::empty())?).await?;
        if !open.response.status().is_success() {
            bail!("watching {path}: {}", open.response.status());
        }
        Ok(Watch { open, read: BytesMut::new() })
    }
}

fn read(path: &str, answer: &Answer) -> Result<Value> {
    if !answer.status.is_success() {
        bail!("{path}: {} {}", answer.status, answer.text());
    }
    answer.json()
}

/// What [`Follow`] sees.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A new watch began: everything that is there comes again, what was there before may have gone.
    Begun,
    /// The kind of a change (`ADDED`, `MODIFIED`, `DELETED`) and the object.
    Changed(String, Value),
}

/// A collection that is followed. A watch that ends or is refused, as while the server prepares a new kind of object, is begun anew.
#[derive(Debug)]
pub struct Follow {
    api: Api,
    path: &'static str,
    watch: Option<Watch>,
}

impl Follow {
    /// The next thing that happens.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(watch) = &mut self.watch {
                match watch.next().await {
                    // Anything else is an end; `ERROR` says that the server forgot what we had seen last.
                    Ok(Some((kind, object))) if kind != "ERROR" => return Event::Changed(kind, object),
                    _ => self.watch = None,
                }
            }
            tokio::time::sleep(LOOK).await;
            match self.api.watch(self.path).await {
                Ok(watch) => {
                    self.watch = Some(watch);
                    return Event::Begun;
                }
                Err(error) => println!("{error:#}"),
            }
        }
    }
}

/// Events, one after the other: first one for each object that is there.
#[derive(Debug)]
pub struct Watch {
    open: Open,
    read: BytesMut,
}

impl Watch {
    /// The next event: its kind (`ADDED`, `MODIFIED`, `DELETED`) and the object. None at the end.
    pub async fn next(&mut self) -> Result<Option<(String, Value)>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Bytes = self.read.split_to(end).freeze();
                self.read.advance(1);
                let mut event: Value = serde_json::from_slice(&line).context("a watch event")?;
                return Ok(Some((event["type"].as_str().unwrap_or_default().to_owned(), event["object"].take())));
            }
            match self.open.response.body_mut().frame().await {
                None => return Ok(None),
                Some(frame) => self.read.extend_from_slice(frame?.data_ref().map_or(&[][..], |data| data)),
            }
            if self.read.len() > WATCH_LINE_BYTES_MAX {
                bail!("a watch event of more than {WATCH_LINE_BYTES_MAX} bytes");
            }
        }
    }
}

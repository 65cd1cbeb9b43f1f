//! Keeps a key ring in every namespace that has Zipline switched on: by the namespace's own label, or by that of a pod in it.
//!
//! A namespace that is switched off keeps its ring, since pods of it may still run; `zipline uninstall` removes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, pin_mut};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;

use super::metrics::State;
use super::{ControllerError, has_code, refused, wall_ms};
use crate::names::{
    ENABLED, ENABLED_LABEL, FIELD_MANAGER, KEYS_ENTRY, KEYS_SECRET, MANAGED_BY, MANAGED_BY_LABEL, REVISION_LABEL,
};
use crate::rotation::{Policy, Ring};

/// A namespace is looked at at least so often: a Secret may have been deleted or spoilt by hand.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// After a refusal of the cluster.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Which namespaces need a ring, and why.
#[derive(Default)]
struct Wanted {
    by_label: BTreeSet<String>,
    /// Pods that ask for it, by namespace.
    by_pods: BTreeMap<String, BTreeSet<String>>,
    /// When each is to be looked at next.
    due: BTreeMap<String, Instant>,
}

/// What a watch says: of an object only its names are kept.
enum Seen {
    NamespacesAnew,
    Namespace {
        name: String,
        is_there: bool,
    },
    PodsAnew,
    Pod {
        namespace: String,
        name: String,
        is_there: bool,
    },
    /// The first list is complete; nothing follows from it here.
    Complete,
}

impl Seen {
    fn of_namespace(event: watcher::Event<Namespace>) -> Self {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        match event {
            Init => Self::NamespacesAnew,
            Apply(namespace) | InitApply(namespace) => Self::Namespace { name: namespace.name_any(), is_there: true },
            Delete(namespace) => Self::Namespace { name: namespace.name_any(), is_there: false },
            InitDone => Self::Complete,
        }
    }

    fn of_pod(event: watcher::Event<Pod>) -> Self {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let seen = |pod: Pod, is_there| {
            let namespace = pod.namespace().unwrap_or_default();
            Self::Pod { namespace, name: pod.name_any(), is_there }
        };
        match event {
            Init => Self::PodsAnew,
            Apply(pod) | InitApply(pod) => seen(pod, true),
            Delete(pod) => seen(pod, false),
            InitDone => Self::Complete,
        }
    }
}

/// Keeps the rings until it is dropped.
pub(super) async fn keep(client: Client, policy: Policy, state: Arc<State>) -> Result<(), ControllerError> {
    let changes = watch(&client);
    pin_mut!(changes);
    let mut wanted = Wanted::default();
    loop {
        let due = wanted.due.values().min().copied();
        tokio::select! {
            seen = changes.next() => match seen {
                Some(Ok(seen)) => wanted.see(seen),
                // The stream itself waits longer after each failure, and begins anew.
                Some(Err(error)) => {
                    state.failed("watch");
                    tracing::warn!(%error, "namespaces can't be watched just now");
                }
                None => return Err(ControllerError::Ended("the watch on namespaces")),
            },
            () = wait_until(due), if due.is_some() => {}
        }
        state.namespaces(wanted.due.len());
        for namespace in wanted.take_due(Instant::now()) {
            let next = match keep_one(&client, &namespace, policy, &state).await {
                Ok(next) => next.min(LOOK_AGAIN),
                Err(error) => {
                    state.failed("keys");
                    tracing::warn!(namespace, %error, "the namespace's keys can't be kept just now");
                    TRY_AGAIN
                }
            };
            wanted.due.insert(namespace, Instant::now() + next);
        }
    }
}

async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn watch(client: &Client) -> impl Stream<Item = Result<Seen, watcher::Error>> + use<> {
    let enabled = format!("{ENABLED_LABEL}={ENABLED}");
    let namespaces = watcher(Api::<Namespace>::all(client.clone()), watcher::Config::default().labels(&enabled));
    let pods = watcher::Config::default().labels(&format!("{enabled},{REVISION_LABEL}"));
    let pods = watcher(Api::<Pod>::all(client.clone()), pods);
    let namespaces = namespaces.default_backoff().map(|event| event.map(Seen::of_namespace));
    futures_util::stream::select(namespaces, pods.default_backoff().map(|event| event.map(Seen::of_pod)))
}

impl Wanted {
    fn see(&mut self, seen: Seen) {
        match seen {
            Seen::NamespacesAnew => self.by_label.clear(),
            Seen::Namespace { name, is_there: true } => drop(self.by_label.insert(name)),
            Seen::Namespace { name, is_there: false } => drop(self.by_label.remove(&name)),
            Seen::PodsAnew => self.by_pods.clear(),
            Seen::Pod { namespace, name, is_there: true } => drop(self.by_pods.entry(namespace).or_default().insert(name)),
            Seen::Pod { namespace, name, is_there: false } => {
                if let Some(pods) = self.by_pods.get_mut(&namespace) {
                    pods.remove(&name);
                }
                self.by_pods.retain(|_, pods| !pods.is_empty());
            }
            Seen::Complete => {}
        }
        let is_wanted = |namespace: &String| self.by_label.contains(namespace) || self.by_pods.contains_key(namespace);
        self.due.retain(|namespace, _| is_wanted(namespace));
        for namespace in self.by_label.iter().chain(self.by_pods.keys()) {
            self.due.entry(namespace.clone()).or_insert_with(Instant::now);
        }
    }

    fn take_due(&self, now: Instant) -> Vec<String> {
        self.due.iter().filter(|(_, due)| **due <= now).map(|(namespace, _)| namespace.clone()).collect()
    }
}

/// Makes or renews one namespace's ring; gives how long it may stay as it is.
async fn keep_one(client: &Client, namespace: &str, policy: Policy, state: &State) -> Result<Duration, ControllerError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = secrets.get_opt(KEYS_SECRET).await.map_err(refused("reading the key ring"))?;
    let now_ms = wall_ms();
    let (ring, next_ms) = match found.as_ref().map(read) {
        Some(Ok(ring)) => {
            let kept = ring.keep(now_ms, policy, random);
            (kept.changed, kept.next_ms)
        }
        Some(Err(error)) => {
            tracing::error!(
                namespace,
                error,
                "the Secret zipline-keys is replaced by a new ring: references made before are lost"
            );
            (Some(Ring::first(now_ms, policy, random)), now_ms)
        }
        None => (Some(Ring::first(now_ms, policy, random)), now_ms),
    };
    let Some(ring) = ring else {
        return Ok(Duration::from_millis(next_ms.saturating_sub(now_ms)));
    };
    match write(&secrets, found, &ring).await {
        Ok(()) => {
            state.rotated();
            tracing::info!(namespace, keys = ?ring.summary(), "the namespace has a new key ring");
            Ok(LOOK_AGAIN)
        }
        // Another replica was faster, or the namespace is going away.
        Err(error) if has_code(&error, 409) || has_code(&error, 404) => Ok(TRY_AGAIN),
        Err(error) => Err(refused("writing the key ring")(error)),
    }
}

/// The ring in a Secret.
pub(crate) fn read(secret: &Secret) -> Result<Ring, String> {
    let text = secret.data.as_ref().and_then(|data| data.get(KEYS_ENTRY));
    let text = text.ok_or_else(|| format!("it has no entry {KEYS_ENTRY}"))?;
    Ring::parse(&text.0).map_err(|error| error.to_string())
}

/// Writes a ring over what was read, or anew; 409 when somebody else wrote meanwhile.
pub(crate) async fn write(secrets: &Api<Secret>, found: Option<Secret>, ring: &Ring) -> Result<(), kube::Error> {
    let is_new = found.is_none();
    let mut secret = found.unwrap_or_default();
    secret.metadata.name = Some(KEYS_SECRET.to_owned());
    let labels = secret.metadata.labels.get_or_insert_default();
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    secret.data = Some(BTreeMap::from([(KEYS_ENTRY.to_owned(), ByteString(ring.to_text().into_bytes()))]));
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match is_new {
        true => secrets.create(&parameters, &secret).await.map(drop),
        false => secrets.replace(KEYS_SECRET, &parameters, &secret).await.map(drop),
    }
}

/// Fills with what nobody can guess; without it there can be no key.
pub(crate) fn random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the kernel gives random bytes to every process, from its start on");
}

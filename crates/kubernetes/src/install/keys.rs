//! `zipline rotate-keys`.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use serde::Serialize;

use super::{InstallError, Report, refused};
use crate::controller::{random, read_ring, write_ring};
use crate::names::KEYS_SECRET;
use crate::rotation::{KeySummary, Policy};

/// Tries to write over a ring that the controller changes at the same time.
const TRIES_MAX: usize = 5;

/// Arguments of `zipline rotate-keys`.
#[derive(Clone, Debug, Args)]
pub struct RotateKeys {
    /// The namespace
    #[arg(long, short)]
    namespace: String,
}

/// The ring after a rotation.
#[derive(Clone, Debug, Serialize)]
pub struct Rotated {
    schema: u32,
    namespace: String,
    /// False where a key that waits to begin was there already.
    added: bool,
    keys: Vec<KeySummary>,
}

impl Report for Rotated {
    fn text(&self) -> String {
        let mut text = match self.added {
            true => format!("namespace {}: a key was added\n", self.namespace),
            false => format!("namespace {}: a key that waits to begin is there already\n", self.namespace),
        };
        for key in &self.keys {
            text += &format!("  {}  seals from {} ms, opens until {} ms (Unix)\n", key.id, key.not_before_ms, key.not_after_ms);
        }
        text
    }
}

/// Adds a key to a namespace's ring.
///
/// # Errors
/// When there is no ring, or the cluster refuses.
pub async fn rotate_keys(client: Client, arguments: RotateKeys) -> Result<Rotated, InstallError> {
    let namespace = arguments.namespace;
    let secrets: Api<Secret> = Api::namespaced(client, &namespace);
    let mut tries = 0;
    loop {
        let found = secrets.get_opt(KEYS_SECRET).await.map_err(refused("reading the key ring"))?;
        let found = found.ok_or_else(|| InstallError::NoKeys { namespace: namespace.clone() })?;
        let ring = read_ring(&found).map_err(|reason| InstallError::BadKeys { namespace: namespace.clone(), reason })?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let Some(changed) = ring.rotate(now_ms, Policy::default(), random).changed else {
            return Ok(Rotated { schema: 1, namespace, added: false, keys: ring.summary() });
        };
        match write_ring(&secrets, Some(found), &changed).await {
            Ok(()) => return Ok(Rotated { schema: 1, namespace, added: true, keys: changed.summary() }),
            Err(kube::Error::Api(status)) if status.code == 409 && tries < TRIES_MAX => tries += 1,
            Err(error) => return Err(refused("writing the key ring")(error)),
        }
    }
}

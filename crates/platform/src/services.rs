//! The services of the platform: what was applied, which revisions they have, and where their requests go.
//!
//! A changed template makes a new revision. Requests go on to the old one until the new one has been ready once; then
//! the old one loses its route and scales to zero. A new revision that never becomes ready takes nothing away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::task::JoinSet;
use zipline_core::kpa::{AnnotationErrors, KpaSpec};
use zipline_core::time::WallTime;

use crate::activator::PathCount;
use crate::autoscaler::{self, DecisionLog};
use crate::changes::Changes;
use crate::clock;
use crate::ingress::Routes;
use crate::manifest::{AutoscalerSettings, Manifest, ManifestError, ServiceName, ServiceSpec, parse_manifest};
use crate::revision::Revision;
use crate::supervisor::{Counters, Host, StopMode};

/// Services of one platform.
pub const SERVICES_MAX: usize = 1000;

/// Why a manifest was not applied.
#[derive(Debug, Error)]
pub(crate) enum ApplyError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("{service}: revision `{revision}` exists and runs something else (hint: give the template another name)")]
    RevisionExists { service: ServiceName, revision: String },
    #[error("{service}: its annotations do not fit the new config-autoscaler: {errors}")]
    Unfit { service: ServiceName, errors: AnnotationErrors },
    #[error("the platform has {SERVICES_MAX} services, as many as it can")]
    TooMany,
    #[error("the platform is shutting down")]
    ShuttingDown,
}

/// What applying did to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is new.
    Created,
    /// It has a new revision, or other metadata.
    Configured,
    /// It is as it was.
    Unchanged,
}

/// A service that was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Its name.
    #[serde(flatten)]
    pub service: ServiceName,
    /// Its latest revision.
    pub revision: String,
    /// What was done.
    pub change: Change,
}

/// What every part of the platform shares.
pub(crate) struct Shared {
    pub(crate) host: Arc<Host>,
    pub(crate) routes: Routes,
    pub(crate) counters: Arc<Counters>,
    pub(crate) decisions: DecisionLog,
    pub(crate) changes: Changes,
    table: Mutex<Table>,
}

struct Table {
    autoscaler: AutoscalerSettings,
    services: BTreeMap<ServiceName, Service>,
    /// Requests of revisions that are over, so that counters never fall.
    past: (PathCount, PathCount),
    shutting_down: bool,
}

/// A service, with its living revisions.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) spec: ServiceSpec,
    pub(crate) generation: u64,
    pub(crate) created: WallTime,
    /// The last in the list is the latest.
    pub(crate) revisions: Vec<Arc<Revision>>,
    /// The name of the latest revision, also when it is over.
    pub(crate) latest: String,
    /// Its requests of revisions that are over.
    pub(crate) past: (PathCount, PathCount),
    /// It was deleted, and waits for its last instance.
    pub(crate) deleted: bool,
}

/// The services, and the tasks that run their revisions.
pub(crate) struct Services {
    pub(crate) shared: Arc<Shared>,
    revisions: Mutex<JoinSet<()>>,
}

impl Shared {
    pub(crate) fn new(host: Arc<Host>, decisions: DecisionLog, autoscaler: AutoscalerSettings) -> Self {
        let table =
            Table { autoscaler, services: BTreeMap::new(), past: <(PathCount, PathCount)>::default(), shutting_down: false };
        Self {
            host,
            routes: Routes::default(),
            counters: Arc::default(),
            decisions,
            changes: Changes::new(),
            table: Mutex::new(table),
        }
    }

    /// A revision has a ready instance, or needs none: if it is its service's latest, requests go there from now on.
    pub(crate) fn ready(&self, revision: &Arc<Revision>) {
        if !revision.note_ready() {
            return;
        }
        let table = self.lock();
        let Some(service) = table.services.get(&revision.service) else { return };
        let is_latest = service.revisions.last().is_some_and(|latest| Arc::ptr_eq(latest, revision));
        if is_latest && !service.deleted {
            self.move_route(revision);
        }
    }

    /// A revision has ended.
    pub(crate) fn over(&self, revision: &Arc<Revision>) {
        self.routes.forget(revision);
        let mut table = self.lock();
        let (through, past) = (revision.through_activator.count(), revision.past_activator.count());
        table.past.0.add(&through);
        table.past.1.add(&past);
        if let Some(service) = table.services.get_mut(&revision.service) {
            service.past.0.add(&through);
            service.past.1.add(&past);
            service.revisions.retain(|other| !Arc::ptr_eq(other, revision));
            if service.deleted && service.revisions.is_empty() {
                table.services.remove(&revision.service);
            }
        }
        drop(table);
        self.changes.note();
    }

    /// All services, by name.
    pub(crate) fn services(&self) -> Vec<Service> {
        self.lock().services.values().cloned().collect()
    }

    /// One service, also one that is being deleted.
    pub(crate) fn service(&self, name: &ServiceName) -> Option<Service> {
        self.lock().services.get(name).cloned()
    }

    /// What passed the front door since the start: through the activator, and past it.
    pub(crate) fn traffic(&self) -> (PathCount, PathCount) {
        let table = self.lock();
        let mut sum = table.past;
        for revision in table.services.values().flat_map(|service| &service.revisions) {
            sum.0.add(&revision.through_activator.count());
            sum.1.add(&revision.past_activator.count());
        }
        sum
    }

    fn move_route(&self, revision: &Arc<Revision>) {
        let before = self.routes.lead(&revision.service, revision);
        if let Some(before) = before.filter(|before| !Arc::ptr_eq(before, revision)) {
            before.demand(|demand| demand.reachable = false);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Each change is complete before the next begins.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Services {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, revisions: Mutex::new(JoinSet::new()) }
    }

    /// Applies a manifest: all of it, or nothing where any of it is wrong.
    pub(crate) fn apply(&self, text: &str, base_dir: &std::path::Path) -> Result<(Vec<Applied>, Manifest), ApplyError> {
        let mut table = self.shared.lock();
        if table.shutting_down {
            return Err(ApplyError::ShuttingDown);
        }
        let manifest = parse_manifest(text, base_dir, &table.autoscaler)?;
        self.check(&table, &manifest)?;
        if let Some(autoscaler) = &manifest.autoscaler {
            respecify(&table, autoscaler)?;
            table.autoscaler = autoscaler.clone();
        }
        let applied = manifest.services.iter().map(|spec| self.apply_one(&mut table, spec)).collect();
        self.shared.changes.note();
        Ok((applied, manifest))
    }

    /// What would make a manifest fail halfway.
    fn check(&self, table: &Table, manifest: &Manifest) -> Result<(), ApplyError> {
        let new = manifest.services.iter().filter(|spec| !table.services.contains_key(&spec.name)).count();
        if table.services.len() + new > SERVICES_MAX {
            return Err(ApplyError::TooMany);
        }
        for spec in &manifest.services {
            let Some(name) = &spec.template.name else { continue };
            let Some(service) = table.services.get(&spec.name) else { continue };
            let same = service.spec.template == spec.template && !service.deleted;
            let taken = service.latest == *name || service.revisions.iter().any(|revision| revision.name == *name);
            if taken && !same {
                return Err(ApplyError::RevisionExists { service: spec.name.clone(), revision: name.clone() });
            }
        }
        Ok(())
    }

    fn apply_one(&self, table: &mut Table, spec: &ServiceSpec) -> Applied {
        let applied = |revision: &str, change| Applied { service: spec.name.clone(), revision: revision.to_owned(), change };
        let existing = table.services.get_mut(&spec.name);
        if let Some(service) = existing {
            if service.spec.template == spec.template && !service.deleted {
                let change = if service.spec == *spec { Change::Unchanged } else { Change::Configured };
                service.spec = spec.clone();
                return applied(&service.latest, change);
            }
            let change = if service.deleted { Change::Created } else { Change::Configured };
            service.generation += 1;
            service.deleted = false;
            service.spec = spec.clone();
            // One that never got the route has nothing to finish.
            let routed = self.shared.routes.of(&spec.name);
            if let Some(candidate) = service.revisions.last()
                && !routed.as_ref().is_some_and(|routed| Arc::ptr_eq(routed, candidate))
            {
                candidate.demand(|demand| demand.end = Some(StopMode::Drain));
            }
            let revision = self.start_revision(spec, service.generation);
            service.latest.clone_from(&revision.name);
            service.revisions.push(Arc::clone(&revision));
            if routed.is_none() {
                self.shared.move_route(&revision);
            }
            return applied(&revision.name, change);
        }
        let revision = self.start_revision(spec, 1);
        let service = Service {
            spec: spec.clone(),
            generation: 1,
            created: clock::wall_now(),
            revisions: vec![Arc::clone(&revision)],
            latest: revision.name.clone(),
            past: <(PathCount, PathCount)>::default(),
            deleted: false,
        };
        table.services.insert(spec.name.clone(), service);
        // Requests may come before its first instance is ready: the activator holds them.
        self.shared.move_route(&revision);
        applied(&revision.name, Change::Created)
    }

    fn start_revision(&self, spec: &ServiceSpec, generation: u64) -> Arc<Revision> {
        let name = spec.template.name.clone().unwrap_or_else(|| format!("{}-{generation:05}", spec.name.name));
        let (template, autoscaling) = (Arc::new(spec.template.clone()), Arc::new(spec.autoscaling.clone()));
        let (revision, inbox) = Revision::new(name, spec.name.clone(), template, autoscaling, self.shared.changes.clone());
        self.shared.routes.add(&revision);
        let mut revisions = lock(&self.revisions);
        while revisions.try_join_next().is_some() {}
        revisions.spawn(autoscaler::run(Arc::clone(&revision), inbox, Arc::clone(&self.shared)));
        revision
    }

    /// Deletes a service: its host is unknown at once, its instances drain. Answers its revisions; `None` if there is none.
    pub(crate) fn delete(&self, name: &ServiceName) -> Option<Vec<Arc<Revision>>> {
        let mut table = self.shared.lock();
        let service = table.services.get_mut(name)?;
        service.deleted = true;
        self.shared.routes.close(name);
        for revision in &service.revisions {
            revision.demand(|demand| {
                demand.reachable = false;
                demand.end = Some(demand.end.unwrap_or(StopMode::Drain));
            });
        }
        self.shared.changes.note();
        let revisions = service.revisions.clone();
        if revisions.is_empty() {
            table.services.remove(name);
        }
        Some(revisions)
    }

    /// Ends everything as `mode` says, and waits for it.
    pub(crate) async fn shut_down(&self, mode: StopMode) {
        {
            let mut table = self.shared.lock();
            table.shutting_down = true;
            for revision in table.services.values().flat_map(|service| &service.revisions) {
                revision.demand(|demand| demand.end = Some(mode));
            }
        }
        let mut revisions = std::mem::take(&mut *lock(&self.revisions));
        while revisions.join_next().await.is_some() {}
    }
}

/// Reads every revision's annotations over new settings.
fn respecify(table: &Table, autoscaler: &AutoscalerSettings) -> Result<(), ApplyError> {
    let revisions: Vec<&Arc<Revision>> = table.services.values().flat_map(|service| &service.revisions).collect();
    let mut specs = Vec::with_capacity(revisions.len());
    for revision in &revisions {
        let annotations = revision.spec.annotations.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let concurrency = revision.spec.limits.container_concurrency;
        let (spec, _warned_of_before) = KpaSpec::from_annotations(annotations, concurrency, autoscaler.config())
            .map_err(|errors| ApplyError::Unfit { service: revision.service.clone(), errors })?;
        specs.push(Arc::new(spec));
    }
    for (revision, spec) in revisions.into_iter().zip(specs) {
        revision.demand(|demand| demand.autoscaling = spec);
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A set of tasks is whole after every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

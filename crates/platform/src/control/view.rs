//! Makes what the control API says from what the platform knows.

use std::sync::Arc;

use futures_util::future::join_all;

use super::model::{InstanceCount, InstanceOf, InstanceView, RevisionView, ScaleView, ServiceView, Status};
use crate::activator::PathCount;
use crate::autoscaler::held;
use crate::manifest::ServiceName;
use crate::revision::Revision;
use crate::services::{Service, Shared};
use crate::supervisor::{Instance, Phase};

pub(super) fn service(shared: &Shared, ingress: &str, service: &Service) -> ServiceView {
    let name = &service.spec.name;
    let routed = shared.routes.of(name).map(|revision| revision.name.clone());
    let revisions: Vec<RevisionView> = service.revisions.iter().map(|revision| self::revision(revision)).collect();
    let mut instances = InstanceCount::default();
    for revision in &revisions {
        instances.starting += revision.instances.starting;
        instances.ready += revision.instances.ready;
        instances.stopping += revision.instances.stopping;
    }
    let (activator, direct) = traffic(service);
    let reason = why_not_ready(shared, service);
    ServiceView {
        service: name.clone(),
        url: url(ingress, name),
        ready: reason.is_none(),
        reason,
        deleting: service.deleted,
        generation: service.generation,
        created_ms: service.created,
        labels: service.spec.labels.clone(),
        annotations: service.spec.annotations.clone(),
        latest_revision: service.latest.clone(),
        routed_revision: routed,
        instances,
        waiting: service.revisions.iter().map(|revision| revision.activator.waiting()).sum(),
        activator,
        direct,
        revisions,
    }
}

/// `None` for a service that is ready.
pub(super) fn why_not_ready(shared: &Shared, service: &Service) -> Option<String> {
    if service.deleted {
        return Some("it was deleted".to_owned());
    }
    let Some(latest) = service.revisions.iter().find(|revision| revision.name == service.latest) else {
        return Some(format!("revision {} has ended", service.latest));
    };
    let routed = shared.routes.of(&service.spec.name).is_some_and(|routed| Arc::ptr_eq(&routed, latest));
    if routed && latest.was_ready() {
        return None;
    }
    if let Some(trouble) = latest.trouble() {
        return Some(trouble);
    }
    let reasons = latest.instances().into_iter().map(|instance| {
        let last = instance.log.tail(1).pop().map(|line| format!(" (its log ends with: {})", line.text));
        format!("{}: {}{}", instance.name, instance.status().reason, last.unwrap_or_default())
    });
    Some(reasons.last().unwrap_or_else(|| format!("revision {} has no instance yet", latest.name)))
}

/// What passed the activator for a service, and what went past it.
fn traffic(service: &Service) -> (PathCount, PathCount) {
    let mut sum = service.past;
    for revision in &service.revisions {
        sum.0.add(&revision.through_activator.count());
        sum.1.add(&revision.past_activator.count());
    }
    sum
}

/// `http://NAME.NAMESPACE.localhost:PORT` for an ingress of `http://ADDRESS:PORT`.
fn url(ingress: &str, service: &ServiceName) -> String {
    let port = ingress.rsplit_once(':').map_or("80", |(_, port)| port);
    format!("http://{}.{}.localhost:{port}", service.name, service.namespace)
}

fn revision(revision: &Revision) -> RevisionView {
    RevisionView {
        name: revision.name.clone(),
        was_ready: revision.was_ready(),
        reachable: revision.demanded().reachable,
        instances: count(revision),
        in_flight: revision.activator.in_flight(),
        container_concurrency: revision.spec.limits.container_concurrency,
        scale: revision.last_tick().map(|tick| ScaleView {
            want: tick.decision.scale.want,
            path: tick.decision.scale.path,
            activity: tick.decision.scale.activity,
            panicking: tick.decision.panicking,
            stable: tick.input.observed.map(|observed| observed.stable),
            panic: tick.input.observed.map(|observed| observed.panic),
        }),
    }
}

fn count(revision: &Revision) -> InstanceCount {
    let mut count = InstanceCount::default();
    for instance in revision.instances() {
        match instance.status().phase {
            Phase::Starting => count.starting += 1,
            Phase::Ready => count.ready += 1,
            Phase::Stopping => count.stopping += 1,
            Phase::Ended => {}
        }
    }
    count
}

/// The instances of these services, oldest first, each asked what it holds.
pub(super) async fn instances(services: &[Service]) -> Vec<InstanceView> {
    let instances: Vec<Arc<Instance>> =
        services.iter().flat_map(|service| &service.revisions).flat_map(|revision| revision.instances()).collect();
    join_all(instances.iter().map(instance)).await
}

async fn instance(instance: &Arc<Instance>) -> InstanceView {
    let held = held(instance.address).await;
    let status = instance.status();
    InstanceView {
        name: instance.name.clone(),
        service: InstanceOf {
            namespace: instance.service.namespace.clone(),
            service: instance.service.name.clone(),
            revision: instance.revision.clone(),
        },
        state: status.phase,
        reason: status.reason,
        address: instance.address.into(),
        function_port: instance.function_port(),
        proxy_pid: status.proxy_pid,
        function_pid: status.function_pid,
        restarts: status.restarts,
        started_ms: instance.started_wall,
        held,
    }
}

/// The platform as a whole, without asking any queue-proxy.
pub(super) fn status(shared: &Shared) -> Status {
    let services = shared.services();
    let mut instances = InstanceCount::default();
    let mut waiting = 0;
    for revision in services.iter().flat_map(|service| &service.revisions) {
        let count = count(revision);
        instances.starting += count.starting;
        instances.ready += count.ready;
        instances.stopping += count.stopping;
        waiting += revision.activator.waiting();
    }
    let (activator, direct) = shared.traffic();
    Status {
        services: services.len(),
        instances,
        instance_starts: shared.counters.starts(),
        instance_crashes: shared.counters.crashes(),
        waiting,
        activator,
        direct,
        budget_bytes_used: shared.host.budget_bytes_used(),
        client: None,
    }
}

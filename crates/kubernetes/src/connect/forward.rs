//! The client proxy's local API on a Unix socket here: each connection is one port forwarding of the API server's.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use zipline_contract::doors;

use super::proxy;
use crate::door;

/// Connections at once; an SDK keeps 64 at the most. Further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 128;

/// Forwards connections until it is dropped.
pub(super) async fn serve(listener: UnixListener, client: Client, namespace: String) {
    let connection = move |stream| {
        let (client, namespace) = (client.clone(), namespace.clone());
        async move {
            if let Err(error) = forward(stream, &client, &namespace).await {
                tracing::warn!(error, "the client proxy can't be reached");
            }
        }
    };
    door::serve(listener, CONNECTIONS_MAX, connection).await;
}

/// Carries one connection to its end.
async fn forward(mut here: UnixStream, client: &Client, namespace: &str) -> Result<(), String> {
    let pod = proxy::pod(client, namespace).await.map_err(|error| error.to_string())?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let forwarded = pods.portforward(&pod, &[doors::API]).await;
    let mut forwarded = forwarded.map_err(|error| format!("port forwarding to pod {pod}: {error}"))?;
    let mut there = forwarded.take_stream(doors::API).ok_or("port forwarding without its port")?;
    // Either side may end it; the other sees the end.
    let _ended = copy_bidirectional(&mut here, &mut there).await;
    Ok(())
}

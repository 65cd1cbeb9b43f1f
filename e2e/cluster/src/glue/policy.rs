//! NetworkPolicies as rules of nftables in every node's network: what a network plugin does that enforces them.
//!
//! As much of it as tests use: `podSelector` by `matchLabels`, ingress by TCP ports, from everywhere or from pods of the same namespace
//! chosen likewise. A policy with anything else is refused aloud and lets nothing in, so that no test passes for want of a rule.
//! Rules are made anew from all policies and pods at every change, and take the place of the former ones at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::Api;
use crate::api::Event;
use crate::cluster::name_of;

const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";
const PODS: &str = "/api/v1/pods";
/// The table in each node's network.
const TABLE: &str = "inet zipline-e2e-policy";

/// Where rules go: the program, and the network of each node but the first, which is the one we are in.
#[derive(Clone, Debug)]
pub struct Networks {
    /// `nft`.
    pub nft: PathBuf,
    /// Each node's network.
    pub networks: Vec<Option<PathBuf>>,
}

type Objects = BTreeMap<(String, String), Value>;

/// Keeps the rules up to date, for as long as the API server lets it.
pub async fn serve(api: Api, networks: Networks) -> Result<()> {
    let (mut policies, mut pods) = (api.follow(POLICIES), api.follow(PODS));
    let (mut known_policies, mut known_pods) = (Objects::new(), Objects::new());
    let mut in_force = String::new();
    loop {
        tokio::select! {
            event = policies.next() => see(&mut known_policies, event),
            event = pods.next() => see(&mut known_pods, event),
        }
        let rules = rules(&known_policies, &known_pods);
        if rules != in_force {
            for network in &networks.networks {
                load(&networks.nft, network.as_ref(), &rules).await?;
            }
            in_force = rules;
        }
    }
}

fn see(known: &mut Objects, event: Event) {
    match event {
        Event::Begun => known.clear(),
        Event::Changed(kind, object) => {
            let key = (object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned(), name_of(&object).to_owned());
            if kind == "DELETED" { drop(known.remove(&key)) } else { drop(known.insert(key, object)) }
        }
    }
}

async fn load(nft: &PathBuf, network: Option<&PathBuf>, rules: &str) -> Result<()> {
    let mut command = match network {
        Some(network) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", network.display())).arg("--").arg(nft);
            command
        }
        None => Command::new(nft),
    };
    let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
    child.stdin.take().context("its standard input is a pipe")?.write_all(rules.as_bytes()).await?;
    let output = child.wait_with_output().await?;
    ensure!(output.status.success(), "nft: {}\n{rules}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The whole table: made if it is not there, emptied, filled.
fn rules(policies: &Objects, pods: &Objects) -> String {
    let mut text = format!("table {TABLE} {{}}\ndelete table {TABLE}\ntable {TABLE} {{\n  chain forward {{\n");
    text.push_str("    type filter hook forward priority filter; policy accept;\n    ct state established,related accept\n");
    let mut isolated: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for ((namespace, name), policy) in policies {
        let admitted = admitted(&policy["spec"], namespace, pods).unwrap_or_else(|| {
            println!("NetworkPolicy {namespace}/{name} asks for more than is known here; it lets nothing in");
            Vec::new()
        });
        for address in chosen(&policy["spec"]["podSelector"], namespace, pods).unwrap_or_default() {
            isolated.entry(address).or_default().extend(admitted.iter().cloned());
        }
    }
    for (address, admitted) in &isolated {
        for condition in admitted {
            text.push_str(&format!("    ip daddr {address} {condition}accept\n"));
        }
    }
    for address in isolated.keys() {
        text.push_str(&format!("    ip daddr {address} drop\n"));
    }
    text + "  }\n}\n"
}

/// The conditions under which a policy lets a packet in, one of which must hold; none where it asks for what is not known here.
fn admitted(spec: &Value, namespace: &str, pods: &Objects) -> Option<Vec<String>> {
    let mut conditions = Vec::new();
    for rule in spec["ingress"].as_array().into_iter().flatten() {
        let sources = match rule["from"].as_array() {
            None => vec![String::new()],
            Some(peers) => {
                let mut addresses = Vec::new();
                for peer in peers {
                    let by_pod = peer.as_object()?.len() == 1 && peer["podSelector"].is_object();
                    addresses.extend(by_pod.then(|| chosen(&peer["podSelector"], namespace, pods)).flatten()?);
                }
                addresses.into_iter().map(|address| format!("ip saddr {address} ")).collect()
            }
        };
        let ports = match rule["ports"].as_array() {
            None => vec![String::new()],
            Some(ports) => {
                let tcp =
                    ports.iter().map(|port| (port["protocol"].as_str().unwrap_or("TCP") == "TCP").then(|| port["port"].as_u64()));
                let ports: Option<Vec<u64>> = tcp.map(Option::flatten).collect();
                ports?.into_iter().map(|port| format!("tcp dport {port} ")).collect()
            }
        };
        conditions.extend(sources.iter().flat_map(|source| ports.iter().map(move |port| format!("{source}{port}"))));
    }
    Some(conditions)
}

/// The addresses of a namespace's pods that have these labels.
fn chosen<'p>(selector: &Value, namespace: &str, pods: &'p Objects) -> Option<Vec<&'p str>> {
    let is_known = selector.as_object()?.keys().all(|key| key == "matchLabels");
    let wanted = selector["matchLabels"].as_object();
    let has_labels =
        |pod: &Value| wanted.is_none_or(|wanted| wanted.iter().all(|(name, value)| pod["metadata"]["labels"][name] == *value));
    let of_namespace = pods.iter().filter(|((of, _), _)| of == namespace).map(|(_, pod)| pod);
    let own_network = of_namespace.filter(|pod| pod["spec"]["hostNetwork"] != true && has_labels(pod));
    is_known.then(|| own_network.filter_map(|pod| pod["status"]["podIP"].as_str()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn objects(of: &[Value]) -> Objects {
        let mut known = Objects::new();
        of.iter().for_each(|object| see(&mut known, Event::Changed("ADDED".into(), object.clone())));
        known
    }

    #[test]
    fn a_policy_isolates_its_pods_and_lets_in_what_it_names() {
        let pod = |name: &str, app: &str, address: &str| json!({ "metadata": { "namespace": "shop", "name": name, "labels": { "app": app } }, "status": { "podIP": address } });
        let pods = objects(&[pod("one", "cart", "10.0.0.1"), pod("two", "till", "10.0.0.2")]);
        let policy = |spec: Value| objects(&[json!({ "metadata": { "namespace": "shop", "name": "p" }, "spec": spec })]);
        let spec = json!({
            "podSelector": { "matchLabels": { "app": "cart" } }, "policyTypes": ["Ingress"],
            "ingress": [{ "ports": [{ "protocol": "TCP", "port": 8012 }] }, { "from": [{ "podSelector": {} }], "ports": [{ "port": 8122 }] }],
        });
        let text = rules(&policy(spec), &pods);
        let expected = [
            "ip daddr 10.0.0.1 tcp dport 8012 accept",
            "ip daddr 10.0.0.1 ip saddr 10.0.0.1 tcp dport 8122 accept",
            "ip daddr 10.0.0.1 ip saddr 10.0.0.2 tcp dport 8122 accept",
            "ip daddr 10.0.0.1 drop",
        ];
        let found: Vec<&str> = text.lines().map(str::trim).filter(|line| line.starts_with("ip ")).collect();
        assert_eq!(found, expected, "{text}");

        let unknown = json!({ "podSelector": {}, "ingress": [{ "from": [{ "ipBlock": { "cidr": "10.0.0.0/8" } }] }] });
        let text = rules(&policy(unknown), &pods);
        assert_eq!(text.matches(" drop").count(), 2, "{text}");
        assert!(!text.contains("saddr"), "{text}");
    }
}

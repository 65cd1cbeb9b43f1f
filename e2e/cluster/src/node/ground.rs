//! The ground a cluster stands on: mounts and networks of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::kubelet::Node;

/// What kubelets write for the whole machine. Each is covered by a file of ours, so that the machine keeps its own.
const KERNEL_SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];
/// Folders of the system that a cluster writes into, and gets a layer of its own over.
const COVERED: [&str; 2] = ["/var/lib", "/var/log"];

/// Mounts: shared with what is started here, as kubelets need it, and with nobody outside.
pub(super) fn mounts(state: &Path) -> Result<()> {
    run("mount", &["--make-rshared", "/"])?;
    for folder in COVERED {
        let name = folder.trim_start_matches('/').replace('/', "-");
        let (upper, work) = (state.join(format!("{name}.upper")), state.join(format!("{name}.work")));
        fs::create_dir_all(&upper)?;
        fs::create_dir_all(&work)?;
        let options = format!("lowerdir={folder},upperdir={},workdir={}", upper.display(), work.display());
        run("mount", &["-t", "overlay", "overlay", "-o", &options, folder])?;
    }
    run("mount", &["-t", "tmpfs", "tmpfs", "/run"])?;
    for folder in ["/run/netns", "/run/lock"] {
        fs::create_dir_all(folder)?;
    }
    let settings = state.join("kernel-settings");
    for setting in KERNEL_SETTINGS {
        let (own, real) = (settings.join(setting), format!("/proc/sys/{setting}"));
        if let (Some(folder), Ok(value)) = (own.parent(), fs::read(&real)) {
            fs::create_dir_all(folder)?;
            fs::write(&own, value)?;
            run("mount", &["--bind", &own.to_string_lossy(), &real])?;
        }
    }
    fs::write(state.join("resolv.conf"), "").context("an empty resolv.conf")
}

/// A network for each node, joined by a cable, with a route to the other's pods. The first node's is the one we are in.
pub(super) fn network(nodes: &[Node]) -> Result<()> {
    ip(&["link", "set", "lo", "up"])?;
    // A default route has to lead somewhere, or nothing on the node reaches the addresses of Services.
    ip(&["link", "add", "cable1", "type", "veth", "peer", "name", "cable2"])?;
    for (node, cable) in nodes.iter().zip(["cable1", "cable2"]) {
        if let Some(network) = node.network() {
            ip(&["netns", "add", &node.name])?;
            ip(&["link", "set", cable, "netns", &node.name])?;
            run_in(&network, "ip", &["link", "set", "lo", "up"])?;
        }
        on(node, &["address", "add", &format!("{}/24", node.address), "dev", cable])?;
    }
    for (node, cable) in nodes.iter().zip(["cable1", "cable2"]) {
        on(node, &["link", "set", cable, "up"])?;
    }
    if nodes.len() == 1 {
        ip(&["link", "set", "cable2", "up"])?;
    }
    for (node, cable) in nodes.iter().zip(["cable1", "cable2"]) {
        on(node, &["route", "add", "default", "dev", cable])?;
        for other in nodes.iter().filter(|other| other.name != node.name) {
            on(node, &["route", "add", &other.pods, "via", &other.address.to_string()])?;
        }
        forward(node)?;
    }
    Ok(())
}

/// Packets between pods go through their node.
fn forward(node: &Node) -> Result<()> {
    let setting = "echo 1 > /proc/sys/net/ipv4/ip_forward";
    match node.network() {
        Some(network) => run_in(&network, "sh", &["-c", setting]),
        None => run("sh", &["-c", setting]),
    }
}

fn on(node: &Node, arguments: &[&str]) -> Result<()> {
    match node.network() {
        Some(network) => run_in(&network, "ip", arguments),
        None => ip(arguments),
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    run("ip", arguments)
}

fn run_in(network: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let network = format!("--net={}", network.display());
    run("nsenter", &[&[&network, "--", program], arguments].concat())
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("starting {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {} {}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

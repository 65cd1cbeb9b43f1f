//! Instances that hold what nobody has read yet.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use zipline_platform::model::{InstanceView, Phase, ServiceView};
use zipline_testkit::{Answer, Target, http as client, wait};

use crate::world::{LIMIT, World};

/// On `/put?bytes=N` it puts so many bytes at its queue-proxy and answers the reference and its pid; else it sleeps.
const PRODUCER: &str = r#"
import http.client, http.server, json, os, socket, time
from urllib.parse import urlparse, parse_qs

class Local(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["ZIPLINE_API"].removeprefix("unix:"))

class Producer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = urlparse(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        answer = {"pid": os.getpid()}
        time.sleep(float(query.get("sleep_before", "0")))
        if "bytes" in query:
            local = Local("local")
            local.request("POST", "/v1/objects?ttl=600s", b"x" * int(query["bytes"]))
            answer["reference"] = json.loads(local.getresponse().read())["reference"]
        time.sleep(float(query.get("sleep", "0")))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Producer).serve_forever()
"#;
const CONTAINER: &str = "command: [python3, -u, producer.py]";

async fn get_object(world: &World, reference: &str) -> Result<Answer> {
    let local = Target::Unix(world.platform.info().client_socket.clone());
    let request = Request::get("/v1/objects").header("host", "zipline").header("zipline-reference", reference);
    client::send(&local, request.body(client::empty())?).await
}

/// Waits until nothing but the hold is left of the load within the stable window.
async fn only_held(world: &World, name: &str) -> Result<ServiceView> {
    let held = |service: &ServiceView| {
        let scale = service.revisions.first().and_then(|revision| revision.scale);
        scale.is_some_and(|scale| scale.stable.is_some_and(|load| load > 0.0 && load < 0.011) && scale.want == Some(1))
    };
    wait::until("the hold alone to be seen", LIMIT, async || world.service(name).await, held).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_producer_stays_until_what_it_holds_was_read() -> Result<()> {
    for metric in ["concurrency", "rps"] {
        let world = World::start().await?;
        world.scratch.write("producer.py", PRODUCER)?;
        let annotations = [("autoscaling.knative.dev/metric", metric)];
        world.apply_command("producer", &annotations, "timeoutSeconds: 20", CONTAINER).await?;
        let answer = world.get("producer", "/put?bytes=1000000").await?.json()?;
        let reference = answer["reference"].as_str().context("a reference")?;
        let service = only_held(&world, "producer").await?;
        assert_eq!(service.instances.ready, 1, "{metric}");
        let held = world.instances().await?[0].held.context("its queue-proxy answers")?;
        assert_eq!((held.held_bytes, held.held_objects), (1_000_000, 1));
        assert_eq!(get_object(&world, reference).await?.body, Bytes::from(vec![b'x'; 1_000_000]));
        world.until_no_instance().await?;
        assert_eq!(get_object(&world, reference).await?.error(), "producer-unreachable", "nobody holds it any more");
        world.end().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_blocked_in_one_call_while_it_holds_stays_one() -> Result<()> {
    let world = World::start().await?;
    world.scratch.write("producer.py", PRODUCER)?;
    let annotations = [("autoscaling.knative.dev/target", "1"), ("autoscaling.knative.dev/target-utilization-percentage", "100")];
    world.apply_command("driver", &annotations, "timeoutSeconds: 60", CONTAINER).await?;
    let call = world.get("driver", "/put?bytes=1000&sleep=15");
    let answer = call.await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let decisions = std::fs::read_to_string(&world.platform.info().decision_log)?;
    let wanted: Vec<u64> = decisions
        .lines()
        .map(serde_json::from_str::<serde_json::Value>)
        .filter_map(|record| record.ok()?["decision"]["decided"]["desired_pods"].as_u64())
        .collect();
    ensure!(wanted.len() >= 5 && wanted.iter().all(|pods| *pods <= 1), "{wanted:?}");
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_in_keeps_the_instance_that_holds() -> Result<()> {
    let world = World::start().await?;
    world.scratch.write("producer.py", PRODUCER)?;
    let annotations = [("autoscaling.knative.dev/initial-scale", "3")];
    world.apply_command("producer", &annotations, "timeoutSeconds: 20\ncontainerConcurrency: 1", CONTAINER).await?;
    let three = |instances: &Vec<InstanceView>| instances.iter().filter(|instance| instance.state == Phase::Ready).count() == 3;
    wait::until("three instances", LIMIT, async || world.instances().await, three).await?;
    let answer = world.get("producer", "/put?bytes=5000000").await?.json()?;
    only_held(&world, "producer").await?;
    let one = |instances: &Vec<InstanceView>| instances.len() == 1;
    let left = wait::until("one instance", LIMIT, async || world.instances().await, one).await?;
    assert_eq!(left[0].function_pid.map(i64::from), answer["pid"].as_i64(), "the one that holds");
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_draining_instance_holds_can_still_be_read() -> Result<()> {
    let world = World::start().await?;
    world.scratch.write("producer.py", PRODUCER)?;
    world.apply_command("producer", &[], "timeoutSeconds: 60", CONTAINER).await?;
    let answer = world.get("producer", "/put?bytes=1000000").await?.json()?;
    let reference = answer["reference"].as_str().context("a reference")?;
    assert_eq!(world.control("DELETE", "/v1/services/default/producer").await?.status, 200);
    let stopping = |instances: &Vec<InstanceView>| instances.iter().any(|instance| instance.state == Phase::Stopping);
    wait::until("it to drain", LIMIT, async || world.instances().await, stopping).await?;
    let got = get_object(&world, reference).await?;
    assert_eq!((got.status.as_u16(), got.body.len()), (200, 1_000_000), "{}", got.text());
    world.until_no_instance().await?;
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_must_go_still_puts_what_its_last_request_is_about() -> Result<()> {
    let world = World::start().await?;
    world.scratch.write("producer.py", PRODUCER)?;
    world.apply_command("producer", &[], "timeoutSeconds: 60", CONTAINER).await?;
    world.ready("producer").await?;
    let stop_it = async {
        let busy = |service: &ServiceView| service.revisions[0].in_flight == 1;
        wait::until("the request to be under way", LIMIT, async || world.service("producer").await, busy).await?;
        world.control("DELETE", "/v1/services/default/producer").await
    };
    let (answer, deleted) = tokio::try_join!(world.get("producer", "/put?sleep_before=3&bytes=1000"), stop_it)?;
    assert_eq!((answer.status.as_u16(), deleted.status.as_u16()), (200, 200), "{}", answer.text());
    let answer = answer.json()?;
    let got = get_object(&world, answer["reference"].as_str().context("a reference")?).await?;
    assert_eq!((got.status.as_u16(), got.body.len()), (200, 1000), "{}", got.text());
    world.until_no_instance().await?;
    world.end().await;
    Ok(())
}

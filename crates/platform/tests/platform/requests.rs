//! What a request meets on its way.

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;
use zipline_testkit::{Payload, wait};

use crate::world::{LIMIT, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_sees_the_callers_request_and_its_own_environment() -> Result<()> {
    let world = World::start().await?;
    world.apply("echo", &[("zipline.dev/transfer", "inline")], "containerConcurrency: 3").await?;
    let answer = world.get("echo", "/path?sleep=0").await?.json()?;
    let (headers, env) = (&answer["headers"], &answer["env"]);
    assert_eq!(headers["host"], "echo.default.localhost");
    assert_eq!(headers["x-forwarded-for"].as_str().map(|hops| hops.starts_with("127.0.0.1")), Some(true));
    for removed in ["k-original-host", "knative-serving-revision", "knative-serving-namespace"] {
        assert!(headers[removed].is_null(), "{removed} reached the function");
    }
    assert_eq!((env["K_SERVICE"].as_str(), env["K_REVISION"].as_str()), (Some("echo"), Some("echo-00001")));
    assert_eq!(env["ZIPLINE_TRANSFER"], "inline");
    let api = env["ZIPLINE_API"].as_str().and_then(|api| api.strip_prefix("unix:")).context("a socket")?;
    assert!(std::path::Path::new(api).exists(), "{api}");
    let proxy = env["http_proxy"].as_str().context("an egress")?;
    assert!(proxy.starts_with("http://zipline:") && proxy.ends_with(":8124"), "{proxy}");
    assert!(env["CARGO_MANIFEST_DIR"].is_null(), "the platform's environment was inherited");

    let payload = Payload::new(3_000_000, 7).bytes();
    let request = Request::post("/").header("host", "echo.default.localhost").body(payload.clone())?;
    assert_eq!(world.send(request).await?.body, payload);
    let by_header = Request::get("/")
        .header("host", "elsewhere")
        .header("knative-serving-namespace", "default")
        .header("knative-serving-revision", "echo-00001")
        .body(Bytes::new())?;
    assert_eq!(world.send(by_header).await?.status, 200);
    let service = world.service("echo").await?;
    let (activator, direct) = (service.activator, service.direct);
    assert_eq!(activator.requests() + direct.requests(), 3);
    assert_eq!(activator.body_bytes_in + direct.body_bytes_in, 3_000_000);
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_host_and_a_malformed_file_are_named_and_change_nothing() -> Result<()> {
    let world = World::start().await?;
    let answer = world.get("nobody", "/").await?;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (404, "text/plain; charset=utf-8"));
    assert!(answer.text().contains("nobody.default.localhost"), "{}", answer.text());
    let answer = world.control_with("POST", "/v1/apply?base_dir=/tmp", "kind: Service\nspec: [".to_owned()).await?;
    assert_eq!((answer.status.as_u16(), answer.error()), (400, "manifest-invalid"));
    let answer = world.control_with("POST", "/v1/apply?base_dir=/tmp", "apiVersion: v1\nkind: Pod\n".to_owned()).await?;
    assert_eq!(answer.json()?["findings"][0]["line"], 1);
    assert_eq!(world.control("GET", "/v1/nothing").await?.error(), "path-unknown");
    assert_eq!(world.control("GET", "/v1/status?verbose").await?.error(), "request-invalid");
    assert_eq!(world.status().await?.services, 0);
    world.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_have_every_line_of_the_function_and_warn_of_open_listeners() -> Result<()> {
    let world = World::start().await?;
    let container =
        "command: [python3, -u, function.py]\nenv: [{ name: LISTEN, value: 0.0.0.0 }, { name: VERSION, value: nine }]";
    world.apply_command("open", &[], "timeoutSeconds: 10", container).await?;
    world.ready("open").await?;
    let warned = |logs: &String| logs.contains("function up nine") && logs.contains("warning: the function listens on 0.0.0.0:");
    wait::until("the log", LIMIT, async || world.logs("open").await, warned).await?;
    world.end().await;
    Ok(())
}

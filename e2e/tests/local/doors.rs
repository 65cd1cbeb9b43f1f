//! Who may use the doors of the local platform's queue-proxies.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use zipline_contract::{doors, headers};
use zipline_testkit::{Payload, Target, http as client};

use crate::up::Up;

#[tokio::test]
async fn local_apis_are_unix_sockets_of_ours_alone_unless_tcp_is_asked_for() -> Result<()> {
    let up = Up::start().await?;
    up.apply("sha", &[("autoscaling.knative.dev/min-scale", "1")], 0).await?;
    let mode = |path: &str| Ok::<_, anyhow::Error>(std::fs::metadata(up.state.join(path))?.permissions().mode() & 0o777);
    assert_eq!((mode("")?, mode("client.sock")?), (0o700, 0o600));
    let address = up.instances("sha").await?[0]["address"].as_str().context("address")?.to_owned();
    let network = up.info["network"].as_str().context("network")?;
    let client = network.rsplit_once('.').context("a network")?.0.to_owned() + ".2";
    for host in [address, client] {
        let port: SocketAddr = format!("{host}:{}", doors::API).parse()?;
        let refused = tokio::net::TcpStream::connect(port).await.err().with_context(|| format!("{port} listens"))?;
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
    assert!(up.info.get("client_http").is_none() && !up.state.join("api.token").exists());
    Ok(())
}

#[tokio::test]
async fn on_request_local_apis_listen_on_loopback_for_who_shows_the_token_of_a_file_of_ours_alone() -> Result<()> {
    let up = Up::start_with(["--loopback-api"]).await?;
    up.apply("sha", &[], 0).await?;
    let file = up.info["api_token_file"].as_str().context("api_token_file")?;
    assert_eq!(std::fs::metadata(file)?.permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(file)?;
    let url = up.info["client_http"].as_str().context("client_http")?;
    let api = Target::Tcp(url.trim_start_matches("http://").parse()?);

    let basic = |password: &str| format!("Basic {}", STANDARD.encode(format!("zipline:{password}")));
    let bad = [None, Some(basic("wrong")), Some(basic("")), Some(format!("Bearer {}", token.trim()))];
    for credentials in bad {
        let mut request = Request::post("/v1/objects");
        if let Some(credentials) = &credentials {
            request = request.header("authorization", credentials);
        }
        let answer = client::send(&api, request.body(client::full("x"))?).await?;
        assert_eq!((answer.status.as_u16(), answer.error()), (401, "api-unauthorized"), "{credentials:?}");
        assert!(answer.header("www-authenticate").starts_with("Basic "));
    }
    let payload = Payload::new(1_000_000, 1);
    let put = Request::post("/v1/objects").header("authorization", basic(token.trim())).body(payload.body())?;
    let put = client::send(&api, put).await?;
    let answer = up.send("sha", Request::post("/").header(headers::REFERENCE, put.header(headers::REFERENCE))).await?;
    assert_eq!(answer.json()?["sha256"], payload.sha256(), "{}", answer.text());

    // The token is for this door: it does not travel with a call.
    let invoke = Request::post("/v1/invoke/sha/").header("authorization", basic(token.trim()));
    let answer = client::send(&api, invoke.body(client::full("abc"))?).await?;
    assert_eq!(answer.json()?["authorization"], serde_json::Value::Null, "{}", answer.text());
    let instance = up.instances("sha").await?[0]["address"].as_str().context("address")?.to_owned();
    let own = Target::Tcp(format!("{instance}:{}", doors::API).parse()?);
    let answer = client::send(&own, Request::get("/v1").body(client::empty())?).await?;
    assert_eq!(answer.error(), "api-unauthorized", "an instance's own API too");
    Ok(())
}

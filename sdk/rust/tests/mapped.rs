//! Payloads are mapped where they can be: what a function reads was copied by nobody.
#![forbid(unsafe_code)]

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::task::JoinSet;
use zipline_sdk::{Client, Config, Endpoint, PayloadBuffer, PayloadWriter, PutOptions, Response, Server};
use zipline_testkit::{KeyRing, Keys, ProxyOptions, Scratch, free_port, wait};

const LIMIT: Duration = Duration::from_secs(20);
const BYTES: usize = 3 << 20;

fn client_of(proxy: &zipline_testkit::Proxy) -> Client {
    Client::new(Config::new(Endpoint::Unix(proxy.api_path().to_owned())))
}

#[tokio::test]
async fn what_is_written_in_place_is_read_in_place_at_another_proxy() -> Result<()> {
    let scratch = Scratch::new()?;
    let ring = KeyRing::random()?;
    let handover = scratch.join("handover");
    std::fs::create_dir(&handover)?;
    let start = async |name: &str| {
        let options = ProxyOptions::new(name, Keys::Inherited(ring.clone()));
        options.env("ZIPLINE_HANDOVER_DIR", handover.to_string_lossy()).start(&scratch).await
    };
    let (producer, consumer) = (start("producer").await?, start("consumer").await?);

    let mut buffer = PayloadBuffer::new(BYTES)?;
    buffer.iter_mut().zip(0u32..).for_each(|(byte, index)| *byte = (index % 251) as u8);
    let mut writer = PayloadWriter::new()?;
    writer.write_all(&buffer)?;
    for written in [buffer.finish()?, writer.finish()?] {
        ensure!(written.is_mapped() && written.len() == BYTES);
        let reference = client_of(&producer).put(written.clone(), PutOptions::default()).await?;
        let read = client_of(&consumer).get(&reference).await?;
        ensure!(read.is_mapped() && read[..] == written[..]);
        // What was read can be passed on as it is, and outlives the object and a slice's original.
        let on = client_of(&consumer).put(read.clone(), PutOptions::default()).await?;
        let tail = read.slice(BYTES - 10..BYTES);
        drop(read);
        ensure!(client_of(&producer).get(&on).await?[..] == written[..] && tail[..] == written[BYTES - 10..]);
        ensure!(tail.into_bytes()[..] == written[BYTES - 10..]);
    }
    Ok(())
}

#[tokio::test]
async fn a_registered_function_gets_the_payload_of_a_call_mapped() -> Result<()> {
    let scratch = Scratch::new()?;
    let ring = KeyRing::random()?;
    let port = free_port()?;
    let callee = ProxyOptions::new("callee", Keys::Inherited(ring.clone())).function(port).start(&scratch).await?;
    let caller = ProxyOptions::new("caller", Keys::Inherited(ring))
        .env("ZIPLINE_INGRESS", callee.request_address().to_string())
        .env("ZIPLINE_PEERS_KNOWN", "all")
        .start(&scratch)
        .await?;
    let server = Server::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), client_of(&callee)).await?;
    let mut function = JoinSet::new();
    function.spawn(server.serve(
        |request| async move { Ok(Response::ok(format!("{} {}", request.payload.is_mapped(), request.payload.len()))) },
        std::future::pending(),
    ));
    let client = client_of(&caller);
    let call = async || {
        let answer = client.invoke("callee", vec![7; BYTES]).await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(String::from_utf8_lossy(&answer.payload).into_owned())
    };
    // Before the function is registered, the same payload comes as a body.
    wait::until("the function to be registered", LIMIT, call, |answer| *answer == format!("true {BYTES}")).await?;
    callee.at_rest(LIMIT).await?;
    caller.at_rest(LIMIT).await?;
    Ok(())
}

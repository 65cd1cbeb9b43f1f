//! Where a producer is: on IPv6 alone, or nowhere that anybody knows.

use anyhow::Result;
use http::StatusCode;
use zipline_testkit::{Behaviour, Function, KeyRing, Keys, Loopback, Payload, ProxyOptions, Scratch, http as client, skip};

use super::{MIB, World};

/// Each way once: `::1` is one address, so the other end has one of IPv4.
#[tokio::test]
async fn on_ipv6_alone_payloads_are_given_and_taken() -> Result<()> {
    let Some(own) = Loopback::claim_ipv6().await? else {
        skip("on_ipv6_alone_payloads_are_given_and_taken", "this machine has no IPv6");
        return Ok(());
    };
    const PEERS: (&str, &str) = ("ZIPLINE_PEER_CIDRS", "127.0.0.0/8,::1/128");
    let (scratch, ring) = (Scratch::new()?, KeyRing::random()?);
    let function = Function::start(Behaviour::Sha256).await?;
    let options = |name| ProxyOptions::new(name, Keys::Inherited(ring.clone())).function(function.port()).envs([PEERS]);
    let six = options("six").at(own).start(&scratch).await?;
    let four = options("four").start(&scratch).await?;
    assert!(six.request_address().is_ipv6() && six.pull_address().is_ipv6());
    for (producer, consumer) in [(&six, &four), (&four, &six)] {
        for size in [1, 3 * MIB + 7] {
            let payload = Payload::new(size, 1);
            let reference = producer.put("", payload.body()).await?;
            let answer = super::post_to(consumer, &[&reference], "").await?;
            assert_eq!((answer.status, answer.text()), (StatusCode::OK, payload.sha256()), "{size}");
        }
        let payload = Payload::new(MIB, 2);
        let plain = http::Request::post("/").body(payload.body())?;
        assert_eq!(client::send(&consumer.requests(), plain).await?.text(), payload.sha256());
    }
    Ok(())
}

/// `SERVING_POD_IP` was given as nothing and nothing is bound, which only a pod has to itself: so its reference is made by
/// one that calls itself what such a pod does.
#[tokio::test]
async fn a_reference_of_a_pod_without_an_address_is_refused_by_name() -> Result<()> {
    let world = World::with(|options| options.env("ZIPLINE_PEER_CIDRS", "10.0.0.0/8")).await?;
    let options = ProxyOptions::new("nowhere", Keys::Inherited(world.ring.clone())).advertised("127.0.0.1".parse()?);
    let nowhere = options.start(&world.scratch).await?;
    let reference = nowhere.put("", client::full("x")).await?;
    assert_eq!(nowhere.get(&reference).await?.text(), "x", "who holds it reads it");
    let reference = nowhere.put("", client::full("x")).await?;
    let answer = world.post(&[&reference], "").await?;
    world.refuses(&answer, "peer-forbidden", 403).await?;
    assert_eq!(world.post(&[], "inline").await?.status, StatusCode::OK);
    Ok(())
}

//! A reference that is good, and everything that can happen to the request around it.

use std::time::Duration;

use anyhow::{Context, Result};
use http::{Request, StatusCode};
use zipline_contract::{headers, metrics};
use zipline_testkit::{
    Answer, Behaviour, Function, KeyRing, Keys, Metrics, Payload, Proxy, ProxyOptions, Scratch, http as client,
};

const REST: Duration = Duration::from_secs(10);
const MIB: u64 = 1024 * 1024;

struct World {
    _scratch: Scratch,
    function: Function,
    producer: Proxy,
    consumer: Proxy,
}

impl World {
    async fn new(concurrency: &str) -> Result<Self> {
        let (scratch, ring) = (Scratch::new()?, KeyRing::random()?);
        let function = Function::start(Behaviour::Sha256).await?;
        let producer = ProxyOptions::new("producer", Keys::Inherited(ring.clone())).start(&scratch).await?;
        let consumer = ProxyOptions::new("consumer", Keys::Inherited(ring)).function(function.port());
        let consumer = consumer.env("CONTAINER_CONCURRENCY", concurrency).start(&scratch).await?;
        Ok(Self { _scratch: scratch, function, producer, consumer })
    }

    fn request(reference: &str) -> Result<Request<http_body_util::Empty<bytes::Bytes>>> {
        Ok(Request::post("/").header(headers::REFERENCE, reference).body(client::empty())?)
    }

    async fn post(&self, reference: &str) -> Result<Answer> {
        client::send(&self.consumer.requests(), Self::request(reference)?).await
    }

    async fn at_rest(&self) -> Result<()> {
        self.consumer.at_rest(REST).await?;
        self.producer.at_rest(REST).await?;
        Ok(())
    }

    /// Nothing is leased any more, and the object is still there to be read.
    async fn given_back(&self) -> Result<()> {
        let leases = |metrics: &Metrics| metrics.sum(metrics::LEASES.name) == 0.0;
        let now = self.producer.metrics_until("the lease to be given back", REST, leases).await?;
        assert_eq!((now.sum(metrics::HELD_OBJECTS.name), now.sum(metrics::ACKNOWLEDGEMENTS.name)), (1.0, 0.0));
        Ok(())
    }
}

#[tokio::test]
async fn the_function_gets_the_request_it_would_have_got_inline() -> Result<()> {
    let world = World::new("0").await?;
    let put = Request::post("/v1/objects?retrievals=2").header("content-type", "text/csv").body(client::full("a,b"))?;
    let reference = client::send(&world.producer.api(), put).await?.header(headers::REFERENCE).to_owned();
    let request = Request::put("/some/path?q=1")
        .header(headers::REFERENCE, &reference)
        .header(headers::TICKET, "from-outside")
        .header(headers::RETAIN, "retrieval")
        .header("zipline-anything", "x")
        .header("x-own", "kept")
        .header("content-encoding", "identity");
    client::send(&world.consumer.requests(), request.body(client::empty())?).await?;
    let typed = Request::post("/").header(headers::REFERENCE, &reference).header("content-type", "application/x-own");
    client::send(&world.consumer.requests(), typed.body(client::empty())?).await?;

    let seen = world.function.seen();
    let [first, second] = seen.as_slice() else { anyhow::bail!("{} requests", seen.len()) };
    assert_eq!((first.method.as_str(), first.path.as_str(), &first.body[..]), ("PUT", "/some/path?q=1", b"a,b".as_slice()));
    assert_eq!((first.header("content-length"), first.header("content-type")), ("3", "text/csv"));
    assert_eq!((first.header("x-own"), first.header("content-encoding")), ("kept", "identity"));
    assert!(first.headers.keys().all(|name| !name.as_str().starts_with(headers::PREFIX)), "{:?}", first.headers);
    assert_eq!(second.header("content-type"), "application/x-own", "the request's own wins");
    world.at_rest().await
}

#[tokio::test]
async fn a_zero_length_payload_is_a_payload() -> Result<()> {
    let world = World::new("0").await?;
    let reference = world.producer.put("", client::empty()).await?;
    let answer = world.post(&reference).await?;
    assert_eq!((answer.status, answer.text()), (StatusCode::OK, Payload::new(0, 0).sha256()));
    let seen = world.function.seen();
    assert!(seen[0].whole && seen[0].size == 0 && seen[0].header("content-length") == "0", "{seen:?}");
    world.at_rest().await
}

#[tokio::test]
async fn an_answer_below_500_counts_and_one_of_500_gives_the_payload_back() -> Result<()> {
    let world = World::new("0").await?;
    let payload = Payload::new(2 * MIB, 1);
    let reference = world.producer.put("", payload.body()).await?;
    for status in [500, 503] {
        world.function.behave(Behaviour::Status(status));
        assert_eq!(world.post(&reference).await?.status.as_u16(), status);
        world.given_back().await?;
    }
    world.function.behave(Behaviour::Status(404));
    assert_eq!(world.post(&reference).await?.status, StatusCode::NOT_FOUND);
    world.at_rest().await?;
    assert_eq!(world.producer.metrics().await?.sum(metrics::ACKNOWLEDGEMENTS.name), 1.0);
    Ok(())
}

#[tokio::test]
async fn a_function_that_dies_before_or_during_reading_leaves_the_payload_for_the_retry() -> Result<()> {
    let world = World::new("0").await?;
    let payload = Payload::new(8 * MIB, 1);
    let reference = world.producer.put("", payload.body()).await?;
    for death in [Behaviour::DieBefore, Behaviour::DieDuring(MIB)] {
        world.function.behave(death);
        let answer = world.post(&reference).await?;
        assert_eq!((answer.status, answer.error()), (StatusCode::BAD_GATEWAY, ""), "{death:?}: the function's own failure");
        world.given_back().await.with_context(|| format!("{death:?}"))?;
    }
    world.function.behave(Behaviour::Sha256);
    assert_eq!(world.post(&reference).await?.text(), payload.sha256());
    world.at_rest().await
}

#[tokio::test]
async fn a_function_that_dies_after_its_answer_began_has_accepted_the_payload() -> Result<()> {
    let world = World::new("0").await?;
    let reference = world.producer.put("", Payload::new(2 * MIB, 1).body()).await?;
    world.function.behave(Behaviour::DieAfter);
    let mut open = client::open(&world.consumer.requests(), World::request(&reference)?).await?;
    assert_eq!(open.response.status(), StatusCode::OK);
    let body = http_body_util::BodyExt::collect(open.response.body_mut()).await;
    assert!(body.is_err(), "a cut answer passed for a whole one");
    drop(open);
    world.at_rest().await
}

#[tokio::test]
async fn a_client_that_goes_away_takes_the_pull_and_its_lease_with_it() -> Result<()> {
    let world = World::new("0").await?;
    let reference = world.producer.put("", Payload::new(4 * MIB, 1).body()).await?;
    world.function.behave(Behaviour::Held);
    {
        let target = world.consumer.requests();
        let sent = client::open(&target, World::request(&reference)?);
        tokio::select! {
            answer = sent => panic!("the held function answered: {:?}", answer?.response),
            () = world.function.has_begun(1) => {} // The client is dropped here.
        }
    }
    world.given_back().await?;
    world.function.release();
    world.function.behave(Behaviour::Sha256);
    assert_eq!(world.post(&reference).await?.status, StatusCode::OK);
    world.at_rest().await
}

#[tokio::test]
async fn a_queued_request_takes_neither_lease_nor_memory() -> Result<()> {
    let world = World::new("1").await?;
    let reference = world.producer.put("retrievals=2", Payload::new(2 * MIB, 1).body()).await?;
    world.function.behave(Behaviour::Held);
    let target = world.consumer.requests();
    let both = async { tokio::try_join!(world.post(&reference), world.post(&reference)) };
    let watch = async {
        world.function.has_begun(1).await;
        let queued = |metrics: &Metrics| metrics.sum(metrics::REQUESTS_QUEUED.name) == 1.0;
        world.consumer.metrics_until("the second request to queue", REST, queued).await?;
        assert_eq!(world.producer.metrics().await?.sum(metrics::ATTEMPTS.name), 1.0, "only the running request has a lease");
        world.function.release();
        anyhow::Ok(())
    };
    let (answers, watched) = tokio::join!(both, watch);
    watched?;
    let (first, second) = answers?;
    assert_eq!((first.status, second.status), (StatusCode::OK, StatusCode::OK));
    drop(target);
    world.at_rest().await
}

#[tokio::test]
async fn a_payload_streams_to_the_function_while_it_is_still_being_written() -> Result<()> {
    let world = World::new("0").await?;
    let opened = client::send(&world.producer.api(), Request::post("/v1/objects?open").body(client::empty())?).await?;
    let (reference, document) = (opened.header(headers::REFERENCE).to_owned(), opened.json()?);
    let token = document["write_token"].as_str().context("a write token")?;
    let payload = Payload::new(6 * MIB + 1, 5);
    let write = Request::put("/v1/objects").header(headers::WRITE, token).body(payload.body())?;
    let write = async {
        world.function.has_begun(1).await; // The function is called before a byte was written.
        client::send(&world.producer.api(), write).await
    };
    let (answer, written) = tokio::join!(world.post(&reference), write);
    assert_eq!(written?.status, StatusCode::NO_CONTENT);
    assert_eq!(answer?.text(), payload.sha256());
    assert!(world.function.seen()[0].whole);
    world.at_rest().await
}

#[tokio::test]
async fn many_small_payloads_leave_nothing_behind() -> Result<()> {
    const OBJECTS: usize = 2_000;
    let world = World::new("0").await?;
    for _ in 0..OBJECTS / 20 {
        let round = (0..20).map(|_| async {
            let reference = world.producer.put("", client::full("a small payload")).await?;
            anyhow::ensure!(world.post(&reference).await?.status == StatusCode::OK);
            anyhow::Ok(())
        });
        futures_util::future::try_join_all(round).await?;
    }
    world.at_rest().await?;
    assert_eq!(world.producer.metrics().await?.sum(metrics::ACKNOWLEDGEMENTS.name), OBJECTS as f64);
    Ok(())
}

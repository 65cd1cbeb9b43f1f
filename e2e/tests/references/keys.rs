//! Key rings in every state in which Kubernetes may leave them: no folder, no file, an empty or a spoilt one, and rings that are
//! swapped under traffic as a kubelet does it. References are refused by name until there is a ring; what has none never notices.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use serde_json::json;
use zipline_testkit::{Answer, Behaviour, Function, KeyRing, Keys, Payload, Proxy, ProxyOptions, Scratch, http as client, wait};

use super::{REST, post_to};

/// A folder that a Secret is mounted at: a file is a link into `..data`, which is a link to a folder that is never changed.
struct Mounted {
    folder: PathBuf,
    versions: usize,
}

impl Mounted {
    fn new(scratch: &Scratch, name: &str) -> Result<Self> {
        let folder = scratch.join(name);
        std::fs::create_dir(&folder)?;
        Ok(Self { folder, versions: 0 })
    }

    /// Swaps `..data`, as the kubelet does.
    fn swap(&mut self, content: Option<&str>) -> Result<()> {
        self.versions += 1;
        let data = format!("..version-{}", self.versions);
        std::fs::create_dir(self.folder.join(&data))?;
        if let Some(content) = content {
            std::fs::write(self.folder.join(&data).join("keys.json"), content)?;
        }
        std::os::unix::fs::symlink(&data, self.folder.join("..data_tmp"))?;
        std::fs::rename(self.folder.join("..data_tmp"), self.folder.join("..data"))?;
        if content.is_some() && std::fs::symlink_metadata(self.file()).is_err() {
            std::os::unix::fs::symlink("..data/keys.json", self.file())?;
        }
        // Versions but the last one are removed, and so does the kubelet.
        let before = self.folder.join(format!("..version-{}", self.versions - 1));
        if before.is_dir() { std::fs::remove_dir_all(before).context("the version before") } else { Ok(()) }
    }

    fn file(&self) -> PathBuf {
        self.folder.join("keys.json")
    }
}

async fn proxy(name: &str, file: &Path, function: &Function, scratch: &Scratch) -> Result<Proxy> {
    let options = ProxyOptions::new(name, Keys::None).function(function.port());
    options.env("ZIPLINE_KEYS_FILE", file.to_string_lossy()).start(scratch).await
}

async fn says(proxy: &Proxy, times: usize, what: &str) -> Result<()> {
    let said = async || Ok(proxy.process.stderr().matches(what).count());
    wait::until(what, REST, said, |said| *said >= times).await.map(drop)
}

fn is_refused(answer: &Answer, what: &str) {
    assert_eq!((answer.error(), answer.status), ("reference-unknown-key", StatusCode::FORBIDDEN), "{what}: {}", answer.text());
}

#[tokio::test]
async fn a_namespace_that_was_never_enabled_has_a_plain_queue_proxy() -> Result<()> {
    let scratch = Scratch::new()?;
    let function = Function::start(Behaviour::Sha256).await?;
    let plain = proxy("plain", &scratch.join("no-folder/keys.json"), &function, &scratch).await?;
    let producer = ProxyOptions::new("producer", Keys::Inherited(KeyRing::random()?)).start(&scratch).await?;
    let reference = producer.put("", client::full("x")).await?;
    is_refused(&post_to(&plain, &[&reference], "").await?, "a reference");
    let put = http::Request::post("/v1/objects").body(client::full("x"))?;
    is_refused(&client::send(&plain.api(), put).await?, "a put");
    assert_eq!(function.begun(), 0, "a reference that cannot be opened never reaches the function");
    for size in [0, 1, 300_000] {
        let payload = Payload::new(size, 1);
        let answer = client::send(&plain.requests(), http::Request::post("/").body(payload.body())?).await?;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, payload.sha256()));
    }
    assert!(!plain.process.stderr().contains("ERROR"), "{}", plain.process.stderr());
    Ok(())
}

#[tokio::test]
async fn a_ring_that_is_missing_empty_or_spoilt_costs_references_only_until_one_comes() -> Result<()> {
    let scratch = Scratch::new()?;
    let function = Function::start(Behaviour::Sha256).await?;
    let ring = KeyRing::random()?;
    let producer = ProxyOptions::new("producer", Keys::Inherited(ring.clone())).start(&scratch).await?;
    let entry = |key: String| json!({"keys": [{"id": "0000000a", "key": key, "not_before_ms": 0, "not_after_ms": 9_999_999_999_999_u64}]});
    let short = entry("5e".repeat(31)).to_string();
    let long = entry("5e".repeat(33)).to_string();
    let states = [
        ("no file", None),
        ("an empty file", Some("")),
        ("no keys", Some(r#"{"keys":[]}"#)),
        ("no JSON", Some("5e5e5e5e5e5e5e5e")),
        ("a short key", Some(short.as_str())),
        ("a long key", Some(long.as_str())),
    ];
    for (number, (what, content)) in states.into_iter().enumerate() {
        let mut mounted = Mounted::new(&scratch, &format!("secret-{number}"))?;
        mounted.swap(content)?;
        let proxy = proxy(&format!("proxy-{number}"), &mounted.file(), &function, &scratch).await?;
        let reference = producer.put("", client::full("payload")).await?;
        is_refused(&post_to(&proxy, &[&reference], "").await?, what);
        assert_eq!(post_to(&proxy, &[], "inline").await?.status, StatusCode::OK, "{what}");
        let log = proxy.process.stderr();
        assert!(!log.contains("5e5e"), "{what}: the log quotes a key");
        assert_eq!(content.is_some(), log.contains("the key ring can't be used"), "{what}: {log}");

        mounted.swap(Some(&ring.document().to_string()))?;
        says(&proxy, 1, "the key ring was read").await.context(what)?;
        assert_eq!(post_to(&proxy, &[&reference], "").await?.status, StatusCode::OK, "{what}, and then a ring");
        // What goes away or is spoilt later changes nothing: each key has an end of its own.
        let reference = producer.put("", client::full("payload")).await?;
        mounted.swap(Some("spoilt"))?;
        says(&proxy, if content.is_some() { 2 } else { 1 }, "the key ring can't be used").await.context(what)?;
        assert_eq!(post_to(&proxy, &[&reference], "").await?.status, StatusCode::OK, "{what}, and then a spoilt ring");
    }
    Ok(())
}

/// As the controller rotates: a new key is known everywhere before it seals anywhere.
#[tokio::test]
async fn rings_swapped_twice_under_traffic_lose_no_request_with_a_reference() -> Result<()> {
    let scratch = Scratch::new()?;
    let function = Function::start(Behaviour::Sha256).await?;
    let (mut giving, mut taking) = (Mounted::new(&scratch, "giving")?, Mounted::new(&scratch, "taking")?);
    let mut ring = KeyRing::random()?;
    for mounted in [&mut giving, &mut taking] {
        mounted.swap(Some(&ring.document().to_string()))?;
    }
    let producer = proxy("producer", &giving.file(), &function, &scratch).await?;
    let consumer = proxy("consumer", &taking.file(), &function, &scratch).await?;
    let earliest = producer.put("retrievals=100", client::full("earliest")).await?;
    let (producer, consumer) = (Arc::new(producer), Arc::new(consumer));
    let is_over = Arc::new(AtomicBool::new(false));
    let mut traffic = tokio::task::JoinSet::new();
    for number in 0..4 {
        let (producer, consumer, is_over) = (Arc::clone(&producer), Arc::clone(&consumer), Arc::clone(&is_over));
        traffic.spawn(async move {
            let payload = Payload::new(10_000 + 70_000 * number, number);
            let mut passed = 0;
            while !is_over.load(Ordering::Relaxed) {
                let reference = producer.put("", payload.body()).await?;
                let answer = post_to(&consumer, &[&reference], "").await?;
                ensure!(answer.text() == payload.sha256(), "{}: {}", answer.status, answer.text());
                passed += 1;
            }
            Ok(passed)
        });
    }
    let mut swaps = 1;
    for _ in 0..2 {
        ring = ring.rotated()?;
        swaps += 1;
        // Who takes knows the new key first, then it seals.
        for (mounted, proxy) in [(&mut taking, &consumer), (&mut giving, &producer)] {
            mounted.swap(Some(&ring.document().to_string()))?;
            says(proxy, swaps, "the key ring was read").await?;
        }
        assert_eq!(post_to(&consumer, &[&earliest], "").await?.status, StatusCode::OK, "an older key still opens");
    }
    // The references of before end with the key that sealed them; those under way are read before it goes.
    is_over.store(true, Ordering::Relaxed);
    while let Some(passed) = traffic.join_next().await {
        assert!(passed?? > 0);
    }
    ring = ring.without_oldest();
    taking.swap(Some(&ring.document().to_string()))?;
    says(&consumer, swaps + 1, "the key ring was read").await?;
    is_refused(&post_to(&consumer, &[&earliest], "").await?, "after its key");
    let reference = producer.put("", client::full("newest")).await?;
    assert_eq!(post_to(&consumer, &[&reference], "").await?.status, StatusCode::OK);
    Ok(())
}

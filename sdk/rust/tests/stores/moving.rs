//! Payloads into a store and out of it.

use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use zipline_sdk::{ByteRange, Error, ErrorCode, Narrow, PARALLEL_DEFAULT, Payload, PutOptions, StoreCounters};

use crate::places::place;

const MIB: usize = 1 << 20;
const BOTH: [&str; 2] = ["s3", "redis"];

fn bytes(length: usize) -> Vec<u8> {
    zipline_testkit::Payload::new(length as u64, 7).bytes().to_vec()
}

fn granting(retrievals: u32) -> PutOptions {
    PutOptions { retrievals: NonZeroU32::new(retrievals).unwrap_or(NonZeroU32::MIN), ttl: None }
}

fn is_gone(outcome: Result<Payload, Error>) -> Result<()> {
    match outcome {
        Err(error) => ensure!(error.code() == Some(ErrorCode::ReferenceExhausted), "{error}"),
        Ok(payload) => anyhow::bail!("it gave {} bytes", payload.len()),
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_size_arrives_byte_for_byte_and_is_gone_after_its_one_retrieval() -> Result<()> {
    for method in BOTH {
        let Some(place) = place(method, "every_size_arrives_byte_for_byte").await? else { continue };
        let (producer, consumer) = (place.client()?, place.client()?);
        // Around the size of a part, and several of them.
        for length in [0, 1, 1000, 3 * MIB + 1, 16 * MIB, 16 * MIB + 1, 40 * MIB + 3] {
            let sent = Payload::from(bytes(length)).with_content_type("image/jpeg");
            let receipt = producer.put_with_receipt(sent.clone(), PutOptions::default()).await?;
            ensure!(receipt.size_bytes == Some(length as u64) && receipt.reference.method() == method);
            ensure!(receipt.expires.is_some_and(|at| at > SystemTime::now()));
            let got = consumer.get(&receipt.reference).await?;
            ensure!(got[..] == sent[..], "{method}: {length} bytes arrive as they were");
            ensure!(got.content_type() == Some("image/jpeg"), "{method}: {:?}", got.content_type());
            is_gone(consumer.get(&receipt.reference).await)?;
            consumer.clean_up().await;
            is_gone(producer.get(&receipt.reference).await)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_and_narrowed_references_read_a_part() -> Result<()> {
    for method in BOTH {
        let Some(place) = place(method, "ranges_and_narrowed_references_read_a_part").await? else { continue };
        let client = place.client()?;
        let whole = bytes(20 * MIB);
        let typed = Payload::from(whole.clone()).with_content_type("text/csv");
        let reference = client.put(typed, granting(2)).await?;
        let range = |first, length| ByteRange { first, length };
        for (first, length) in [(0, 1), (5, 70_000), (16 * MIB as u64 - 1, 3), (0, 20 * MIB as u64), (20 * MIB as u64 - 1, 1)] {
            let part = client.get_range(&reference, range(first, length)).await?;
            ensure!(part[..] == whole[first as usize..(first + length) as usize], "{method}: {first}, {length}");
        }
        for (first, length) in [(0, 0), (20 * MIB as u64, 1), (1, 20 * MIB as u64), (u64::MAX, 2)] {
            let error = client.get_range(&reference, range(first, length)).await.expect_err("outside");
            ensure!(error.code() == Some(ErrorCode::RangeUnsatisfiable), "{error}");
        }
        let narrow = |first, length| Narrow { range: Some(range(first, length)), ..Narrow::default() };
        let narrower = client.narrow(&client.narrow(&reference, &narrow(10, 100)).await?, &narrow(5, 10)).await?;
        ensure!(client.get(&narrower).await?[..] == whole[15..25]);
        ensure!(client.get_range(&narrower, range(9, 1)).await?[..] == whole[24..25]);
        ensure!(client.narrow(&narrower, &narrow(5, 6)).await.is_err(), "nothing is widened");
        client.release(&reference).await?;
        client.release(&reference).await?;
        is_gone(client.get(&reference).await)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scatter_gather_and_broadcast_work_as_under_zipline() -> Result<()> {
    for method in BOTH {
        let Some(place) = place(method, "scatter_gather_and_broadcast_work_as_under_zipline").await? else { continue };
        let (producer, consumer) = (place.client()?, place.client()?);
        let parts: Vec<_> = (0..20).map(|part| bytes(part * 1000)).collect();
        let references = producer.scatter(parts.clone(), PutOptions::default(), PARALLEL_DEFAULT).await?;
        let gathered = consumer.gather(&references, PARALLEL_DEFAULT).await?;
        ensure!(gathered.iter().zip(&parts).all(|(got, sent)| got[..] == sent[..]));
        let consumers = NonZeroU32::new(4).unwrap_or(NonZeroU32::MIN);
        let copies = producer.broadcast(bytes(MIB), consumers, None, PARALLEL_DEFAULT).await?;
        ensure!(consumer.gather(&copies, PARALLEL_DEFAULT).await?.iter().all(|copy| copy[..] == bytes(MIB)[..]));
        let counted = consumer.store_counters();
        let operations = if method == "s3" { counted.s3 } else { counted.redis };
        ensure!(operations.gets == 24, "one get a payload: {operations:?}");
        ensure!(operations.get_bytes == 190_000 + 4 * MIB as u64, "{operations:?}");
        if method == "redis" {
            is_gone(consumer.get(&copies[0]).await)?; // Redis counts retrievals; S3 cannot.
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_are_counted_as_a_bill_counts_them_and_published() -> Result<()> {
    for method in BOTH {
        let Some(place) = place(method, "operations_are_counted_as_a_bill_counts_them_and_published").await? else { continue };
        let folder = zipline_testkit::Scratch::new()?;
        let (one, other) = (place.counting_client(folder.path())?, place.counting_client(folder.path())?);
        let small = one.put(bytes(1000), PutOptions::default()).await?;
        other.get(&small).await?;
        let of = |counters: StoreCounters| if method == "s3" { counters.s3 } else { counters.redis };
        let (put, got) = (of(one.store_counters()), of(other.store_counters()));
        ensure!((put.puts, put.put_bytes, put.gets) == (1, 1000, 0), "{put:?}");
        ensure!((got.puts, got.get_bytes, got.gets) == (0, 1000, 1), "{got:?}");
        let before = one.store_counters();
        let large = one.put(bytes(40 * MIB), PutOptions::default()).await?;
        other.get(&large).await?;
        let since = of(one.store_counters().since(before));
        // Three parts, and the upload's beginning and end; three ranges.
        let (puts, gets) = if method == "s3" { (5, 4) } else { (1, 2) };
        ensure!((since.puts, since.put_bytes) == (puts, 40 * MIB as u64), "{since:?}");
        ensure!(of(other.store_counters()).gets == gets, "{:?}", other.store_counters());
        other.clean_up().await;
        let published = of(StoreCounters::of_folder(folder.path())?);
        ensure!((published.puts, published.gets) == (1 + puts, gets), "{published:?}");
        ensure!(published.put_bytes == 1000 + 40 * MIB as u64 && published.deletes == 2, "{published:?}");
        ensure!((published.failed, published.throttled, published.left_behind) == (0, 0, 0), "{published:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stat_tells_what_the_store_knows() -> Result<()> {
    for method in BOTH {
        let Some(place) = place(method, "stat_tells_what_the_store_knows").await? else { continue };
        let client = place.client()?;
        let options = PutOptions { ttl: Some(Duration::from_secs(100)), ..granting(3) };
        let reference = client.put(bytes(1000), options).await?;
        client.get(&reference).await?;
        let stat = client.stat(&reference).await?;
        ensure!(stat.size_bytes == Some(1000), "{stat:?}");
        if method == "redis" {
            ensure!(stat.retrievals_left == Some(2), "{stat:?}");
            let left = stat.expires.and_then(|at| at.duration_since(SystemTime::now()).ok());
            ensure!(left.is_some_and(|left| left.as_secs() <= 100 && left.as_secs() > 50), "{stat:?}");
        }
    }
    Ok(())
}

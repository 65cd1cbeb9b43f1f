//! Nothing stays behind in a store.

use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{Result, ensure};
use zipline_sdk::{Client, ErrorCode, PutOptions, Reference};
use zipline_testkit::wait;

use crate::places::{Place, place};

const BOTH: [&str; 2] = ["s3", "redis"];
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// Waits until the object is not in the store any more, as a client sees it that had no part in it.
async fn gone(place: &Place, reference: &Reference) -> Result<()> {
    let witness = place.client()?;
    let look = async || {
        Ok(match witness.stat(reference).await {
            Err(error) => error.code() == Some(ErrorCode::ReferenceExhausted),
            Ok(_) => false,
        })
    };
    wait::until("the object to be gone", GONE_WITHIN, look, |gone| *gone).await.map(drop)
}

async fn put(client: &Client, retrievals: u32, ttl: Option<Duration>) -> Result<Reference> {
    let retrievals = NonZeroU32::new(retrievals).unwrap_or(NonZeroU32::MIN);
    Ok(client.put(vec![7; 1000], PutOptions { retrievals, ttl }).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_goes_after_its_retrieval_at_its_expiry_and_with_its_session() -> Result<()> {
    for method in BOTH {
        let name = "an_object_goes_after_its_retrieval_at_its_expiry_and_with_its_session";
        let Some(place) = place(method, name).await? else { continue };
        let (producer, consumer) = (place.client()?, place.client()?);

        let read = put(&producer, 1, None).await?;
        consumer.get(&read).await?;
        gone(&place, &read).await?;

        let expiring = put(&producer, 5, Some(Duration::from_millis(300))).await?;
        gone(&place, &expiring).await?;

        let (kept, dropped) = (put(&producer, 5, None).await?, place.client()?);
        let with_dropped = put(&dropped, 1, None).await?;
        drop(dropped);
        gone(&place, &with_dropped).await?;
        producer.stat(&kept).await?;
        producer.clean_up().await;
        let error = producer.stat(&kept).await.expect_err("its session is over");
        ensure!(error.code() == Some(ErrorCode::ReferenceExhausted), "{error}");
        ensure!(producer.store_counters().s3.left_behind == 0);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_is_given_up_leaves_the_object_for_another() -> Result<()> {
    for method in BOTH {
        let Some(place) = place(method, "a_read_that_is_given_up_leaves_the_object_for_another").await? else { continue };
        let (producer, consumer) = (place.client()?, place.client()?);
        let reference = producer.put(vec![7; 30 << 20], PutOptions::default()).await?;
        tokio::select! {
            biased;
            _ = consumer.get(&reference) => {}
            () = tokio::task::yield_now() => {}
        }
        ensure!(consumer.get(&reference).await?.len() == 30 << 20, "{method}");
    }
    Ok(())
}

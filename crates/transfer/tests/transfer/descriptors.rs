//! A function's descriptor is input: it is taken as it is, or refused by name.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::Result;
use rustix::fs::{SealFlags, fcntl_add_seals};
use zipline_contract::ErrorCode;
use zipline_sys::Memfd;
use zipline_transfer::PutOptions;

use crate::common::*;

fn filled(payload: &[u8]) -> Result<Memfd> {
    let memfd = Memfd::create("function")?;
    memfd.write_all_at(payload, 0)?;
    Ok(memfd)
}

#[tokio::test]
async fn a_sealed_memfd_becomes_an_object_and_is_read_by_everybody() -> Result<()> {
    let (producer, consumer) = (start(|_| ()).await?, start(|_| ()).await?);
    for size in [0, 1, MIB, 5 * MIB + 3] {
        let payload = bytes(size);
        let descriptor = OwnedFd::from(filled(&payload)?.seal()?);
        let put = producer.node.put_descriptor(descriptor, retrievals(3)).await?;
        assert_eq!((put.size, producer.node.census().bytes), (size as u64, size as u64));
        for node in [&consumer.node, &consumer.node, &producer.node] {
            assert!(get(node, put.token.as_str()).await? == payload);
        }
        empty(&producer.node).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_not_immutable_or_has_holes_is_refused_by_name_and_leaves_nothing() -> Result<()> {
    let at = start(|config| config.buffer_bytes = 8 * MIB as u64).await?;
    let unsealed = filled(b"abc")?.as_fd().try_clone_to_owned()?;
    let half = filled(b"abc")?;
    fcntl_add_seals(&half, SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL)?;
    let sparse = filled(b"abc")?;
    sparse.set_size(4 * MIB as u64)?;
    let (pipe, _other) = std::io::pipe()?;
    let file = tempfile::tempfile()?;
    let large = filled(&bytes(9 * MIB))?.seal()?;
    for (what, descriptor, code, says) in [
        ("unsealed", unsealed, ErrorCode::RequestInvalid, "WRITE"),
        ("half-sealed", half.as_fd().try_clone_to_owned()?, ErrorCode::RequestInvalid, "WRITE"),
        ("sparse", sparse.seal()?.into(), ErrorCode::RequestInvalid, "holes"),
        ("a pipe", pipe.into(), ErrorCode::RequestInvalid, "memfd"),
        ("a file", file.into(), ErrorCode::RequestInvalid, ""),
        ("too large", large.into(), ErrorCode::PayloadTooLarge, "9437184"),
    ] {
        let error = at.node.put_descriptor(descriptor, PutOptions::default()).await.expect_err(what);
        assert_eq!(error.code(), code, "{what}: {error}");
        assert!(error.to_string().contains(says), "{what}: {error}");
    }
    empty(&at.node).await
}

#[tokio::test]
async fn options_that_no_put_gets_are_refused_with_the_limit() -> Result<()> {
    let at = start(|_| ()).await?;
    let long = PutOptions { ttl: Some(std::time::Duration::from_secs(7200)), ..PutOptions::default() };
    let error = at.node.put(long).await.expect_err("too long");
    assert!(error.code() == ErrorCode::RequestInvalid && error.to_string().contains("3600"), "{error}");
    let error = at.node.put(retrievals(2_000_000)).await.expect_err("too many");
    assert!(error.code() == ErrorCode::RequestInvalid && error.to_string().contains("1000000"), "{error}");
    let other_size = PutOptions { size: Some(4), ..PutOptions::default() };
    let error = at.node.put_descriptor(filled(b"abc")?.seal()?.into(), other_size).await.expect_err("another size");
    assert_eq!(error.code(), ErrorCode::RequestInvalid);
    Ok(())
}

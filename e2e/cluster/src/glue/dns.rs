//! Names of Services over UDP: A records, aliases followed, everything else does not exist.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use tokio::net::UdpSocket;

use super::services::Services;
use crate::Api;

/// Longest question that is read: names have at most 255 bytes, extensions are ignored.
const QUESTION_BYTES_MAX: usize = 1232;
const HEADER_BYTES: usize = 12;
const TTL_SECONDS: u32 = 1;
const TYPE_A: u16 = 1;
/// Recursion is available; this is an answer to what was asked.
const FLAGS: u16 = 0x8580;
const NO_SUCH_NAME: u16 = 3;

/// Answers at port 53 of an address.
pub async fn serve(api: Api, address: Ipv4Addr) -> Result<()> {
    let services = Services::default();
    let socket = UdpSocket::bind(SocketAddr::from((address, 53))).await.context("the port of the name server")?;
    let answers = async {
        let mut question = [0; QUESTION_BYTES_MAX];
        loop {
            let (bytes, peer) = socket.recv_from(&mut question).await?;
            if let Some(answer) = answer(&question[..bytes], &services) {
                // Who asked may be gone; it asks again if it is not.
                let _ = socket.send_to(&answer, peer).await;
            }
        }
    };
    tokio::select! {
        result = services.follow(&api) => result,
        result = answers => result,
    }
}

/// The answer to one question; none to what is no question.
fn answer(question: &[u8], services: &Services) -> Option<Vec<u8>> {
    let (name, end) = name(question)?;
    let kind = u16::from_be_bytes(question.get(end..end + 2)?.try_into().ok()?);
    let asked = question.get(HEADER_BYTES..end + 4)?;
    let found = services.address(&name);
    let code = if found.is_some() { 0 } else { NO_SUCH_NAME };
    let address = found.flatten().filter(|_| kind == TYPE_A);

    let mut answer = question[..2].to_vec();
    answer.extend((FLAGS | code).to_be_bytes());
    answer.extend([0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    answer.extend(asked);
    if let Some(address) = address {
        // The name again, as a pointer to the question's.
        answer.extend([0xc0, HEADER_BYTES as u8]);
        answer.extend([0, 1, 0, 1]);
        answer.extend(TTL_SECONDS.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

/// The name that is asked for, and where it ends.
fn name(question: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut at) = (Vec::new(), HEADER_BYTES);
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(question.get(at..at + length)?).into_owned());
        at += length;
    }
}

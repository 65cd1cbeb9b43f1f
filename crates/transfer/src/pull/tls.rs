//! Mutual TLS of pulls, with the key ring as the only authority.
//!
//! From each key of the ring an authority is derived that every proxy of the trust domain can compute. A proxy makes
//! itself a certificate under the current key's authority and accepts those of every key that is still accepted, at
//! both ends; so a rotation of the ring is all the rotation there is. Certificates bear no dates of their own: an
//! authority ends with its key. Sessions are not resumed, so that each connection is checked under the ring in force.
//!
//! It hides bytes. Who may read what is still decided by the MAC of each request, on every connection.

use std::io;
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, date_time_ymd,
};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use zeroize::Zeroizing;
use zipline_core::reference::{DomainKey, KeyId, KeyRing};
use zipline_core::time::WallTime;

use super::stream::PullStream;
use crate::error::TransferError;
use crate::stored::lock;

/// The first byte of a TLS connection; no request of the pull port begins with it.
pub(crate) const TLS_HANDSHAKE: u8 = 0x16;
/// The name in every certificate: the address that is dialled is under each request's MAC.
const PROXY_NAME: &str = "queue-proxy.zipline.internal";
/// What stands before the 32 bytes of an Ed25519 private key in PKCS #8 (RFC 8410).
const PKCS8_ED25519_HEAD: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// Why no certificate could be made from a ring.
#[derive(Debug, thiserror::Error)]
enum CertificateError {
    #[error(transparent)]
    Make(#[from] rcgen::Error),
    #[error(transparent)]
    Use(#[from] rustls::Error),
    #[error(transparent)]
    Verify(#[from] VerifierBuilderError),
}

/// The certificate of this proxy and what it accepts, made anew when the ring or the time asks for it.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    made: Mutex<Option<Made>>,
}

#[derive(Clone, Debug)]
struct Made {
    ring: Arc<KeyRing>,
    current: KeyId,
    accepted: Vec<KeyId>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Certificates {
    /// Answers a handshake. Not bounded in time.
    pub(crate) async fn accept(&self, ring: Arc<KeyRing>, now: WallTime, stream: TcpStream) -> io::Result<PullStream> {
        let made = self.in_force(ring, now).map_err(io::Error::other)?;
        let stream = TlsAcceptor::from(made.server).accept(stream).await?;
        Ok(PullStream::Tls(Box::new(stream.into())))
    }

    /// Begins a handshake. Not bounded in time.
    pub(crate) async fn connect(&self, ring: Arc<KeyRing>, now: WallTime, stream: TcpStream) -> io::Result<PullStream> {
        let made = self.in_force(ring, now).map_err(io::Error::other)?;
        let name = ServerName::try_from(PROXY_NAME).map_err(io::Error::other)?;
        let stream = TlsConnector::from(made.client).connect(name, stream).await?;
        Ok(PullStream::Tls(Box::new(stream.into())))
    }

    fn in_force(&self, ring: Arc<KeyRing>, now: WallTime) -> Result<Made, TransferError> {
        let current = ring.sealing(now).ok_or(TransferError::Seal(zipline_core::reference::SealError::NoKey))?;
        let accepted = || ring.keys().iter().filter(|key| ring.accepting(key.id(), now).is_some());
        let ids: Vec<KeyId> = accepted().map(DomainKey::id).collect();
        let mut kept = lock(&self.made);
        if let Some(made) = &*kept
            && Arc::ptr_eq(&made.ring, &ring)
            && made.current == current.id()
            && made.accepted == ids
        {
            return Ok(made.clone());
        }
        let (server, client) = make(current, accepted()).map_err(|error| TransferError::System(io::Error::other(error)))?;
        let made = Made { current: current.id(), accepted: ids, server, client, ring: Arc::clone(&ring) };
        Ok(kept.insert(made).clone())
    }
}

/// Whether a handshake failed by what was said, and not by the connection.
pub(crate) fn is_disagreement(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
}

fn make<'a>(
    current: &DomainKey,
    accepted: impl Iterator<Item = &'a DomainKey>,
) -> Result<(Arc<ServerConfig>, Arc<ClientConfig>), CertificateError> {
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let mut params = always_valid("zipline queue-proxy", vec![PROXY_NAME.to_owned()])?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let chain = vec![params.signed_by(&key, &*authority(current)?)?.der().clone()];
    let secret = || PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut roots = RootCertStore::empty();
    for key in accepted {
        roots.add(authority(key)?.der().clone())?;
    }
    let (roots, provider) = (Arc::new(roots), Arc::new(ring::default_provider()));
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build()?;
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain.clone(), secret())?;
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, secret())?;
    client.resumption = Resumption::disabled();
    Ok((Arc::new(server), Arc::new(client)))
}

/// The authority of a key: the same wherever it is computed.
fn authority(key: &DomainKey) -> Result<CertifiedIssuer<'static, KeyPair>, CertificateError> {
    let secret = Zeroizing::new([&PKCS8_ED25519_HEAD[..], key.pull_tls_seed()].concat());
    let secret = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(secret.as_slice()), &PKCS_ED25519)?;
    let mut params = always_valid(&format!("zipline key {}", key.id()), Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(CertifiedIssuer::self_signed(params, secret)?)
}

fn always_valid(common_name: &str, names: Vec<String>) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::new(names)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(9999, 1, 1);
    Ok(params)
}

//! The webhook's own certificate: made and renewed here, without any other PKI.
//!
//! A self-signed certificate lies in a Secret that every replica reads. Its renewal keeps the one before for a while: the
//! API server is told to trust both ([`Bundle::trusted`]) before a replica serves the new one, so that at no moment a
//! review meets a certificate that nobody trusts.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use k8s_openapi::ByteString;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::names::{CONTROLLER, NAMESPACE};

/// Days a certificate is valid.
const VALID_DAYS: u64 = 90;
/// It is renewed when fewer are left.
const RENEW_DAYS: u64 = 30;
const DAY_MS: u64 = 24 * 3600 * 1000;
/// Clocks differ: a certificate begins a day before it is made.
const BACKDATED_DAYS: u64 = 1;

const CERTIFICATE: &str = "tls.crt";
const PRIVATE_KEY: &str = "tls.key";
const BEFORE: &str = "before.crt";
const MADE_MS: &str = "made-ms";

/// What the Secret holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    certificate_pem: String,
    key_pem: String,
    before_pem: Option<String>,
    made_ms: u64,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The Secret holds something else. A new one is made in its place.
    #[error("the Secret with the webhook's certificate lacks a usable {0}")]
    Missing(&'static str),
    /// A certificate can't be made.
    #[error("a certificate can't be made: {0}")]
    Make(#[from] rcgen::Error),
    /// What was made or read can't be served.
    #[error("the certificate can't be served: {0}")]
    Serve(#[from] rustls::Error),
}

impl Bundle {
    /// A new certificate for the controller's service; `before` stays trusted.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn make(now_ms: u64, before: Option<&Self>) -> Result<Self, CertificateError> {
        let host = format!("{CONTROLLER}.{NAMESPACE}.svc");
        let mut params = CertificateParams::new(vec![host.clone(), format!("{host}.cluster.local")])?;
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, host);
        params.distinguished_name = name;
        let epoch = date_time_ymd(1970, 1, 1);
        let day = |days: u64| epoch + std::time::Duration::from_millis(days * DAY_MS);
        let today = now_ms / DAY_MS;
        params.not_before = day(today.saturating_sub(BACKDATED_DAYS));
        params.not_after = day(today + VALID_DAYS);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            before_pem: before.map(|before| before.certificate_pem.clone()),
            made_ms: now_ms,
        })
    }

    /// Reads the Secret's entries.
    ///
    /// # Errors
    /// When one is missing or is no text.
    pub fn read(data: &BTreeMap<String, ByteString>) -> Result<Self, CertificateError> {
        let text = |name: &'static str| {
            let bytes = data.get(name).ok_or(CertificateError::Missing(name))?;
            String::from_utf8(bytes.0.clone()).map_err(|_| CertificateError::Missing(name))
        };
        let bundle = Self {
            certificate_pem: text(CERTIFICATE)?,
            key_pem: text(PRIVATE_KEY)?,
            before_pem: text(BEFORE).ok(),
            made_ms: text(MADE_MS)?.trim().parse().map_err(|_| CertificateError::Missing(MADE_MS))?,
        };
        bundle.certified()?; // Whatever can't be served is as good as missing.
        Ok(bundle)
    }

    /// The Secret's entries.
    pub fn entries(&self) -> BTreeMap<String, ByteString> {
        let entry = |name: &str, text: &str| (name.to_owned(), ByteString(text.as_bytes().to_vec()));
        let mut entries = BTreeMap::from([
            entry(CERTIFICATE, &self.certificate_pem),
            entry(PRIVATE_KEY, &self.key_pem),
            entry(MADE_MS, &self.made_ms.to_string()),
        ]);
        entries.extend(self.before_pem.as_deref().map(|before| entry(BEFORE, before)));
        entries
    }

    /// When it is to be renewed, Unix milliseconds.
    pub fn renew_at_ms(&self) -> u64 {
        self.made_ms.saturating_add((VALID_DAYS - RENEW_DAYS) * DAY_MS)
    }

    /// When it ends, Unix milliseconds.
    pub fn ends_at_ms(&self) -> u64 {
        (self.made_ms / DAY_MS + VALID_DAYS) * DAY_MS
    }

    /// What the API server has to trust, as PEM: this one and the one before.
    pub fn trusted(&self) -> String {
        self.certificate_pem.clone() + self.before_pem.as_deref().unwrap_or_default()
    }

    fn certified(&self) -> Result<CertifiedKey, CertificateError> {
        let certificate = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes())
            .map_err(|_| CertificateError::Missing(CERTIFICATE))?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|_| CertificateError::Missing(PRIVATE_KEY))?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key)?;
        Ok(CertifiedKey::new(vec![certificate], key))
    }
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundle").field("made_ms", &self.made_ms).finish_non_exhaustive()
    }
}

/// The certificate that is served now.
#[derive(Debug)]
pub struct Served(RwLock<Arc<CertifiedKey>>);

impl Served {
    /// Serves this one first.
    ///
    /// # Errors
    /// When it can't be served.
    pub fn new(bundle: &Bundle) -> Result<Arc<Self>, CertificateError> {
        Ok(Arc::new(Self(RwLock::new(Arc::new(bundle.certified()?)))))
    }

    /// Serves this one from the next handshake on.
    ///
    /// # Errors
    /// When it can't be served; the one before stays.
    pub fn replace(&self, bundle: &Bundle) -> Result<(), CertificateError> {
        let certified = Arc::new(bundle.certified()?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(())
    }

    /// For a server of HTTP/1.1 over TLS 1.2 and 1.3.
    ///
    /// # Errors
    /// When the library has no protocol version.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, CertificateError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

//! The request port over TLS: certificates from a mounted Secret, read again when they change.
//!
//! Knative mounts `tls.crt` and `tls.key` when system-internal TLS is on; without them there is no TLS port. A certificate
//! that is replaced serves the connections made after it, at the latest a minute later; connections that stand go on. Files
//! that can't be used keep the certificate in force and are logged. An expired certificate is served on, as Knative's
//! proxy does: whether it is still good is for the client to judge.
//!
//! `QUEUE_PROXY_TLS_*` narrow versions, ciphers and key exchanges, by Go's names for them. What Go knows and this TLS library
//! does not is left out with a warning, unless nothing would be left.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version};
use tokio_rustls::TlsAcceptor;

use crate::directory::Changes;

/// How long a changed certificate may go unnoticed where the kernel does not tell; Knative's proxy looks as often.
const READ_AGAIN: Duration = Duration::from_secs(60);
/// Bytes of a certificate chain or key.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// `QUEUE_PROXY_TLS_*`, as they were given; empty: not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// `QUEUE_PROXY_TLS_MIN_VERSION`: `1.2` or `1.3`; 1.3 where it is not given.
    pub version_min: String,
    /// `QUEUE_PROXY_TLS_MAX_VERSION`.
    pub version_max: String,
    /// `QUEUE_PROXY_TLS_CIPHER_SUITES`: names separated by commas; without effect on TLS 1.3.
    pub cipher_suites: String,
    /// `QUEUE_PROXY_TLS_CURVE_PREFERENCES`: names separated by commas.
    pub curve_preferences: String,
}

/// Why the TLS port can't be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is there and can't be read.
    #[error("{path} can't be read: {error}")]
    Unreadable {
        /// The certificate or the key.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} holds no {expected}: {reason}")]
    Malformed {
        /// The certificate or the key.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key can't be used together.
    #[error("the certificate and the key in {directory} can't be used: {error}")]
    Pair {
        /// Where both lie.
        directory: PathBuf,
        /// What is wrong with them.
        error: rustls::Error,
    },
    /// A setting is none of Go's names.
    #[error("{variable}: `{value}` is not {expected}")]
    Setting {
        /// The variable.
        variable: &'static str,
        /// What was given.
        value: String,
        /// What can be given.
        expected: &'static str,
    },
    /// The settings leave nothing to agree on.
    #[error("QUEUE_PROXY_TLS_*: no client could connect: {0}")]
    Nothing(String),
}

/// The certificate in force, and where the next one comes from.
#[derive(Debug)]
pub struct Certificates {
    directory: PathBuf,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    files: Files,
    pair: Arc<CertifiedKey>,
}

#[derive(Debug, PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Certificates {
    /// Reads `tls.crt` and `tls.key` in a directory; `None` if either is not there.
    ///
    /// # Errors
    /// They are there and can't be used.
    pub fn read(directory: &Path) -> Result<Option<Arc<Self>>, TlsError> {
        let Some(files) = Files::read(directory)? else { return Ok(None) };
        let pair = files.pair(directory)?;
        let current = RwLock::new(Current { files, pair });
        Ok(Some(Arc::new(Self { directory: directory.to_owned(), current })))
    }

    /// Reads them again whenever they change, and now and then in any case. Runs as long as the port is served.
    pub async fn follow(&self) {
        let mut changes = Changes::around(&self.directory.join(CERTIFICATE)).ok();
        loop {
            let changed = async {
                match &mut changes {
                    Some(changes) => changes.next().await,
                    None => std::future::pending().await,
                }
            };
            if let Ok(Err(_ended)) = tokio::time::timeout(READ_AGAIN, changed).await {
                changes = None;
            }
            match self.read_again() {
                Ok(true) => {
                    tracing::info!(directory = %self.directory.display(), "the certificate has changed and was read again")
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the new certificate can't be used; the one in force stays"),
            }
        }
    }

    /// Answers whether there was anything new.
    fn read_again(&self) -> Result<bool, TlsError> {
        let Some(files) = Files::read(&self.directory)? else {
            return Err(TlsError::Unreadable { path: self.directory.join(CERTIFICATE), error: io::ErrorKind::NotFound.into() });
        };
        if self.current.read().unwrap_or_else(PoisonError::into_inner).files == files {
            return Ok(false);
        }
        let pair = files.pair(&self.directory)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Current { files, pair };
        Ok(true)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).pair))
    }
}

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

impl Files {
    fn read(directory: &Path) -> Result<Option<Self>, TlsError> {
        let (certificate, key) = (contents(directory, CERTIFICATE)?, contents(directory, KEY)?);
        Ok(certificate.zip(key).map(|(certificate, key)| Self { certificate, key }))
    }

    fn pair(&self, directory: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
        let malformed = |file, expected, reason: String| TlsError::Malformed { path: directory.join(file), expected, reason };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.certificate).collect();
        let chain = chain.map_err(|error| malformed(CERTIFICATE, "PEM certificates", error.to_string()))?;
        if chain.is_empty() {
            return Err(malformed(CERTIFICATE, "PEM certificates", "there is none in it".to_owned()));
        }
        // The parser's error names what it looked for, never what it found.
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| malformed(KEY, "PEM key", error.to_string()))?;
        CertifiedKey::from_der(chain, key, &ring::default_provider())
            .map(Arc::new)
            .map_err(|error| TlsError::Pair { directory: directory.to_owned(), error })
    }
}

fn contents(directory: &Path, name: &str) -> Result<Option<Vec<u8>>, TlsError> {
    let path = directory.join(name);
    let mut text = Vec::new();
    match File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text)) {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TlsError::Unreadable { path, error }),
    }
}

/// What turns a connection into a TLS connection, HTTP/2 and HTTP/1.1 on offer.
///
/// # Errors
/// A setting can't be read, or the settings leave nothing to agree on.
pub fn acceptor(certificates: Arc<Certificates>, settings: &TlsSettings) -> Result<TlsAcceptor, TlsError> {
    let provider = provider(settings)?;
    let versions = versions(settings)?;
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&versions)
        .map_err(|error| TlsError::Nothing(error.to_string()))?;
    let mut config = config.with_no_client_auth().with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn versions(settings: &TlsSettings) -> Result<Vec<&'static SupportedProtocolVersion>, TlsError> {
    let min = version("QUEUE_PROXY_TLS_MIN_VERSION", &settings.version_min)?.unwrap_or(3);
    let max = version("QUEUE_PROXY_TLS_MAX_VERSION", &settings.version_max)?.unwrap_or(3);
    let known = [(2, &version::TLS12), (3, &version::TLS13)];
    let within: Vec<_> = known.into_iter().filter(|(minor, _)| (min..=max).contains(minor)).map(|(_, version)| version).collect();
    if within.is_empty() {
        return Err(TlsError::Nothing(format!("the lowest version is 1.{min}, the highest 1.{max}")));
    }
    Ok(within)
}

/// The minor version.
fn version(variable: &'static str, text: &str) -> Result<Option<u8>, TlsError> {
    match text {
        "" => Ok(None),
        "1.2" => Ok(Some(2)),
        "1.3" => Ok(Some(3)),
        other => Err(TlsError::Setting { variable, value: other.to_owned(), expected: "`1.2` or `1.3`" }),
    }
}

fn provider(settings: &TlsSettings) -> Result<CryptoProvider, TlsError> {
    let mut provider = ring::default_provider();
    if let Some(names) = named("QUEUE_PROXY_TLS_CIPHER_SUITES", &settings.cipher_suites, &SUITES, "Go's name of a cipher suite")?
    {
        // As in Go, the list is about TLS 1.2; the suites of 1.3 are not chosen from.
        provider.cipher_suites.retain(|suite| match suite {
            SupportedCipherSuite::Tls13(_) => true,
            SupportedCipherSuite::Tls12(_) => suite.suite().as_str().is_some_and(|name| names.contains(&name)),
        });
    }
    if let Some(names) = named("QUEUE_PROXY_TLS_CURVE_PREFERENCES", &settings.curve_preferences, &CURVES, "Go's name of a curve")?
    {
        let group = |name: &&str| GROUPS.iter().find(|(known, _)| known == name).map(|(_, group)| *group);
        provider.kx_groups = names.iter().filter_map(group).collect();
        if provider.kx_groups.is_empty() {
            return Err(TlsError::Nothing(format!("this proxy has none of the curves `{}`", settings.curve_preferences)));
        }
    }
    Ok(provider)
}

/// The names of a list, as this library writes them; what it lacks is warned about. `None`: the list is empty.
fn named(
    variable: &'static str,
    list: &str,
    known: &[(&'static str, Option<&'static str>)],
    expected: &'static str,
) -> Result<Option<Vec<&'static str>>, TlsError> {
    let mut names = Vec::new();
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match known.iter().find(|(go, _)| *go == name) {
            Some((_, Some(ours))) => names.push(*ours),
            Some((_, None)) => tracing::warn!("{variable}: this proxy does not have {name}; it is left out"),
            None => return Err(TlsError::Setting { variable, value: name.to_owned(), expected }),
        }
    }
    let is_given = list.split(',').any(|name| !name.trim().is_empty());
    Ok(is_given.then_some(names))
}

/// Go's names of cipher suites, and this library's.
const SUITES: [(&str, Option<&str>); 13] = [
    ("TLS_AES_128_GCM_SHA256", Some("TLS13_AES_128_GCM_SHA256")),
    ("TLS_AES_256_GCM_SHA384", Some("TLS13_AES_256_GCM_SHA384")),
    ("TLS_CHACHA20_POLY1305_SHA256", Some("TLS13_CHACHA20_POLY1305_SHA256")),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", Some("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", Some("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384")),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", Some("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256")),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", Some("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256")),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", Some("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384")),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", Some("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256")),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", None),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", None),
];

/// Go's names of curves, and ours.
const CURVES: [(&str, Option<&str>); 8] = [
    ("X25519", Some("X25519")),
    ("CurveP256", Some("P-256")),
    ("CurveP384", Some("P-384")),
    ("P-256", Some("P-256")),
    ("P-384", Some("P-384")),
    ("CurveP521", None),
    ("P-521", None),
    ("X25519MLKEM768", None),
];

const GROUPS: [(&str, &dyn SupportedKxGroup); 3] =
    [("X25519", ring::kx_group::X25519), ("P-256", ring::kx_group::SECP256R1), ("P-384", ring::kx_group::SECP384R1)];

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(min: &str, max: &str, suites: &str, curves: &str) -> TlsSettings {
        let own = str::to_owned;
        TlsSettings { version_min: own(min), version_max: own(max), cipher_suites: own(suites), curve_preferences: own(curves) }
    }

    fn written(directory: &Path, name: &str) -> rcgen::CertifiedKey<rcgen::KeyPair> {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        std::fs::write(directory.join(CERTIFICATE), made.cert.pem()).expect("written");
        std::fs::write(directory.join(KEY), made.signing_key.serialize_pem()).expect("written");
        made
    }

    #[test]
    fn version_1_3_alone_is_spoken_unless_an_older_one_is_asked_for() {
        assert_eq!(versions(&settings("", "", "", "")).expect("one"), [&version::TLS13]);
        assert_eq!(versions(&settings("1.2", "", "", "")).expect("two"), [&version::TLS12, &version::TLS13]);
        assert_eq!(versions(&settings("1.2", "1.2", "", "")).expect("one"), [&version::TLS12]);
        assert!(matches!(versions(&settings("1.1", "", "", "")), Err(TlsError::Setting { .. })));
        assert!(matches!(versions(&settings("1.3", "1.2", "", "")), Err(TlsError::Nothing(_))));
    }

    #[test]
    fn a_list_keeps_what_is_had_and_refuses_what_go_does_not_know() {
        let of = |suites: &str, curves: &str| provider(&settings("", "", suites, curves));
        let narrowed = of(" TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 ,TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,", "").expect("one suite");
        assert_eq!(narrowed.cipher_suites.iter().filter(|suite| suite.tls13().is_none()).count(), 1);
        assert_eq!(narrowed.cipher_suites.iter().filter(|suite| suite.tls13().is_some()).count(), 3);
        let curves = of("", "CurveP256,X25519MLKEM768,X25519").expect("two curves").kx_groups;
        assert_eq!(
            curves.iter().map(|group| group.name()).collect::<Vec<_>>(),
            [rustls::NamedGroup::secp256r1, rustls::NamedGroup::X25519]
        );
        assert!(matches!(of("TLS_RSA_WITH_RC4_128_SHA", ""), Err(TlsError::Setting { .. })));
        assert!(matches!(of("", "P-224"), Err(TlsError::Setting { .. })));
        assert!(matches!(of("", "P-521"), Err(TlsError::Nothing(_))));
    }

    #[test]
    fn a_certificate_is_replaced_when_both_files_fit_and_kept_when_they_do_not() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        assert!(Certificates::read(scratch.path()).expect("nothing wrong").is_none());
        let first = written(scratch.path(), "first");
        let certificates = Certificates::read(scratch.path()).expect("usable").expect("there");
        let served = || certificates.current.read().expect("sound").pair.cert[0].clone();
        assert!(!certificates.read_again().expect("unchanged"));
        let second = written(scratch.path(), "second");
        assert!(certificates.read_again().expect("usable"));
        assert_eq!(&served(), second.cert.der());
        std::fs::write(scratch.path().join(KEY), first.signing_key.serialize_pem()).expect("written");
        assert!(matches!(certificates.read_again(), Err(TlsError::Pair { .. })));
        std::fs::write(scratch.path().join(CERTIFICATE), "nothing").expect("written");
        assert!(matches!(certificates.read_again(), Err(TlsError::Malformed { .. })));
        std::fs::remove_file(scratch.path().join(CERTIFICATE)).expect("removed");
        assert!(matches!(certificates.read_again(), Err(TlsError::Unreadable { .. })));
        assert_eq!(&served(), second.cert.der());
    }
}

//! The request port over TLS: what is served, what a certificate's change does, what can't be used.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use zipline_contract::doors;
use zipline_testkit::Scratch;

use crate::support::{Function, PATIENCE, Proxy, until_holds};

/// Takes any certificate: the tests look at which one came.
#[derive(Debug)]
struct Any(Arc<CryptoProvider>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

type Secure = StreamOwned<ClientConnection, TcpStream>;

/// A connection after its handshake; `None` if there was none.
fn connect(proxy: &Proxy, alpn: &[&str], versions: &[&'static rustls::SupportedProtocolVersion]) -> Option<Secure> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions).expect("versions");
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(Any(provider)));
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let connection = ClientConnection::new(Arc::new(config), "shop".try_into().expect("a name")).expect("a client");
    let stream = TcpStream::connect(proxy.at(doors::REQUEST_TLS)).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut stream = StreamOwned::new(connection, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).ok()?;
    }
    Some(stream)
}

fn modern(proxy: &Proxy) -> Secure {
    connect(proxy, &["http/1.1"], &[&rustls::version::TLS13]).expect("a handshake")
}

fn served(stream: &Secure) -> Vec<u8> {
    stream.conn.peer_certificates().expect("a certificate")[0].to_vec()
}

/// One request on a connection that goes on.
fn ask(stream: &mut Secure) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    let mut received = Vec::new();
    while !received.ends_with(b"ok") {
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).expect("an answer");
        assert!(n > 0, "the end after {:?}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8(received).expect("text")
}

/// Writes a certificate of this name, valid from 1975 until this year, as Kubernetes replaces a Secret: all at once.
fn certify(directory: &Path, name: &str, until: i32) -> Vec<u8> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut parameters = rcgen::CertificateParams::new([name.to_owned()]).expect("a name");
    parameters.not_after = rcgen::date_time_ymd(until, 1, 1);
    let certificate = parameters.self_signed(&key).expect("a certificate");
    replace(directory, name, &certificate.pem(), &key.serialize_pem());
    certificate.der().to_vec()
}

fn replace(directory: &Path, name: &str, certificate: &str, key: &str) {
    let data = directory.join(format!("data-{name}"));
    std::fs::create_dir(&data).expect("a directory");
    std::fs::write(data.join("tls.crt"), certificate).expect("written");
    std::fs::write(data.join("tls.key"), key).expect("written");
    std::os::unix::fs::symlink(&data, directory.join("..data-new")).expect("linked");
    std::fs::rename(directory.join("..data-new"), directory.join("..data")).expect("turned");
    for file in ["tls.crt", "tls.key"] {
        if !directory.join(file).exists() {
            std::os::unix::fs::symlink(Path::new("..data").join(file), directory.join(file)).expect("linked");
        }
    }
}

fn secured(scratch: &Scratch, function: &Function, more: &[(&str, &str)]) -> Proxy {
    let directory = scratch.path().to_string_lossy().into_owned();
    let variables: Vec<(&str, &str)> =
        [("ZIPLINE_CERTIFICATES_DIR", directory.as_str())].into_iter().chain(more.iter().copied()).collect();
    Proxy::start(function.port, &variables)
}

#[test]
fn both_protocols_are_served_over_tls_and_plain_requests_go_on() {
    let (scratch, function) = (Scratch::new().expect("a scratch directory"), Function::ok());
    let own = certify(scratch.path(), "first", 2100);
    let proxy = secured(&scratch, &function, &[]);
    let mut stream = modern(&proxy);
    assert_eq!(served(&stream), own);
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    for _ in 0..2 {
        assert!(ask(&mut stream).starts_with("HTTP/1.1 200 OK\r\n"));
    }
    let both = connect(&proxy, &["h2", "http/1.1"], &[&rustls::version::TLS13]).expect("a handshake");
    assert_eq!(both.conn.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text(), "ok");
    assert!(connect(&proxy, &[], &[&rustls::version::TLS12]).is_none(), "TLS 1.2 is not spoken unless asked for");
}

#[test]
fn a_certificate_swapped_in_traffic_serves_what_comes_after_it() {
    let (scratch, function) = (Scratch::new().expect("a scratch directory"), Function::ok());
    let expired = certify(scratch.path(), "expired", 2001);
    let proxy = secured(&scratch, &function, &[]);
    let mut earlier = modern(&proxy);
    assert_eq!(served(&earlier), expired, "whether it is still good is for the client to judge");
    let renewed = certify(scratch.path(), "renewed", 2100);
    until_holds("new connections see the new certificate", || served(&modern(&proxy)) == renewed);
    assert!(ask(&mut earlier).contains("200 OK"), "a connection outlives its certificate");
    replace(scratch.path(), "broken", "nothing", "nothing");
    until_holds("the broken one is told of", || proxy.stderr().contains("the new certificate can't be used"));
    assert_eq!(served(&modern(&proxy)), renewed);
    assert!(ask(&mut earlier).contains("200 OK"));
}

#[test]
fn settings_narrow_what_is_spoken() {
    let (scratch, function) = (Scratch::new().expect("a scratch directory"), Function::ok());
    certify(scratch.path(), "first", 2100);
    let settings = [
        ("QUEUE_PROXY_TLS_MIN_VERSION", "1.2"),
        ("QUEUE_PROXY_TLS_CIPHER_SUITES", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
        ("QUEUE_PROXY_TLS_CURVE_PREFERENCES", "X25519MLKEM768,CurveP384"),
    ];
    let proxy = secured(&scratch, &function, &settings);
    let mut older = connect(&proxy, &[], &[&rustls::version::TLS12]).expect("a handshake");
    let suite = older.conn.negotiated_cipher_suite().expect("a suite").suite();
    assert_eq!(suite, rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384);
    assert_eq!(older.conn.negotiated_key_exchange_group().expect("a group").name(), rustls::NamedGroup::secp384r1);
    assert!(ask(&mut older).contains("200 OK"));
    assert!(proxy.stderr().contains("this proxy does not have X25519MLKEM768"), "{}", proxy.stderr());
}

#[test]
fn without_certificates_there_is_no_tls_port_and_bad_ones_end_the_start() {
    let function = Function::ok();
    let proxy = Proxy::start(function.port, &[("QUEUE_PROXY_TLS_MIN_VERSION", "1.1")]);
    assert!(TcpStream::connect(proxy.at(doors::REQUEST_TLS)).is_err());
    let cases: [(&str, &str, &str); 3] = [
        ("malformed", "1.3", "tls.crt holds no PEM certificates"),
        ("good", "1.1", "QUEUE_PROXY_TLS_MIN_VERSION: `1.1` is not `1.2` or `1.3`"),
        ("mismatched", "1.3", "can't be used"),
    ];
    for (kind, version, told) in cases {
        let scratch = Scratch::new().expect("a scratch directory");
        match kind {
            "malformed" => replace(scratch.path(), kind, "nothing", "nothing"),
            "good" => drop(certify(scratch.path(), kind, 2100)),
            _ => {
                certify(scratch.path(), "a", 2100);
                let other = Scratch::new().expect("a scratch directory");
                certify(other.path(), "b", 2100);
                std::fs::copy(other.join("tls.key"), scratch.join("..data/tls.key")).expect("copied");
            }
        }
        let directory = scratch.path().to_string_lossy().into_owned();
        let variables = [("ZIPLINE_CERTIFICATES_DIR", directory.as_str()), ("QUEUE_PROXY_TLS_MIN_VERSION", version)];
        let mut proxy = Proxy::launch(function.port, &variables);
        assert_eq!(proxy.ended().code(), Some(1), "{kind}");
        assert!(proxy.stderr().contains(told), "{kind}: {}", proxy.stderr());
    }
}

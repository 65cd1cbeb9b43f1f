//! What is said and done about a configuration before anything is served.

use std::net::{TcpListener, TcpStream};

use zipline_contract::doors;
use zipline_testkit::Loopback;

use crate::support::{Function, Proxy, silent_port};

#[test]
fn a_bad_configuration_is_told_whole_and_no_port_is_opened() {
    let variables = [("USER_PORT", "http"), ("SERVING_READINESS_PROBE", "{"), ("ZIPLINE_BUFFER_BYTES", "much")];
    let mut proxy = Proxy::launch(silent_port(), &variables);
    assert_eq!(proxy.ended().code(), Some(78));
    let told = proxy.stderr();
    for part in ["3 settings can't be used", "USER_PORT: `http`", "SERVING_READINESS_PROBE", "ZIPLINE_BUFFER_BYTES: `much`"] {
        assert!(told.contains(part), "{part} in {told}");
    }
    assert!(TcpStream::connect(proxy.requests()).is_err());
}

#[test]
fn a_misspelt_setting_is_a_warning_that_names_the_right_one() {
    let proxy = Proxy::start(silent_port(), &[("ZIPLINE_PULL_PROT", "8122")]);
    assert!(proxy.stderr().contains("is ZIPLINE_PULL_PORT meant"), "{}", proxy.stderr());
}

#[test]
fn a_port_that_is_taken_is_named() {
    for (port, what) in
        [(doors::REQUEST_HTTP1, "request port"), (doors::ADMIN, "admin port"), (doors::STATISTICS, "statistics port")]
    {
        let own = Loopback::claim().expect("an address");
        let _taken = TcpListener::bind(own.port(port)).expect("a free port");
        let mut proxy = Proxy::launch_at(own, silent_port(), &[]);
        assert_eq!(proxy.ended().code(), Some(1));
        let told = proxy.stderr();
        assert!(told.contains(&format!("{what} {}", proxy.at(port))), "{told}");
    }
}

#[test]
fn all_ports_are_at_the_bound_address_only() {
    let function = Function::ok();
    let proxy = Proxy::start(function.port, &[("OBSERVABILITY_CONFIG", r#"{"requestMetrics":{"protocol":"prometheus"}}"#)]);
    let other = Loopback::claim().expect("an address");
    for port in [doors::REQUEST_HTTP1, doors::ADMIN, doors::STATISTICS, doors::USER_METRICS] {
        assert!(TcpStream::connect(proxy.at(port)).is_ok(), "{port}");
        assert!(TcpStream::connect(other.port(port)).is_err(), "{port}");
    }
}

#[test]
fn a_client_proxy_has_an_admin_port_and_no_request_port() {
    let proxy = Proxy::start(silent_port(), &[("ZIPLINE_ROLE", "client")]);
    assert_eq!(proxy.get(doors::ADMIN, "/zipline/metrics").status(), 200);
    assert!(TcpStream::connect(proxy.requests()).is_err());
    assert!(TcpStream::connect(proxy.at(doors::STATISTICS)).is_err());
}

//! TCP congestion control of one connection.
use std::io;
use std::os::fd::AsFd;

/// The algorithm in use, by the kernel's name.
///
/// # Errors
/// When the descriptor is no TCP socket.
pub fn congestion(socket: impl AsFd) -> io::Result<String> {
    Ok(rustix::net::sockopt::tcp_congestion(socket)?)
}

/// Chooses an algorithm. Only those in `net.ipv4.tcp_allowed_congestion_control` may be chosen without privilege.
///
/// # Errors
/// `NotFound` for one that the kernel does not have; `PermissionDenied` for one that is not allowed.
pub fn set_congestion(socket: impl AsFd, name: &str) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_tcp_congestion(socket, name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reno_can_be_chosen_everywhere_and_an_unknown_name_nowhere() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        set_congestion(&listener, "reno").expect("always there and always allowed");
        assert_eq!(congestion(&listener).expect("readable"), "reno");
        assert!(set_congestion(&listener, "no-such-one").is_err());
        assert_eq!(congestion(&listener).expect("readable"), "reno");
        let (pipe, _other) = std::io::pipe().expect("pipe");
        assert!(congestion(&pipe).is_err());
    }
}

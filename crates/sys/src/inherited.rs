//! Descriptors that the parent process left open for this one, known by number.
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::FdFlags;

/// Standard input, output and error are nobody's to take.
const STANDARD_MAX: RawFd = 2;

/// Takes the inherited descriptor of that number; it is closed on exec from here on, and closed when dropped.
///
/// # Errors
/// `InvalidInput` for a number that no inherited descriptor has: not open, standard, opened by this process, or taken
/// before.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    let none = || io::Error::new(io::ErrorKind::InvalidInput, format!("descriptor {number} was not inherited"));
    if number <= STANDARD_MAX {
        return Err(none());
    }
    // SAFETY: `number` is not -1, and the borrow ends with this function. That it may not be open is what fcntl tells:
    // the call is harmless for any number. rustix has no call that takes a bare number.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    // Whatever this process opens is closed on exec (std, tokio and rustix see to it), so a descriptor that is not came
    // through exec, and nothing here owns it. Taking it sets the flag, so that it can't be taken twice.
    match rustix::io::fcntl_getfd(borrowed) {
        Ok(flags) if !flags.contains(FdFlags::CLOEXEC) => rustix::io::fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC)?,
        _ => return Err(none()),
    }
    // SAFETY: it is open, and by the reasoning above no other object owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The user this process acts as.
pub fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::IntoRawFd;

    #[test]
    fn an_inherited_descriptor_is_taken_once_and_not_passed_on() {
        let (read, write) = std::io::pipe().expect("a pipe");
        drop(write);
        let number = OwnedFd::from(read).into_raw_fd();
        assert!(take(number).is_err(), "this process opened it");
        // SAFETY: open, and owned by nobody since `into_raw_fd`.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        rustix::io::fcntl_setfd(borrowed, FdFlags::empty()).expect("as after exec");
        let taken = take(number).expect("inherited");
        assert!(rustix::io::fcntl_getfd(&taken).expect("flags").contains(FdFlags::CLOEXEC));
        assert!(take(number).is_err(), "taken before");
        assert_eq!(std::fs::File::from(taken).read(&mut [0]).expect("it is the pipe"), 0);
    }

    #[test]
    fn numbers_that_are_not_open_or_standard_are_refused() {
        for number in [-1, 0, 1, 2, 1_000_000] {
            assert!(take(number).is_err(), "{number}");
        }
    }
}

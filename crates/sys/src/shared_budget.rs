//! One budget that several processes draw on, in a shared page.
//!
//! Each process adds up what it holds in a slot of its own; what counts against the limit is the sum over all slots.
//! A slot can therefore be cleared when its process has died, and nothing it held stays charged. A process that wants
//! more says so first ([`SharedBudget::hold`] with the sum it would have) and looks at the others then
//! ([`SharedBudget::elsewhere`]): at the limit two processes may both be refused, but never do both get in.
//!
//! A process that waits for room sleeps on a generation number that every release advances ([`SharedBudget::wait`]).
//! Whoever has the descriptor can write nonsense into it; that makes numbers wrong, and nothing else.
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::SealFlags;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::thread::futex;

use crate::memfd::Memfd;

/// Slots of one budget, and with it the processes that can share it.
pub const SLOTS: usize = 512;

/// What lies in the shared memory. All of it is valid when zero, and for any value that another process writes.
#[repr(C)]
struct Page {
    slots: [AtomicU64; SLOTS],
    /// Advanced by every release.
    generation: AtomicU32,
    /// Processes that sleep; without one a release makes no system call. One that died asleep only costs those calls.
    waiters: AtomicU32,
}

/// A handle on the shared numbers. The processes of one local platform inherit its descriptor.
#[derive(Debug)]
pub struct SharedBudget {
    page: NonNull<Page>,
    fd: OwnedFd,
}

// SAFETY: the page is only ever accessed as shared atomics, from any thread or process; the mapping belongs to the
// handle and not to the thread that made it.
unsafe impl Send for SharedBudget {}
// SAFETY: as above.
unsafe impl Sync for SharedBudget {}

impl SharedBudget {
    /// A new budget with nothing held.
    ///
    /// # Errors
    /// When descriptors or memory are short.
    pub fn create() -> io::Result<Self> {
        let memfd = Memfd::create("zipline-budget")?;
        memfd.set_size(size_of::<Page>() as u64)?;
        rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::from_fd(memfd.as_fd().try_clone_to_owned()?)
    }

    /// The budget behind an inherited descriptor.
    ///
    /// # Errors
    /// `InvalidInput` when it is not one made by [`SharedBudget::create`].
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|_| io::ErrorKind::InvalidInput)?;
        let bytes = rustix::fs::fstat(&fd)?.st_size.cast_unsigned();
        if !seals.contains(SealFlags::SHRINK) || bytes != size_of::<Page>() as u64 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the address, so that no existing memory is touched. No safe way to share exists.
        let address = unsafe { rustix::mm::mmap(ptr::null_mut(), size_of::<Page>(), protection, MapFlags::SHARED, &fd, 0)? };
        let page = NonNull::new(address.cast::<Page>()).ok_or(Errno::NOMEM)?;
        Ok(Self { page, fd })
    }

    /// Says that the process of `slot` holds `bytes`, or is about to.
    ///
    /// # Panics
    /// When `slot` is not below [`SLOTS`]: whoever has a handle was given its slot with it.
    pub fn hold(&self, slot: usize, bytes: u64) {
        if self.page().slots[slot].swap(bytes, Ordering::SeqCst) > bytes {
            self.advance();
        }
    }

    /// What all others hold.
    pub fn elsewhere(&self, slot: usize) -> u64 {
        let others = self.page().slots.iter().enumerate().filter(|(other, _)| *other != slot);
        others.fold(0, |sum, (_, held)| sum.saturating_add(held.load(Ordering::SeqCst)))
    }

    /// The sum over all slots.
    pub fn total(&self) -> u64 {
        self.page().slots.iter().fold(0, |sum, slot| sum.saturating_add(slot.load(Ordering::SeqCst)))
    }

    /// Forgets what a process held that has died, and wakes those who wait for room.
    ///
    /// # Panics
    /// As [`SharedBudget::hold`].
    pub fn clear_slot(&self, slot: usize) {
        self.hold(slot, 0);
    }

    /// Number of releases so far, modulo 2³². Taken before an attempt, it makes [`SharedBudget::wait`] miss none.
    pub fn generation(&self) -> u32 {
        self.page().generation.load(Ordering::SeqCst)
    }

    /// Sleeps until something was released after `generation`, or `limit` has passed. Blocks the thread.
    pub fn wait(&self, generation: u32, limit: Duration) {
        let page = self.page();
        page.waiters.fetch_add(1, Ordering::SeqCst);
        let limit = futex::Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
        // Not PRIVATE: the page is shared. Every outcome (woken, already advanced, late, interrupted) means: look again.
        let woken = futex::wait(&page.generation, futex::Flags::empty(), generation, Some(&limit));
        debug_assert!(!matches!(woken, Err(Errno::FAULT | Errno::INVAL)), "{woken:?}");
        page.waiters.fetch_sub(1, Ordering::SeqCst);
    }

    fn advance(&self) {
        let page = self.page();
        page.generation.fetch_add(1, Ordering::SeqCst);
        if page.waiters.load(Ordering::SeqCst) > 0 {
            let woken = futex::wake(&page.generation, futex::Flags::empty(), i32::MAX.cast_unsigned());
            debug_assert!(woken.is_ok(), "{woken:?}");
        }
    }

    fn page(&self) -> &Page {
        // SAFETY: the address is a live shared mapping, page-aligned, of `size_of::<Page>()` bytes of a file sealed
        // against shrinking; it is unmapped only in `drop`. Every bit pattern is a valid `Page`, and all of its fields
        // are atomics, so that writes of other processes are no data race.
        unsafe { self.page.as_ref() }
    }
}

impl AsFd for SharedBudget {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SharedBudget {
    fn drop(&mut self) {
        // SAFETY: the handle's own mapping; no borrow of it outlives the handle.
        let unmapped = unsafe { rustix::mm::munmap(self.page.as_ptr().cast(), size_of::<Page>()) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can be unmapped: {unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_handle_sees_what_the_others_hold() {
        let budget = SharedBudget::create().expect("created");
        let other = SharedBudget::from_fd(budget.as_fd().try_clone_to_owned().expect("cloned")).expect("the same");
        budget.hold(0, 60);
        other.hold(1, 40);
        assert_eq!((budget.elsewhere(0), other.elsewhere(1), budget.total()), (40, 60, 100));
        other.clear_slot(0);
        assert_eq!((budget.elsewhere(1), budget.total()), (0, 40));
    }

    #[test]
    fn of_two_that_want_the_last_room_at_once_never_both_get_it() {
        let budget = SharedBudget::create().expect("created");
        for _ in 0..2000 {
            let got = std::thread::scope(|scope| {
                let budget = &budget;
                let wants = [0, 1].map(|slot| {
                    scope.spawn(move || {
                        budget.hold(slot, 60);
                        budget.elsewhere(slot) + 60 <= 100
                    })
                });
                wants.into_iter().map(|want| want.join().expect("no panic")).filter(|got| *got).count()
            });
            assert!(got <= 1);
            budget.clear_slot(0);
            budget.clear_slot(1);
        }
    }

    #[test]
    fn a_waiter_is_woken_by_a_release_and_does_not_miss_one_before_it_sleeps() {
        let budget = SharedBudget::create().expect("created");
        budget.hold(0, 10);
        let before = budget.generation();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| budget.wait(before, Duration::from_secs(60)));
            while budget.page().waiters.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            budget.hold(0, 9);
            waiter.join().expect("woken");
        });
        budget.wait(before, Duration::from_secs(60)); // Returns at once: the generation is another.
        budget.wait(budget.generation(), Duration::from_millis(1)); // Returns late: nothing is released.
    }

    #[test]
    fn a_descriptor_that_is_no_budget_is_refused() {
        let (read, _write) = std::io::pipe().expect("pipe");
        assert!(SharedBudget::from_fd(read.into()).is_err());
        let memfd = Memfd::create("test").expect("created");
        memfd.set_size(size_of::<Page>() as u64).expect("sized");
        assert!(SharedBudget::from_fd(memfd.as_fd().try_clone_to_owned().expect("cloned")).is_err(), "it could be shrunk");
    }
}

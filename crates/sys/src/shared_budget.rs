//! One budget that several processes draw on, in a shared page.
//!
//! Each process adds up what it holds in a slot of its own; what counts against the limit is the sum over all slots.
//! A slot can therefore be cleared when its process has died, and nothing it held stays charged. Adding reserves first
//! and looks then: at the limit two processes may both be refused, but never do both get in.
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

/// What was not granted, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// What all slots together hold without the refused amount.
    pub total: u64,
}

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

    /// Adds `amount` to `slot` if the sum over all slots then is at most `limit`; returns that sum.
    ///
    /// # Errors
    /// [`Full`], with nothing added.
    ///
    /// # Panics
    /// When `slot` is not below [`SLOTS`]: whoever has a handle was given its slot with it.
    pub fn try_add(&self, slot: usize, amount: u64, limit: u64) -> Result<u64, Full> {
        let own = &self.page().slots[slot];
        own.fetch_add(amount, Ordering::SeqCst);
        let total = self.total();
        if total <= limit {
            return Ok(total);
        }
        own.fetch_sub(amount, Ordering::SeqCst);
        Err(Full { total: total.saturating_sub(amount) })
    }

    /// Takes `amount` off `slot` and wakes the processes that wait for room.
    ///
    /// # Panics
    /// As [`SharedBudget::try_add`].
    pub fn sub(&self, slot: usize, amount: u64) {
        self.page().slots[slot].fetch_sub(amount, Ordering::SeqCst);
        self.advance();
    }

    /// The sum over all slots.
    pub fn total(&self) -> u64 {
        self.page().slots.iter().fold(0, |sum, slot| sum.saturating_add(slot.load(Ordering::SeqCst)))
    }

    /// Forgets what a process held that has died.
    ///
    /// # Panics
    /// As [`SharedBudget::try_add`].
    pub fn clear_slot(&self, slot: usize) {
        self.page().slots[slot].store(0, Ordering::SeqCst);
        self.advance();
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
    fn the_limit_holds_over_all_slots_and_all_handles() {
        let budget = SharedBudget::create().expect("created");
        let other = SharedBudget::from_fd(budget.as_fd().try_clone_to_owned().expect("cloned")).expect("the same");
        assert_eq!(budget.try_add(0, 60, 100), Ok(60));
        assert_eq!(other.try_add(1, 40, 100), Ok(100));
        assert_eq!(other.try_add(1, 1, 100), Err(Full { total: 100 }));
        budget.sub(0, 10);
        assert_eq!((other.total(), budget.total()), (90, 90));
        other.clear_slot(0);
        assert_eq!(budget.total(), 40);
    }

    #[test]
    fn concurrent_additions_never_pass_the_limit() {
        let budget = SharedBudget::create().expect("created");
        let granted = std::thread::scope(|scope| {
            let budget = &budget;
            let threads: Vec<_> = (0..4)
                .map(|slot| scope.spawn(move || (0..1000).filter(|_| budget.try_add(slot, 1, 500).is_ok()).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<usize>()
        });
        assert_eq!(budget.total(), granted as u64);
        assert!(granted <= 500);
    }

    #[test]
    fn a_waiter_is_woken_by_a_release_and_does_not_miss_one_before_it_sleeps() {
        let budget = SharedBudget::create().expect("created");
        assert_eq!(budget.try_add(0, 10, 10), Ok(10));
        let before = budget.generation();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| budget.wait(before, Duration::from_secs(60)));
            while budget.page().waiters.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            budget.sub(0, 10);
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

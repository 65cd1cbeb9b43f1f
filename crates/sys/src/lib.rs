//! The kernel interfaces Zipline uses.

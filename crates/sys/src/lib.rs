//! The kernel interfaces Zipline uses, one file each. The only crate with `unsafe`; it holds no policy.

pub mod child;
pub mod congestion;
pub mod directory_watch;
pub mod fd_passing;
pub mod inherited;
pub mod mapping;
pub mod memfd;
pub mod memory_limit;
pub mod peer;
pub mod sendfile;
pub mod shared_budget;
pub mod unlinked_file;

pub use directory_watch::DirectoryWatch;
pub use mapping::{AnonymousBuffer, Mapping, WritableMapping};
pub use memfd::{Memfd, NotAdmitted, SealedMemfd};
pub use rustix::process::Signal;
pub use shared_budget::SharedBudget;
pub use unlinked_file::UnlinkedFile;

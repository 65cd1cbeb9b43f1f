//! The memory of payloads: sealed and mapped to be read, or being written.
//!
//! On Linux it is a memfd, which passes to the queue-proxy as a descriptor. Elsewhere it is the heap, and payloads go
//! over HTTP.

#[cfg(target_os = "linux")]
pub(crate) use linux::{Memory, Scratch, Unsealed, copy};
#[cfg(not(target_os = "linux"))]
pub(crate) use portable::{Memory, Scratch, Unsealed, copy};

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::ops::{Deref, DerefMut};
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    use zipline_sys::{Mapping, Memfd, SealedMemfd, WritableMapping};

    use crate::error::Error;
    use crate::payload::Payload;

    /// Shows up in `/proc` as `memfd:zipline`.
    const NAME: &str = "zipline";

    /// Sealed memory and its mapping.
    #[derive(Debug)]
    pub(crate) struct Memory {
        sealed: SealedMemfd,
        mapping: Mapping,
    }

    impl Memory {
        /// Maps a descriptor that the queue-proxy passed. It is examined like anybody's: the safety of the mapping is its seals.
        pub(crate) fn map(descriptor: OwnedFd) -> Result<Self, Error> {
            let sealed = SealedMemfd::admit(descriptor, u64::MAX).map_err(|reason| Error::protocol("get", reason))?;
            Self::of(sealed)
        }

        fn of(sealed: SealedMemfd) -> Result<Self, Error> {
            let mapping = Mapping::of(&sealed).map_err(Error::system("mapping a payload"))?;
            Ok(Self { sealed, mapping })
        }

        pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
            self.sealed.as_fd()
        }
    }

    impl Deref for Memory {
        type Target = [u8];

        fn deref(&self) -> &[u8] {
            &self.mapping
        }
    }

    /// Bytes in sealed memory of their own.
    pub(crate) fn copy(bytes: &[u8]) -> Result<Memory, Error> {
        let memfd = Memfd::create(NAME).map_err(Error::system("making a memfd"))?;
        memfd.write_all_at(bytes, 0).map_err(Error::system("writing a payload"))?;
        Memory::of(memfd.seal().map_err(Error::system("sealing a payload"))?)
    }

    /// Memory that grows as it is written.
    #[derive(Debug)]
    pub(crate) struct Unsealed {
        memfd: Memfd,
        end: u64,
    }

    impl Unsealed {
        pub(crate) fn new() -> Result<Self, Error> {
            Ok(Self { memfd: Memfd::create(NAME).map_err(Error::system("making a memfd"))?, end: 0 })
        }

        pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.memfd.write_all_at(bytes, self.end)?;
            self.end += bytes.len() as u64;
            Ok(bytes.len())
        }

        pub(crate) fn seal(self) -> Result<Payload, Error> {
            let sealed = self.memfd.seal().map_err(Error::system("sealing a payload"))?;
            Memory::of(sealed).map(Payload::mapped)
        }
    }

    /// Memory of a fixed size, mapped to be written in place.
    #[derive(Debug)]
    pub(crate) struct Scratch(WritableMapping);

    impl Scratch {
        pub(crate) fn new(bytes: usize) -> Result<Self, Error> {
            let mapping = WritableMapping::create(NAME, bytes as u64).map_err(Error::system("making a memfd"))?;
            mapping.populate().map_err(Error::system("taking a payload's memory"))?;
            Ok(Self(mapping))
        }

        pub(crate) fn seal(self) -> Result<Payload, Error> {
            let bytes = self.0.len() as u64;
            let sealed = self.0.seal(bytes).map_err(Error::system("sealing a payload"))?;
            Memory::of(sealed).map(Payload::mapped)
        }
    }

    impl Deref for Scratch {
        type Target = [u8];

        fn deref(&self) -> &[u8] {
            &self.0
        }
    }

    impl DerefMut for Scratch {
        fn deref_mut(&mut self) -> &mut [u8] {
            &mut self.0
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod portable {
    use std::io;
    use std::ops::{Deref, DerefMut};

    use crate::error::Error;
    use crate::payload::Payload;

    /// There is none here.
    #[derive(Debug)]
    pub(crate) enum Memory {}

    impl Deref for Memory {
        type Target = [u8];

        fn deref(&self) -> &[u8] {
            match *self {}
        }
    }

    pub(crate) fn copy(_: &[u8]) -> Result<Memory, Error> {
        Err(Error::MethodNotBuilt { method: "descriptors" })
    }

    #[derive(Debug)]
    pub(crate) struct Unsealed(Vec<u8>);

    impl Unsealed {
        pub(crate) fn new() -> Result<Self, Error> {
            Ok(Self(Vec::new()))
        }

        pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        pub(crate) fn seal(self) -> Result<Payload, Error> {
            Ok(Payload::from(self.0))
        }
    }

    #[derive(Debug)]
    pub(crate) struct Scratch(Vec<u8>);

    impl Scratch {
        pub(crate) fn new(bytes: usize) -> Result<Self, Error> {
            Ok(Self(vec![0; bytes]))
        }

        pub(crate) fn seal(self) -> Result<Payload, Error> {
            Ok(Payload::from(self.0))
        }
    }

    impl Deref for Scratch {
        type Target = [u8];

        fn deref(&self) -> &[u8] {
            &self.0
        }
    }

    impl DerefMut for Scratch {
        fn deref_mut(&mut self) -> &mut [u8] {
            &mut self.0
        }
    }
}

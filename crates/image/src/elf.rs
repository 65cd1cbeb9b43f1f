//! Whether a program needs anything beside itself.

/// Bytes of the header of a 64-bit ELF file.
const HEADER_BYTES: usize = 64;
/// Type of the program header that names a loader.
const PT_INTERP: u32 = 3;
/// Type of the program header that points to what is linked at run time.
const PT_DYNAMIC: u32 = 2;
/// Tag of a needed shared library.
const DT_NEEDED: u64 = 1;

/// Why a program cannot run in an image from scratch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStatic {
    /// It is no little-endian 64-bit ELF program.
    #[error("not a 64-bit Linux program")]
    NotElf,
    /// It names a loader.
    #[error(
        "the program asks for a loader (PT_INTERP), which an image from scratch has not; link it with `-C target-feature=+crt-static`"
    )]
    Loader,
    /// It names shared libraries.
    #[error(
        "the program needs shared libraries (DT_NEEDED), which an image from scratch has not; link it with `-C target-feature=+crt-static`"
    )]
    Libraries,
}

/// Proof that a program is linked statically.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Static {
    /// Machine number of its header: 62 is x86-64, 183 is 64-bit ARM.
    pub machine: u16,
}

impl Static {
    /// Looks into a program. A static position-independent one has a dynamic section, but nothing is needed in it.
    ///
    /// # Errors
    /// What it needs.
    pub fn check(program: &[u8]) -> Result<Self, NotStatic> {
        if program.len() < HEADER_BYTES || !program.starts_with(b"\x7fELF\x02\x01") {
            return Err(NotStatic::NotElf);
        }
        let table = number(program, 32, 8).ok_or(NotStatic::NotElf)?;
        let (size, count) = (number(program, 54, 2).ok_or(NotStatic::NotElf)?, number(program, 56, 2).ok_or(NotStatic::NotElf)?);
        for index in 0..count {
            let at = usize::try_from(table + index * size).map_err(|_| NotStatic::NotElf)?;
            match u32::try_from(number(program, at, 4).ok_or(NotStatic::NotElf)?) {
                Ok(PT_INTERP) => return Err(NotStatic::Loader),
                Ok(PT_DYNAMIC) if needs_libraries(program, at).ok_or(NotStatic::NotElf)? => return Err(NotStatic::Libraries),
                _ => {}
            }
        }
        Ok(Self { machine: u16::try_from(number(program, 18, 2).ok_or(NotStatic::NotElf)?).map_err(|_| NotStatic::NotElf)? })
    }
}

/// Whether the dynamic section that the program header at `at` points to names a library; None: it lies outside of the file.
fn needs_libraries(program: &[u8], at: usize) -> Option<bool> {
    let begin = usize::try_from(number(program, at + 8, 8)?).ok()?;
    let bytes = usize::try_from(number(program, at + 32, 8)?).ok()?;
    let section = program.get(begin..begin.checked_add(bytes)?)?;
    Some(section.chunks_exact(16).any(|entry| number(entry, 0, 8) == Some(DT_NEEDED)))
}

/// A little-endian number of `bytes` bytes.
fn number(data: &[u8], at: usize, bytes: usize) -> Option<u64> {
    let field = data.get(at..at.checked_add(bytes)?)?;
    Some(field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

//! How much of a memory limit payloads may take.
//!
//! Pages are charged to whoever touches them first, so objects count against this process.

/// What the process takes for itself: at rest a quarter of it, and the rest while payloads pass through it.
const PROCESS_BYTES: u64 = 32 * 1024 * 1024;

/// The budget that a limit leaves. As much may be held as may be received at the same time, beside the process itself, to which at
/// most half of a small limit is left: a proxy that keeps to its budget is not killed for it.
pub(crate) fn budget(limit: u64) -> u64 {
    (limit - PROCESS_BYTES.min(limit / 2)) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_and_what_is_received_fit_beside_the_process() {
        const MIB: u64 = 1024 * 1024;
        for (limit, expected) in [(800 * MIB, 384 * MIB), (64 * MIB, 16 * MIB), (32 * MIB, 8 * MIB), (3, 1), (0, 0)] {
            assert_eq!(budget(limit), expected, "{limit}");
        }
    }
}

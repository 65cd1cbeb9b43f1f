//! Times as the local API writes and reads them: RFC 3339 in UTC with milliseconds, `2026-03-01T12:00:00.250Z`.
//!
//! The civil calendar is computed from days since 1970 by the era method (400 years are 146,097 days), so no table
//! and no time zone database is needed. Read are `Z` and numeric offsets, with any number of fraction digits.

use zipline_core::time::WallTime;

const DAY_MS: u64 = 86_400_000;
/// Past the year 9999 a time no longer fits the notation; it is written as the last one that does.
const LAST_MS: u64 = 253_402_300_799_999;

/// Writes a time.
pub(crate) fn format(time: WallTime) -> String {
    let ms = time.unix_millis().min(LAST_MS);
    let (year, month, day) = civil(ms / DAY_MS);
    let (of_day, millis) = ((ms % DAY_MS) / 1000, ms % 1000);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Reads a time between the years 1970 and 9999; `None` for anything else.
pub(crate) fn parse(text: &str) -> Option<WallTime> {
    let bytes = text.as_bytes();
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if bytes.len() < 20 || separators.iter().any(|(at, byte)| bytes[*at] != *byte) || !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let (year, month, day) = (digits(&bytes[..4])?, digits(&bytes[5..7])?, digits(&bytes[8..10])?);
    let (hour, minute, second) = (digits(&bytes[11..13])?, digits(&bytes[14..16])?, digits(&bytes[17..19])?);
    if year < 1970
        || !(1..=12).contains(&month)
        || day < 1
        || day > days_in(year, month)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let (millis, rest) = fraction(&bytes[19..])?;
    let offset_ms = offset_ms(rest)?;
    let local = days(year, month, day) * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1000 + millis;
    let utc = i64::try_from(local).ok()?.checked_sub(offset_ms)?;
    u64::try_from(utc).ok().map(WallTime::from_unix_millis)
}

fn digits(bytes: &[u8]) -> Option<u64> {
    bytes.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))
}

/// Milliseconds of `.ddd…`, and what follows.
fn fraction(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let Some(rest) = bytes.strip_prefix(b".") else { return Some((0, bytes)) };
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 {
        return None;
    }
    let millis = (0..3).fold(0, |millis, at| millis * 10 + if at < count { u64::from(rest[at] - b'0') } else { 0 });
    Some((millis, &rest[count..]))
}

fn offset_ms(bytes: &[u8]) -> Option<i64> {
    match bytes {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), hours @ .., _, _, _] if hours.len() == 2 && bytes[3] == b':' => {
            let (hours, minutes) = (digits(hours)?, digits(&bytes[4..])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let ms = i64::try_from((hours * 60 + minutes) * 60_000).ok()?;
            Some(if *sign == b'-' { -ms } else { ms })
        }
        _ => None,
    }
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a civil date, years counted from March so that the leap day comes last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The civil date that many days after 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times_are_written_as_everyone_writes_them() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_210_096_789, "2024-02-29T12:34:56.789Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (LAST_MS, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(format(WallTime::from_unix_millis(ms)), text);
            assert_eq!(parse(text), Some(WallTime::from_unix_millis(ms)));
        }
        assert_eq!(format(WallTime::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn offsets_and_fractions_of_any_length_are_read() {
        let noon = Some(WallTime::from_unix_millis(1_709_208_000_500));
        for text in ["2024-02-29T12:00:00.5Z", "2024-02-29T14:30:00.500999+02:30", "2024-02-29t07:00:00.50-05:00"] {
            assert_eq!(parse(text), noon, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2024-02-30T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+2:00",
            "1969-12-31T23:59:59Z",
            "2024-01-01T00:00:00Zé",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ms in 0..=LAST_MS) {
            let time = WallTime::from_unix_millis(ms);
            prop_assert_eq!(parse(&format(time)), Some(time));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }
    }
}

//! Points in time as text: RFC 3339 for JSON and the fixed date of RFC 9110 for headers. Proleptic Gregorian, UTC.
//!
//! Written here because file times reach before 1970 and after 9999, where the usual formatters panic.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

const SECONDS_PER_DAY: i64 = 86_400;

/// `2026-03-04T05:06:07.089Z`, with milliseconds; years outside 0..=9999 carry a sign, as ISO 8601 has it.
pub fn rfc3339(time: SystemTime) -> String {
    Rfc3339(time).with(str::to_owned)
}

/// A time that is written as [`rfc3339`] has it.
#[derive(Debug, Clone, Copy)]
pub struct Rfc3339(pub SystemTime);

impl Rfc3339 {
    /// Does something with the text. The usual years need no allocation: a listing has hundreds of thousands of them.
    fn with<T>(self, use_it: impl FnOnce(&str) -> T) -> T {
        let (seconds, nanoseconds) = since_epoch(self.0);
        let Date {
            year,
            month,
            day,
            hour,
            minute,
            second,
            ..
        } = Date::of(seconds);
        let milliseconds = i64::from(nanoseconds / 1_000_000);
        if !(0..=9999).contains(&year) {
            return use_it(&format!(
                "{year:+07}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z"
            ));
        }
        let mut text = *b"0000-00-00T00:00:00.000Z";
        for (at, digits, number) in [
            (0, 4, year),
            (5, 2, month),
            (8, 2, day),
            (11, 2, hour),
            (14, 2, minute),
            (17, 2, second),
            (20, 3, milliseconds),
        ] {
            let mut rest = number;
            for digit in text[at..at + digits].iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        use_it(str::from_utf8(&text).unwrap_or_default())
    }
}

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with(|text| serializer.serialize_str(text))
    }
}

/// `Wed, 04 Mar 2026 05:06:07 GMT`; `None` where the header's four digits cannot hold the year.
pub fn http_date(time: SystemTime) -> Option<String> {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let Date {
        year,
        month,
        day,
        hour,
        minute,
        second,
        days,
    } = Date::of(since_epoch(time).0);
    if !(0..=9999).contains(&year) {
        return None;
    }
    let weekday = DAYS[days.rem_euclid(7) as usize];
    let month = MONTHS[month as usize - 1];
    Some(format!(
        "{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT"
    ))
}

/// Seconds (rounded down) and nanoseconds since the epoch.
fn since_epoch(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (
            i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            after.subsec_nanos(),
        ),
        Err(before) => {
            let before = before.duration();
            let seconds = -i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => (seconds, 0),
                nanoseconds => (seconds - 1, 1_000_000_000 - nanoseconds),
            }
        }
    }
}

struct Date {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    /// Days since the epoch, a Thursday.
    days: i64,
}

impl Date {
    /// The civil date of a number of seconds since the epoch: eras of 400 years that begin on 1 March.
    fn of(seconds: i64) -> Self {
        let days = seconds.div_euclid(SECONDS_PER_DAY);
        let rest = seconds.rem_euclid(SECONDS_PER_DAY);
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self {
            year,
            month,
            day,
            hour: rest / 3_600,
            minute: rest / 60 % 60,
            second: rest % 60,
            days,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_the_standard() {
        let time = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(http_date(time).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(rfc3339(time), "1994-11-06T08:49:37.000Z");
    }

    #[test]
    fn times_outside_the_usual_range_do_not_panic() {
        let before = UNIX_EPOCH - Duration::from_millis(500);
        assert_eq!(rfc3339(before), "1969-12-31T23:59:59.500Z");
        let far = UNIX_EPOCH + Duration::from_secs(400_000_000_000);
        assert!(rfc3339(far).starts_with("+014645-"), "{}", rfc3339(far));
        assert_eq!(http_date(far), None);
    }

    proptest! {
        #[test]
        fn agrees_with_an_independent_formatter(milliseconds in 0_u64..253_402_300_799_999) {
            let time = UNIX_EPOCH + Duration::from_millis(milliseconds);
            prop_assert_eq!(rfc3339(time), humantime::format_rfc3339_millis(time).to_string());
        }
    }
}

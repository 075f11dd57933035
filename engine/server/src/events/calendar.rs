//! The time of day, and the borders of the buckets of a series, in UTC.

use engine_analytics::{DAY_MS, HOUR_MS, MINUTE_MS};
use engine_core::clock;
use tidegate_proto::analytics::v1::TimeGranularity;

/// Now, in milliseconds of the Unix epoch.
pub(super) fn now_ms() -> i64 {
    i64::try_from(clock::wall_ms()).unwrap_or(i64::MAX)
}

/// The bucket that a time is in: its first millisecond, and the next one's. Weeks begin on Monday (ISO 8601).
pub(super) fn bucket(at_ms: i64, granularity: TimeGranularity) -> (i64, i64) {
    let fixed = |width: i64, offset: i64| {
        let start = (at_ms - offset).div_euclid(width) * width + offset;
        (start, start + width)
    };
    match granularity {
        TimeGranularity::Minute => fixed(MINUTE_MS, 0),
        TimeGranularity::Unspecified | TimeGranularity::Hour => fixed(HOUR_MS, 0),
        TimeGranularity::Day => fixed(DAY_MS, 0),
        // 1970-01-05 was a Monday.
        TimeGranularity::Week => fixed(7 * DAY_MS, 4 * DAY_MS),
        TimeGranularity::Month => {
            let (year, month) = month_of(at_ms.div_euclid(DAY_MS));
            let next = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
            (first_day(year, month) * DAY_MS, first_day(next.0, next.1) * DAY_MS)
        }
    }
}

/// Days from the epoch to the first of a month; `days_from_civil` of
/// <https://howardhinnant.github.io/date_algorithms.html>.
fn first_day(year: i64, month: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year and month of a day since the epoch; `civil_from_days` of the same page.
fn month_of(day: i64) -> (i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = ((5 * day_of_year + 2) / 153 + 2) % 12 + 1;
    (era * 400 + year_of_era + i64::from(month <= 2), month)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds of midnight, from `date -u -d … +%s`.
    const fn day(seconds: i64) -> i64 {
        seconds * 1000
    }

    #[test]
    fn months_follow_the_calendar() {
        let (january, february, march) = (day(1_704_067_200), day(1_706_745_600), day(1_709_251_200));
        let month = |at| bucket(at, TimeGranularity::Month);
        // 2024 was a leap year.
        assert_eq!(month(january), (january, february));
        assert_eq!(month(february - 1), (january, february));
        assert_eq!(month(february), (february, march));
        assert_eq!(month(day(1_709_164_800)), (february, march));
        // December 1999.
        assert_eq!(month(day(946_684_799)), (day(944_006_400), day(946_684_800)));
    }

    #[test]
    fn weeks_begin_on_monday() {
        // 2026-11-21 was a Saturday, 2026-11-16 the Monday before.
        let week = bucket(day(1_795_219_200), TimeGranularity::Week);
        assert_eq!(week, (day(1_794_787_200), day(1_794_787_200) + 7 * DAY_MS));
    }

    #[test]
    fn the_hour_is_what_is_meant_when_nothing_is_said() {
        assert_eq!(bucket(HOUR_MS + 5, TimeGranularity::Unspecified), (HOUR_MS, 2 * HOUR_MS));
    }
}

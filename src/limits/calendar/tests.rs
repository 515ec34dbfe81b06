use proptest::prelude::*;

use super::*;

fn calendar(zone: &str, billing_day: i8) -> Calendar {
    Calendar::new(TimeZone::get(zone).unwrap(), billing_day)
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// What a person would draw up by hand: the moment, then the period's first day, its beginning and end.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn the_calendar_table() {
    let days = [
        // Summer time begins on 8 March 2026 and ends on 1 November in New York.
        (
            "America/New_York",
            "2026-03-08T12:00:00Z",
            "2026-03-08",
            "2026-03-08T05:00:00Z",
            "2026-03-09T04:00:00Z",
        ),
        (
            "America/New_York",
            "2026-11-01T12:00:00Z",
            "2026-11-01",
            "2026-11-01T04:00:00Z",
            "2026-11-02T05:00:00Z",
        ),
        (
            "America/New_York",
            "2026-03-08T04:59:59Z",
            "2026-03-07",
            "2026-03-07T05:00:00Z",
            "2026-03-08T05:00:00Z",
        ),
        // Half past six in the evening in London is midnight in Kolkata.
        (
            "Asia/Kolkata",
            "2026-11-23T18:29:59Z",
            "2026-11-23",
            "2026-11-22T18:30:00Z",
            "2026-11-23T18:30:00Z",
        ),
        (
            "Asia/Kolkata",
            "2026-11-23T18:30:00Z",
            "2026-11-24",
            "2026-11-23T18:30:00Z",
            "2026-11-24T18:30:00Z",
        ),
        // Lebanon's summer time begins at midnight: that day begins at one o'clock.
        (
            "Asia/Beirut",
            "2026-03-29T12:00:00Z",
            "2026-03-29",
            "2026-03-28T22:00:00Z",
            "2026-03-29T21:00:00Z",
        ),
        (
            "UTC",
            "2026-12-31T23:59:59Z",
            "2026-12-31",
            "2026-12-31T00:00:00Z",
            "2027-01-01T00:00:00Z",
        ),
    ];
    for (zone, now, first, start, end) in days {
        let expected = (first.parse().unwrap(), at(start), at(end));
        let day = calendar(zone, 1).day(at(now));
        assert_eq!((day.first, day.start, day.end), expected, "{zone} {now}");
    }
    let months = [
        // The 31st is the last day of shorter months, and the 31st again after them.
        (
            "UTC",
            31,
            "2026-01-31T00:00:00Z",
            "2026-01-31",
            "2026-01-31T00:00:00Z",
            "2026-02-28T00:00:00Z",
        ),
        (
            "UTC",
            31,
            "2026-02-27T23:59:59Z",
            "2026-01-31",
            "2026-01-31T00:00:00Z",
            "2026-02-28T00:00:00Z",
        ),
        (
            "UTC",
            31,
            "2026-02-28T00:00:00Z",
            "2026-02-28",
            "2026-02-28T00:00:00Z",
            "2026-03-31T00:00:00Z",
        ),
        (
            "UTC",
            31,
            "2026-03-31T00:00:00Z",
            "2026-03-31",
            "2026-03-31T00:00:00Z",
            "2026-04-30T00:00:00Z",
        ),
        (
            "UTC",
            31,
            "2026-01-01T00:00:00Z",
            "2025-12-31",
            "2025-12-31T00:00:00Z",
            "2026-01-31T00:00:00Z",
        ),
        // 2028 is a leap year.
        (
            "UTC",
            29,
            "2028-02-29T12:00:00Z",
            "2028-02-29",
            "2028-02-29T00:00:00Z",
            "2028-03-29T00:00:00Z",
        ),
        (
            "UTC",
            29,
            "2027-02-28T12:00:00Z",
            "2027-02-28",
            "2027-02-28T00:00:00Z",
            "2027-03-29T00:00:00Z",
        ),
        (
            "UTC",
            31,
            "2028-02-29T12:00:00Z",
            "2028-02-29",
            "2028-02-29T00:00:00Z",
            "2028-03-31T00:00:00Z",
        ),
        (
            "UTC",
            1,
            "2026-11-23T12:00:00Z",
            "2026-11-01",
            "2026-11-01T00:00:00Z",
            "2026-12-01T00:00:00Z",
        ),
        // From winter to summer time.
        (
            "America/New_York",
            15,
            "2026-03-10T00:00:00Z",
            "2026-02-15",
            "2026-02-15T05:00:00Z",
            "2026-03-15T04:00:00Z",
        ),
        (
            "Asia/Kolkata",
            1,
            "2026-11-30T18:30:00Z",
            "2026-12-01",
            "2026-11-30T18:30:00Z",
            "2026-12-31T18:30:00Z",
        ),
    ];
    for (zone, billing_day, now, first, start, end) in months {
        let expected = (first.parse().unwrap(), at(start), at(end));
        let month = calendar(zone, billing_day).month(at(now));
        assert_eq!(
            (month.first, month.start, month.end),
            expected,
            "{zone} {billing_day} {now}"
        );
    }
}

#[test]
fn a_month_is_named_by_the_one_that_it_begins_in() {
    let february: Month = "2026-02".parse().unwrap();
    let month = calendar("UTC", 31).month_of(february);
    assert_eq!(month.start, at("2026-02-28T00:00:00Z"));
    assert_eq!(month.end, at("2026-03-31T00:00:00Z"));
}

#[test]
fn a_month_is_a_year_and_a_month() {
    let month = |text: &str| text.parse::<Month>();
    for text in [
        "",
        "2026",
        "2026-13",
        "2026-00",
        "2026-1",
        "+026-01",
        "2026-11-01",
        "0000-x1",
    ] {
        assert_eq!(month(text), Err(NoMonth), "{text}");
    }
    let november = month("2026-11").unwrap();
    assert_eq!(
        (november.to_string().as_str(), november.days()),
        ("2026-11", 30)
    );
    assert_eq!(month("2027-01").unwrap().since(november), 2);
    assert_eq!(Month::of(at("2026-11-30T23:59:59Z")), november);
}

proptest! {
    #[test]
    fn each_moment_lies_in_one_period_and_the_next_begins_where_it_ends(
        second in 1_700_000_000_i64..2_000_000_000, billing_day in 1_i8..=31,
        zone in prop::sample::select(vec![
            "UTC", "America/New_York", "Asia/Kolkata", "Asia/Beirut", "Pacific/Apia", "Australia/Lord_Howe",
        ]),
    ) {
        let (calendar, now) = (calendar(zone, billing_day), Timestamp::from_second(second).unwrap());
        let (day, month) = (calendar.day(now), calendar.month(now));
        for (period, next) in [(day, calendar.day(day.end)), (month, calendar.month(month.end))] {
            prop_assert!(period.contains(now));
            prop_assert_eq!(period.end, next.start);
            prop_assert!(next.end > next.start);
        }
        prop_assert!(month.start <= day.start && day.end <= month.end);
        let of: Month = month.first.strftime("%Y-%m").to_string().parse().unwrap();
        prop_assert_eq!(calendar.month_of(of), month);
    }
}

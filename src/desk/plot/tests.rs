//! What plots say, and that they can be drawn of anything.

use chrono::TimeDelta;

use super::*;

fn now() -> DateTime<Utc> {
    "2026-11-28T17:27:05Z".parse().unwrap()
}

fn day(away: i64, jobs: i64, held: i64) -> Day {
    Day { day: now().date_naive() + TimeDelta::days(away), classes: vec![("mps/queue".to_owned(), jobs)], held }
}

#[test]
fn ticks_are_round_begin_at_zero_and_reach_the_largest_value() {
    assert_eq!(ticks(0), [0, 1]);
    assert_eq!(ticks(1), [0, 1]);
    assert_eq!(ticks(3), [0, 1, 2, 3]);
    assert_eq!(ticks(4), [0, 1, 2, 3, 4]);
    assert_eq!(ticks(5), [0, 2, 4, 6]);
    assert_eq!(ticks(100), [0, 50, 100]);
    for most in [7, 19, 20, 21, 999, 123_456, i64::MAX / 100] {
        let ticks = ticks(most);
        let (last, before) = (ticks[ticks.len() - 1], ticks[ticks.len() - 2]);
        assert!(last >= most && before < most && ticks.len() <= 5, "{most}: {ticks:?}");
    }
}

#[test]
fn numbers_are_short_and_lengths_are_in_their_largest_unit() {
    assert_eq!(
        ["999", "1 k", "1.5 k", "12 k", "1 M", "2.3 G"].map(str::to_owned),
        [999, 1_000, 1_500, 12_040, 1_000_000, 2_345_000_000].map(short)
    );
    assert_eq!(["1 s", "90 s", "15 min", "24 h", "7 d"].map(str::to_owned), [1.0, 90.0, 900.0, 86_400.0, 604_800.0].map(seconds));
}

#[test]
fn an_empty_horizon_is_words_and_one_job_is_a_bar() {
    let mut data = Horizon { overdue: 0, days: (0..35).map(|n| day(n, 0, 0)).collect(), later: 0, next: Some(now() + TimeDelta::days(40)) };
    let words = horizon("h", &data, now()).into_string();
    assert!(words.contains("Nothing is overdue. The next purge is due in 40 d.") && !words.contains("<svg"), "{words}");
    data.days[3] = day(3, 1, 0);
    let drawn = horizon("h", &data, now()).into_string();
    assert_eq!(drawn.matches("class=\"bar\"").count(), 4, "one in each drawing");
    assert!(!drawn.contains("rect class=\"overdue\""));
    data.overdue = 2;
    let late = horizon("h", &data, now()).into_string();
    assert!(late.contains("2 purges are overdue.") && late.matches("rect class=\"overdue\" x=").count() == 4, "{late}");
}

#[test]
fn what_is_held_is_hatched_and_not_counted_as_coming() {
    let data = Horizon { overdue: 0, days: vec![day(0, 0, 5)], later: 0, next: None };
    let drawn = horizon("h", &data, now()).into_string();
    assert!(drawn.contains("Nothing else is scheduled. 5 more are held."), "{drawn}");
    assert!(drawn.contains("fill=\"url(#h-wide-held)\"") && drawn.contains("id=\"h-wide-held\""));
}

#[test]
fn a_day_without_a_class_that_others_have_is_drawn() {
    let other = Day { classes: vec![("a/b".to_owned(), 3)], ..day(1, 0, 0) };
    let drawn = horizon("h", &Horizon { overdue: 0, days: vec![day(0, 2, 0), other], later: 0, next: None }, now()).into_string();
    assert!(drawn.contains("a/b 3") && drawn.contains("mps/queue 2"), "{drawn}");
}

#[test]
fn half_and_nearly_all_are_told_by_the_bounds_they_are_within() {
    let buckets = [(1.0, 50), (60.0, 49), (86_400.0, 1), (f64::INFINITY, 0)].map(|(up_to, jobs)| Bucket { up_to, jobs }).to_vec();
    let data = Lateness { buckets, allowances: vec![86_400.0], period: "the last 30 days".to_owned() };
    let drawn = lateness("l", &data).into_string();
    assert!(drawn.contains("100 purges were completed in the last 30 days: half took up to 1 s, 99 in 100 up to 60 s."), "{drawn}");
    assert!(drawn.contains("allowed 24 h"));
    let none = Lateness { buckets: Vec::new(), ..data };
    assert!(lateness("l", &none).into_string().contains("No purge was completed in the last 30 days."));
}

#[test]
fn a_limit_is_exceeded_when_it_is_passed_and_not_when_it_is_reached() {
    let data = |value| Meter { name: "guard.max_accounts".to_owned(), value, limit: 10, unit: "accounts".to_owned() };
    assert!(meter("m", &data(10)).into_string().contains("10 of 10 accounts; within the limit"));
    assert!(meter("m", &data(11)).into_string().contains("the limit would be exceeded"));
    assert!(meter("m", &Meter { limit: 0, ..data(0) }).into_string().contains("within the limit"));
}

#[test]
fn a_job_whose_dates_fall_together_can_be_drawn() {
    let data = Lifeline { started_at: now(), retain_until: now(), delete_by: now(), holds: Vec::new(), marks: Vec::new(), open: true };
    let drawn = lifeline("l", &data, now()).into_string();
    assert!(drawn.contains("<svg") && !drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
    let early = lifeline("l", &Lifeline { retain_until: now() + TimeDelta::days(3), delete_by: now() + TimeDelta::days(4), ..data }, now());
    assert!(early.into_string().contains("Due in 3 d; late in 4 d."));
}

#[test]
fn a_hold_without_an_end_reaches_the_edge_and_no_hold_is_words() {
    let none = Spans { what: "holds".to_owned(), one: "hold".to_owned(), rows: Vec::new() };
    assert!(spans("s", &none, now()).into_string().contains("There are no holds."));
    let row = |n: i64, to| Span { label: format!("{n} · acme"), from: now() - TimeDelta::days(n), to };
    let many = Spans { rows: (1..=30).map(|n| row(n, (n % 2 == 0).then(now))).collect(), ..none };
    let drawn = spans("s", &many, now()).into_string();
    assert!(drawn.contains("30 holds, 15 without an end. The first 20 are drawn."), "{drawn}");
}

#[test]
fn no_plot_has_a_style_or_a_colour_of_its_own() {
    let data = Daily { days: vec![(now().date_naive(), 7), (now().date_naive(), 0)] };
    let drawn = daily("d", &data).into_string();
    for own in ["style=", "#fff", "rgb(", "stroke=\"", "<script"] {
        assert!(!drawn.contains(own), "{own}");
    }
    assert!(drawn.contains("role=\"img\"") && drawn.contains("aria-labelledby=\"d-wide-t d-wide-d\"") && drawn.contains("<table"));
}

//! Every page drawn from made-up data: what holds of all of them, whatever the data are.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{NaiveDate, TimeDelta};
use sqlx::types::Json;

use super::*;
use crate::{
    acts::Entry,
    desk::plot::{Bucket, Daily, Day, Horizon, Lateness, Meter, Span},
    jobs::{Job, Tally},
    outlook::{
        ClassExplanation, Explanation, Planned, PlannedTarget, PolicyState, Quarantined,
        report::{ClassFigures, Deletions, Exception, Figures, Interval, TargetFigures},
    },
    requests::{Request, Tally as Asked},
    safeguards::{
        GuardState,
        control::{Hold, PastHold, Pause},
    },
};

/// An account id and a name that try to be more than text.
const EVIL: &str = "<script>alert(1)</script>\"'&\u{202e}acme/../%00";

fn at(hours: i64) -> DateTime<Utc> {
    "2026-11-28T17:27:05Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::hours(hours)
}

fn page(role: Role) -> Page {
    Page {
        now: at(0),
        who: Some(Who { name: "Ada Byron".to_owned(), role, session: true }),
        alerts: Vec::new(),
        said: None,
        key: "k3y".to_owned(),
        version: "0.1.0".to_owned(),
    }
}

fn job(n: i64, account: &str) -> Job {
    let (state, held, overdue) = match n % 5 {
        0 => ("scheduled", false, n == 5),
        1 => ("running", false, false),
        2 => ("completed", false, false),
        3 => ("cancelled", false, false),
        _ => ("scheduled", true, false),
    };
    let over = |of: &str| (state == of).then(|| at(-n));
    Job {
        id: (100 + n).to_string(),
        account_id: account.to_owned(),
        feature: "mps".to_owned(),
        data_class: if n % 3 == 0 { "config" } else { "queue" }.to_owned(),
        state: state.to_owned(),
        starting_point: "account_terminated".to_owned(),
        started_at: at(-24 * 30 - n),
        retain_until: at(if n % 5 == 0 && n != 5 { 24 * n } else { -n - 20 }),
        delete_by: at(if n % 5 == 0 && n != 5 { 24 * n + 24 } else { 4 - n }),
        purge_began_at: (n % 5 != 0).then(|| at(-n)),
        attempts: 2,
        last_error: (n == 5).then(|| EVIL.to_owned()),
        held,
        overdue,
        records_deleted: Json(BTreeMap::from([("main/templates".to_owned(), 12_345), (format!("notifications/{EVIL}"), 0)])),
        outcomes: Json(BTreeMap::from([("main/templates".to_owned(), "deleted".to_owned())])),
        count_exact: n % 2 == 0,
        policy: "5f0c2a9d83b1e6f7a4c8d2e1b0f93a7c6d5e4f3a2b1c0d9e".to_owned(),
        blocked_by: (n == 5).then(|| "locked".to_owned()),
        created_at: at(-24 * 30 - n + 1),
        completed_at: over("completed"),
        last_copy_gone_at: over("completed").map(|at| at + TimeDelta::days(14)),
        cancelled_at: over("cancelled"),
        cancel_reason: over("cancelled").map(|_| "reactivated".to_owned()),
    }
}

fn hold(n: i64, account: &str) -> Hold {
    Hold {
        id: n.to_string(),
        account_id: account.to_owned(),
        feature: (n % 2 == 0).then(|| "mps".to_owned()),
        data_class: (n % 3 == 0).then(|| "queue".to_owned()),
        reason: format!("Litigation {EVIL}, file 2026/{n}"),
        placed_by: "Ada Byron".to_owned(),
        placed_at: at(-n * 200),
        until: (n % 2 == 0).then(|| at(n * 100)),
    }
}

fn request(n: i64, account: &str) -> Request {
    let state = ["waiting", "accepted", "fulfilled", "withdrawn"][usize::try_from(n % 4).unwrap()];
    let accepted = state == "accepted" || state == "fulfilled";
    Request {
        id: n.to_string(),
        account_id: account.to_owned(),
        feature: None,
        data_class: None,
        reason: "The customer asked for it (art. 17)".to_owned(),
        state: state.to_owned(),
        overdue: n == 1,
        requested_by: if n % 2 == 0 { "Grace" } else { "Ada Byron" }.to_owned(),
        requested_at: at(-n * 10),
        accepted_at: accepted.then(|| at(-n)),
        accepted_by: accepted.then(|| "Ada Byron".to_owned()),
        due_by: accepted.then(|| at(24 * n)),
        fulfilled_at: (state == "fulfilled").then(|| at(-1)),
        withdrawn_at: (state == "withdrawn").then(|| at(-1)),
        withdrawn_by: (state == "withdrawn").then(|| "Grace".to_owned()),
        withdraw_reason: (state == "withdrawn").then(|| EVIL.to_owned()),
        jobs: vec!["101".to_owned(), "102".to_owned()],
    }
}

fn guard_state(tripped: bool) -> GuardState {
    GuardState {
        tripped,
        reason: tripped.then(|| "1200 accounts would be purged within 1day; guard.max_accounts is 1000".to_owned()),
        tripped_at: tripped.then(|| at(-3)),
        forecast: Some("412 of 3900 known accounts would be purged within 1day; guard.max_share is 10%".to_owned()),
        forecast_at: Some(at(30)),
    }
}

fn meter() -> Meter {
    Meter { name: "guard.max_accounts".to_owned(), value: 412, limit: 1_000, unit: "accounts in 1 day".to_owned() }
}

fn status(some: bool, worst: bool) -> Status {
    Status {
        mode: if worst { Mode::Observe } else { Mode::Enforce },
        paused: worst,
        guard: guard_state(worst),
        policy: PolicyState { hash: "ab".repeat(16), accepted: Some("cd".repeat(16)), waiting: worst },
        jobs: if some {
            Tally { scheduled: 1_234, running: 2, completed: 98_765, cancelled: 12, due: 40, overdue: i64::from(worst) * 3, held: 7 }
        } else {
            Tally::default()
        },
        requests: Asked { waiting: i64::from(some), accepted: 2 * i64::from(some), overdue: i64::from(worst) },
        last_poll_at: some.then(|| at(0) - TimeDelta::seconds(12)),
        last_resync_at: some.then(|| at(-1)),
        earliest_unmet_deadline: some.then(|| at(20)),
        quarantined: (0..i64::from(worst))
            .map(|_| Quarantined {
                account_id: EVIL.to_owned(),
                feature: "mps".to_owned(),
                data_class: "queue".to_owned(),
                starting_point: "cmq_disabled".to_owned(),
                problem: "1970-01-01 is no plausible instant".to_owned(),
                first_seen_at: at(-50),
            })
            .collect(),
    }
}

fn overview_data(some: bool, worst: bool) -> overview::Overview {
    let day = |away: i64| NaiveDate::from_ymd_opt(2026, 11, 28).unwrap() + TimeDelta::days(away);
    let jobs = |n: i64| if some { (n * 37 + 11) % 23 * i64::from(n % 4 != 3) } else { 0 };
    let days = (0..35).map(|n| Day {
        day: day(n),
        classes: vec![("mps/config".to_owned(), jobs(n)), ("mps/queue".to_owned(), jobs(n + 5) / 2)],
        held: if n % 6 == 2 { jobs(n) / 3 } else { 0 },
    });
    let counts = [310, 460, 120, 60, 25, 12, 5, 4, 2, 1, i64::from(worst) * 2, 0, 0];
    let bounds = crate::jobs::LATENESS.iter().map(|b| f64::from(i32::try_from(*b).unwrap())).chain([f64::INFINITY]);
    overview::Overview {
        status: status(some, worst),
        holds: if some { 4 } else { 0 },
        drawn: Some(overview::Drawn {
            completed: if some { 1_000 } else { 0 },
            on_time: if some { 999 } else { 0 },
            horizon: Horizon { overdue: i64::from(worst) * 3, days: days.collect(), later: 0, next: some.then(|| at(5)) },
            lateness: Lateness {
                buckets: bounds.zip(counts).map(|(up_to, jobs)| Bucket { up_to, jobs: if some { jobs } else { 0 } }).collect(),
                allowances: vec![86_400.0],
                period: "the last 30 days".to_owned(),
            },
            daily: Daily { days: (-29..=0).map(|n| (day(n), if some { jobs(n.abs()) * 4_321 } else { 0 })).collect() },
        }),
        warnings: if worst {
            vec![overview::Warning {
                what: "3 purges are overdue".to_owned(),
                remedy: "The oldest is blocked by a lock on its source row.".to_owned(),
                href: links::with(links::JOBS, &[("overdue", "true")]),
            }]
        } else {
            Vec::new()
        },
    }
}

fn some_accounts(some: bool) -> Vec<String> {
    let ids = ["acme", "globex-corporation", "9f1c2d3e-4b5a-6978-8a9b-0c1d2e3f4a5b", EVIL, "Zoë 张伟"];
    let long = "x".repeat(180);
    let mut ids: Vec<String> = ids.map(str::to_owned).to_vec();
    ids.push(long);
    ids.extend((0..4).map(|n| format!("customer-{n:04}")));
    if some { ids } else { Vec::new() }
}

fn account_data(id: &str, some: bool) -> account::Account {
    let class = |name: &str, n: i64| ClassExplanation {
        feature: "mps".to_owned(),
        data_class: name.to_owned(),
        starting_points: BTreeMap::from([
            ("account_terminated".to_owned(), if some { "in force since 2026-10-29T17:00:00Z" } else { "not in force" }.to_owned()),
            ("cmq_disabled".to_owned(), "no row in the source".to_owned()),
        ]),
        starting_point: some.then(|| "account_terminated".to_owned()),
        started_at: some.then(|| at(-700)),
        retain_until: some.then(|| at(20)),
        delete_by: some.then(|| at(44)),
        blocked_by: if some { vec![format!("hold 3 placed by Ada: {EVIL}")] } else { Vec::new() },
        next: if some { "purged at 2026-11-29T13:27:05Z" } else { "nothing: no starting point stands" }.to_owned(),
        jobs: if some { vec![job(n, id)] } else { Vec::new() },
        records: BTreeMap::from([("main/templates".to_owned(), if some { 3 } else { 0 })]),
    };
    account::Account {
        explanation: Explanation { account_id: id.to_owned(), now: at(0), classes: vec![class("config", 4), class("queue", 10)] },
        holds: if some { vec![hold(3, id)] } else { Vec::new() },
        requests: if some { vec![request(1, id)] } else { Vec::new() },
    }
}

fn figures(some: bool) -> Figures {
    let n = i64::from(some);
    Figures {
        completed: 1_000 * n,
        on_time: 999 * n,
        late: n,
        on_time_share: some.then_some(0.999),
        latest_lateness_seconds: some.then_some(90_061.0),
        records_deleted: 4_567_890 * n,
        count_exact: !some,
        cancelled: 12 * n,
        partial: n,
        open: 1_236 * n,
        ..Figures::none()
    }
}

fn report(some: bool) -> reports::Report {
    let target = |name: &str| TargetFigures { name: name.to_owned(), figures: figures(some) };
    let class = |name: &str| ClassFigures {
        feature: "mps".to_owned(),
        data_class: name.to_owned(),
        figures: figures(some),
        targets: vec![target("main/templates"), target("notifications/mps-{account_id}")],
    };
    let exception = |what: &str, n: i64| Exception {
        job_id: n.to_string(),
        feature: "mps".to_owned(),
        data_class: "queue".to_owned(),
        what: what.to_owned(),
        delete_by: at(-n),
        ended_at: (n > 1).then(|| at(-1)),
        late_seconds: Some(4_000.0),
        records_deleted: 17,
        count_exact: true,
    };
    reports::Report {
        deletions: Deletions {
            interval: Interval { from: at(-720), to: at(0), asked_at: at(0) },
            totals: figures(some),
            classes: vec![class("config"), class("queue")],
        },
        exceptions: if some { vec![exception("late", 3), exception("overdue", 1), exception("partial", 2)] } else { Vec::new() },
    }
}

fn plan_data(some: bool, worst: bool) -> plan::PlanPage {
    let n = i64::from(some);
    let planned = |id: &String| Planned {
        account_id: id.clone(),
        feature: "mps".to_owned(),
        data_class: "queue".to_owned(),
        starting_point: "cmq_disabled".to_owned(),
        started_at: at(-168),
        retain_until: at(2),
        delete_by: at(26),
        due: false,
        held: id.len() == 4,
        targets: vec![PlannedTarget { name: "main/queue".to_owned(), records: Some(7) }],
    };
    plan::PlanPage {
        until: at(24).date_naive(),
        classes: Some(vec![plan::PlanClass { name: "mps/queue".to_owned(), jobs: 409 * n, held: 3 * n }]),
        first: some_accounts(some).iter().map(planned).collect(),
        next: some.then(|| "17.4".to_owned()),
        further: worst,
        meters: vec![Meter { value: if worst { 1_412 } else { 412 * n }, ..meter() }],
        guard: guard_state(worst),
        paused: false,
    }
}

fn system_data(worst: bool) -> system::System {
    let check = |name: &str, ok| system::Check { name: name.to_owned(), ok, detail: "answers in 2 ms".to_owned() };
    let text = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    system::System {
        checks: vec![check("database", true), check("schema", true), check("last look", !worst)],
        versions: vec![text("retentiond", "0.1.0"), text("schema", "16"), text("PostgreSQL", "15.18")],
        policy: PolicyState { hash: "ab".repeat(16), accepted: Some("cd".repeat(16)), waiting: worst },
        changes: if worst { vec!["mps/queue: shorter, 7d after 30d".to_owned()] } else { Vec::new() },
        ledger: system::LedgerState {
            size: 123_456,
            signed: 123_456,
            origin: "retentiond/7312345678901234567/platform".to_owned(),
            broken: worst.then(|| "entry 17 does not give the root that was signed".to_owned()),
        },
        stores: vec![system::Store {
            name: "main".to_owned(),
            kind: "postgres".to_owned(),
            targets: vec!["main/templates".to_owned(), "main/tasks".to_owned()],
            ok: Some(!worst),
            detail: String::new(),
        }],
        configuration: vec![
            text("mode", "enforce"),
            text("database.url", "postgres://retentiond@db/platform"),
            text("poll.interval", "1min"),
        ],
    }
}

fn refused(status: u16, detail: &str) -> refusal::Refusal {
    refusal::Refusal { status, title: "This is not for whoever asks".to_owned(), detail: detail.to_owned() }
}

fn holds_data(some: bool, worst: bool) -> holds::Holds {
    let ids = some_accounts(some);
    let numbered = || (1_i64..).zip(&ids);
    let strings = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<String>>();
    let (features, classes) = (strings(&["mps"]), strings(&["config", "queue"]));
    holds::Holds {
        account: if worst { EVIL } else { "" }.to_owned(),
        in_force: numbered().map(|(n, id)| hold(n, id)).collect(),
        more: false,
        past: numbered()
            .map(|(n, id)| PastHold {
                hold: hold(n + 50, id),
                released_at: (n % 2 == 0).then(|| at(-n)),
                released_by: (n % 2 == 0).then(|| "Grace".to_owned()),
                release_reason: (n % 2 == 0).then(|| "settled".to_owned()),
            })
            .collect(),
        older: some.then(|| "17".to_owned()),
        features,
        classes,
        two_people: worst,
    }
}

fn guard_data(some: bool, worst: bool) -> guard::GuardPage {
    let ids = some_accounts(some);
    let numbered = || (1_i64..).zip(&ids);
    let strings = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<String>>();
    let classes = strings(&["config", "queue"]);
    guard::GuardPage {
        guard: guard_state(worst),
        due: Some(1_200),
        limits: vec![("guard.window".to_owned(), "1day".to_owned()), ("guard.max_accounts".to_owned(), "1000".to_owned())],
        meters: vec![Meter { value: if worst { 1_200 } else { 12 }, ..meter() }],
        two_people: worst,
        pauses: numbered()
            .take(2)
            .map(|(n, id)| Pause {
                id: n.to_string(),
                account_id: (n == 2).then(|| id.clone()),
                data_class: None,
                reason: "maintenance".to_owned(),
                paused_by: "Ada".to_owned(),
                paused_at: at(-n),
            })
            .collect(),
        classes,
    }
}

/// Every page, by the name of the file that it would be: with nothing, with something, at its worst; for those who may only look and for those who may do all.
fn pages() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (case, some, worst, role) in
        [("zero", false, false, Role::Viewer), ("some", true, false, Role::Viewer), ("worst", true, true, Role::Officer)]
    {
        let mut page = page(role);
        page.alerts = alerts(&status(some, worst));
        page.said = worst.then(|| Said::Refused("the reason is empty; say why, in a few words".to_owned()));
        let ids = some_accounts(some);
        let numbered = || (1_i64..).zip(&ids);
        let strings = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<String>>();
        let (features, classes) = (strings(&["mps"]), strings(&["config", "queue"]));
        let asked = jobs::Asked { state: if worst { "scheduled" } else { "" }.to_owned(), ..jobs::Asked::default() };
        let job_page = job::JobPage {
            job: job(if worst { 5 } else { 2 }, EVIL),
            levels: BTreeMap::from([("replicated".to_owned(), "2026-11-28T16:00:00Z".to_owned())]),
            holds: vec![Span { label: "hold 3".to_owned(), from: at(-400), to: Some(at(-200)) }],
            entries: vec![job::Entry { index: Some(4_711), at: at(-700), event: "job.scheduled".to_owned(), detail: String::new() }],
            certificate: some,
        };
        let requests_page = requests::Requests {
            account: String::new(),
            requests: numbered().map(|(n, id)| request(n, id)).collect(),
            older: None,
            features,
            classes: classes.clone(),
            two_people: true,
            within: "1day".to_owned(),
        };
        let entry = |(n, id): (i64, &String)| Entry {
            id: n.to_string(),
            done_at: at(-n),
            act: ["hold place", "pause", "jobs retry"][usize::try_from(n % 3).unwrap()].to_owned(),
            surface: "page".to_owned(),
            actor: if n == 4 { EVIL } else { "Ada Byron" }.to_owned(),
            reason: "Litigation".to_owned(),
            outcome: if n % 4 == 0 { "waits" } else { "done" }.to_owned(),
            subject: (n % 3 != 1).then(|| n.to_string()),
            account_id: (n % 3 == 0).then(|| id.clone()),
            feature: None,
            data_class: None,
        };
        let activity_page = activity::Activity {
            actor: String::new(),
            act: String::new(),
            kinds: strings(&["hold place", "pause"]),
            acts: numbered().map(entry).collect(),
            older: None,
            passes: vec![("poll".to_owned(), at(0)), ("resync".to_owned(), at(-1))],
        };
        let tally = status(some, worst).jobs;
        let list = jobs::Jobs {
            asked,
            tally,
            classes,
            jobs: numbered().map(|(n, id)| job(n, id)).collect(),
            further: worst,
            next: some.then(|| "90".to_owned()),
        };
        let mut add = |name: &str, markup: Markup| all.push((format!("{case}-{name}"), markup.into_string()));
        add("overview", overview::overview(&page, &overview_data(some, worst)));
        add("jobs", jobs::jobs(&page, &list));
        add("job", job::job(&page, &job_page));
        add("ask", account::explain(&page, None));
        add("explain", account::explain(&page, Some(&account_data(EVIL, some))));
        add("plan", plan::plan(&page, &plan_data(some, worst)));
        add("holds", holds::holds(&page, &holds_data(some, worst)));
        add("guard", guard::guard(&page, &guard_data(some, worst)));
        add("requests", requests::requests(&page, &requests_page));
        add("activity", activity::activity(&page, &activity_page));
        let period = reports::Period { from: at(-720).date_naive(), to: at(0).date_naive() };
        add("reports", reports::reports(&page, period, Some(&report(some))));
        add("reports-asked", reports::reports(&page, period, None));
        add("system", system::system(&page, &system_data(worst)));
        add("away", refusal::refusal(&page, &refused(503, "")));
        add("forbidden", refusal::refusal(&page, &refused(403, EVIL)));
        page.who = None;
        add("sign-in", sign_in::sign_in(&page, "/jobs?state=open", worst.then_some("That token is not known.")));
    }
    all
}

/// The values of an attribute, wherever it is.
fn values(html: &str, attribute: &str) -> Vec<String> {
    let begin = format!(" {attribute}=\"");
    html.match_indices(&begin).map(|(at, _)| html[at + begin.len()..].split('"').next().unwrap().to_owned()).collect()
}

#[test]
fn no_page_has_a_style_or_a_script_of_its_own_and_none_asks_another_host() {
    for (name, html) in pages() {
        assert!(!html.contains(" style=") && !html.contains("<style"), "{name}");
        assert_eq!(html.matches("<script").count(), 1, "{name}");
        assert!(!html.contains(" onclick=") && !html.contains("javascript:"), "{name}");
        for link in [values(&html, "href"), values(&html, "src"), values(&html, "action")].concat() {
            assert!(
                link.is_empty() || (link.starts_with('/') && !link.starts_with("//")) || link.starts_with('#') || link == assets::ICON,
                "{name}: {link}"
            );
        }
    }
}

#[test]
fn text_from_outside_is_text_and_reads_in_its_own_direction() {
    for (name, html) in pages() {
        assert!(!html.contains("<script>"), "{name}");
        // What goes back to the server has to be what came from it.
        let parts: Vec<&str> = html.split(" value=\"").map(|part| part.split_once('"').map_or(part, |(_, rest)| rest)).collect();
        let first = html.split(" value=\"").next().unwrap();
        assert!(
            !first.contains('\u{202e}') && !parts[1..].concat().contains('\u{202e}'),
            "{name}: a character that turns the text around it"
        );
    }
    let explained = account::explain(&page(Role::Officer), Some(&account_data(EVIL, true))).into_string();
    assert!(explained.contains("account=%3Cscript%3Ealert%281%29%3C%2Fscript%3E%22%27%26%E2%80%AEacme%2F..%2F%2500"));
}

#[test]
fn every_field_has_a_label_every_id_is_there_once_and_headings_leave_no_level_out() {
    for (name, html) in pages() {
        let ids = values(&html, "id");
        let distinct: BTreeSet<&String> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len(), "{name}: {ids:?}");
        for named in values(&html, "aria-labelledby").iter().chain(&values(&html, "aria-describedby")).flat_map(|ids| ids.split(' ')) {
            assert!(ids.iter().any(|id| id == named), "{name}: nothing has the id {named}");
        }
        let labels = values(&html, "for");
        for field in html.match_indices("<input").chain(html.match_indices("<select")).map(|(at, _)| html[at..].split('>').next().unwrap())
        {
            let id = values(field, "id");
            assert!(field.contains("type=\"hidden\"") || labels.contains(&id[0]), "{name}: {field}");
        }
        assert_eq!(html.matches("<h1").count(), 1, "{name}");
        let mut last = 1;
        for (at, _) in html.match_indices("<h") {
            let Some(level) = html[at + 2..].chars().next().and_then(|c| c.to_digit(10)) else { continue };
            assert!(level <= last + 1, "{name}: h{level} after h{last}");
            last = level;
        }
    }
}

#[test]
fn who_may_only_look_sees_no_form_that_changes_anything() {
    for (name, html) in pages() {
        let acts: Vec<String> =
            values(&html, "action").into_iter().filter(|to| html.contains(&format!("method=\"post\" action=\"{to}\""))).collect();
        let signs = acts.iter().all(|to| to == links::SIGN_OUT || to == links::SIGN_IN);
        assert!(signs || name.starts_with("worst-"), "{name}: {acts:?}");
    }
    let officer = pages().into_iter().filter(|(name, html)| name.starts_with("worst-") && html.contains("class=\"act\"")).count();
    assert!(officer >= 6, "{officer}");
}

#[test]
fn an_operator_may_stop_and_not_let_go() {
    let operator = page(Role::Operator);
    assert!(operator.may(Offer::PlaceHold) && operator.may(Offer::Pause) && operator.may(Offer::Resume) && operator.may(Offer::RetryJob));
    for offer in [Offer::ReleaseHold, Offer::ReleaseGuard, Offer::AcceptPolicy, Offer::CloseJob, Offer::PlaceRequest, Offer::DecideRequest]
    {
        assert!(!operator.may(offer) && page(Role::Officer).may(offer) && !page(Role::Viewer).may(offer), "{offer:?}");
    }
}

#[test]
fn every_form_that_acts_has_a_key_of_its_own() {
    for (name, html) in pages() {
        let acts = html.matches("class=\"act\"").count() - usize::from(name.ends_with("sign-in"));
        let keys: BTreeSet<String> = values(&html, "value").into_iter().filter(|value| value.starts_with("k3y-")).collect();
        assert_eq!(keys.len(), acts, "{name}");
    }
}

#[test]
fn nothing_can_be_deleted_before_its_time_from_a_page() {
    for (name, html) in pages() {
        let known = ["/holds", "/pause", "/resume", "/guard/release", "/requests", "/policy/accept", "/sign-in", "/sign-out"];
        for to in values(&html, "action") {
            let one = to.starts_with("/jobs/") && (to.ends_with("/retry") || to.ends_with("/close"));
            let of = (to.starts_with("/holds/") || to.starts_with("/requests/"))
                && ["/release", "/approve", "/withdraw"].iter().any(|act| to.ends_with(act));
            let asks = html.contains(&format!("method=\"get\" action=\"{to}\""));
            assert!(known.contains(&to.as_str()) || one || of || asks, "{name}: {to}");
        }
    }
}

#[test]
fn what_is_empty_is_said_in_words() {
    let zero: BTreeMap<String, String> = pages().into_iter().filter(|(name, _)| name.starts_with("zero-")).collect();
    for (name, words) in [
        ("overview", "Nothing is overdue. Nothing else is scheduled."),
        ("jobs", "There are no jobs."),
        ("explain", "Nothing is known of it"),
        ("plan", "Nothing falls due until then."),
        ("holds", "Nothing is held."),
        ("guard", "Nothing is paused."),
        ("requests", "Nobody has asked for a deletion."),
        ("activity", "Nobody has done anything like that yet."),
        ("reports", "None: no purge was late"),
    ] {
        assert!(zero[&format!("zero-{name}")].contains(words), "{name}");
    }
}

/// Draws every page into a folder, to look at: `RETENTIOND_PAGES=/tmp/pages cargo test --lib desk::pages`.
#[test]
fn pages_can_be_looked_at() {
    let Some((_, folder)) = std::env::vars().find(|(name, _)| name == "RETENTIOND_PAGES") else { return };
    let folder = std::path::Path::new(&folder);
    std::fs::create_dir_all(folder.join("assets")).unwrap();
    for asset in assets::all() {
        std::fs::write(folder.join(&asset.path[1..]), asset.body).unwrap();
    }
    for (name, html) in pages() {
        std::fs::write(folder.join(format!("{name}.html")), html).unwrap();
    }
}

//! Which accounts a look settles. A poll asks one question for each class; a full comparison walks, in slices and without a long snapshot, along
//! everything that stands, everything that is scheduled and everything that is done.
//!
//! Why that misses nobody. Let `e` be the earliest instant that stands for an account, and let the rule want a change there.
//!
//! - Something stands, and its job has another instant. A later one, and there is no mark for `e` or before: found from `e`, which neither answers
//!   ([`answered`]). An earlier one: nothing stands since then, so it is found from the job. The same instant, under a rule
//!   that was replaced or for a point that does not stand: from the job. (Of two points that stand since one instant, either may give it its name.)
//! - Something stands, and there is no job. A mark for `e` would have to cover the class without residue; any other for `e` or later is found from `e`,
//!   a covering one for an earlier instant from the mark, whose instant does not stand.
//! - Nothing stands. Then there is a job or a mark, and its own point does not stand since its instant: found from it.
//!
//! A request that stands is found from its part, unless a job on request is open; a job on request that stands for none, from the job. A job on request is for
//! an instant like any other: a point that stands since before that is not answered by it, and is settled; what stands since later waits behind it,
//! and is found once the job is over: by the next poll, from the part that was fulfilled.
//!
//! Where the row of a job's or mark's own point is missing, the rule takes what it remembers to stand, and so does this; a mark that so remembers an
//! instant before the job's is found as a mark. Nominating too many is
//! harmless, for settling decides; but an account with several points is answered by the job for the earliest of them, and is left alone.

use std::collections::BTreeMap;

use crate::{
    jobs,
    model::REQUEST,
    policy::Class,
    requests,
    source::Point,
    sql::{literal, literals},
};

use super::PAGE;

/// One walk of a look.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    /// The rows it goes along, beyond the position `$1`, `$2`, and their order.
    rows: String,
    order: &'static str,
    /// The position of a row, as two expressions.
    at: [&'static str; 2],
    /// The accounts of the page `p` that are to be settled.
    nominated: String,
    /// Where it begins.
    pub(super) from: [Option<String>; 2],
    /// No index serves it: it is one slice.
    pub(super) whole: bool,
}

impl Walk {
    /// A slice: how many rows it had, the position of its last, and the accounts it nominates.
    pub(super) fn slice(&self, limit: i64) -> String {
        let Self { rows, order, at: [first, second], nominated, whole, .. } = self;
        let limit = if *whole { "all".to_owned() } else { limit.to_string() };
        let last = order.replace(", ", " desc, ");
        format!(
            "with page as materialized ({rows} order by {order} limit {limit})
             select (select count(*) from page), l.first, l.second, array({nominated})
             from (values (1)) one left join (select ({first})::text as first, ({second})::text as second from page order by {last} desc limit 1) l on true"
        )
    }
}

/// The walks of a full comparison.
pub(super) fn everything(class: &Class) -> Vec<Walk> {
    let (jobs, policy) = (&class.jobs, literal(&class.jobs.policy));
    let points = class.source.points();
    let mut walks: Vec<Walk> = points.iter().map(|point| standing(class, point, None, &answered(jobs))).collect();
    walks.extend(points.iter().map(|point| vanished(class, point)));
    walks.push(unfulfilled(class));
    let (open, mark, covered) = (jobs.open("j"), jobs.of("d"), jobs.covered("p"));
    walks.push(Walk {
        // In the order of accounts, as the source's own index most likely is: neighbours there are neighbours here.
        rows: format!(
            "select j.account_id, j.feature, j.data_class, j.starting_point, j.started_at, j.policy from retention.jobs j
             where {open} and j.account_id >= $1 and j.account_id is distinct from $2"
        ),
        order: "account_id",
        at: ["account_id", "account_id"],
        nominated: format!(
            "{} union all select p.account_id from page p where p.policy <> {policy} or p.starting_point = {} and not {}",
            moved(class),
            literal(REQUEST),
            requests::stands("p")
        ),
        from: [Some(String::new()), None],
        whole: !class.source.indexed(),
    });
    walks.push(marks(
        class,
        &mark,
        format!(
            // At most one job is open. A mark may remember, of a row that is missing, an earlier instant than the job's.
            "{} union all select p.account_id from page p
             where coalesce((select j.started_at > p.started_at from retention.jobs j where j.account_id = p.account_id and {open}),
                            p.residue or not {covered})",
            moved(class)
        ),
    ));
    walks
}

/// The walks of a poll that found more than one page.
pub(super) fn all_recent(class: &Class, since: &str) -> Vec<Walk> {
    let (jobs, all) = (&class.jobs, "select p.account_id from page p");
    let points = class.source.points();
    let mut walks: Vec<Walk> = points.iter().map(|point| standing(class, point, Some(since), &unknown(&jobs.feature, &[jobs]))).collect();
    walks.push(Walk {
        rows: format!("select j.id, j.account_id from retention.jobs j where {} and j.id > $1::int8", changed(jobs)),
        order: "id",
        at: ["id", "null"],
        nominated: all.to_owned(),
        from: [Some("0".to_owned()), None],
        whole: false,
    });
    walks.push(Walk {
        rows: format!("select j.id, j.account_id from retention.jobs j where {} and j.id > $1::int8", void(jobs)),
        order: "id",
        at: ["id", "null"],
        nominated: all.to_owned(),
        from: [Some("0".to_owned()), None],
        whole: false,
    });
    walks.push(unfulfilled(class));
    walks.push(Walk {
        rows: format!(
            "select q.request_id as id, q.account_id from retention.request_parts q
             where {} and q.fulfilled_at > {}::timestamptz and q.request_id > $1::int8",
            of_us(jobs, "q"),
            literal(since)
        ),
        order: "id",
        at: ["id", "null"],
        nominated: all.to_owned(),
        from: [Some("0".to_owned()), None],
        whole: false,
    });
    walks.push(marks(class, &format!("{} and d.residue", of_us(jobs, "d")), all.to_owned()));
    walks
}

/// What a poll settles for classes of one feature, as `(account_id, names of classes)`: accounts with a starting point dated since `$1`, with the classes that
/// begin there and are not answered by a job or a done-mark; jobs that a batch found changed, what the verifier found, and requests: those that no job answers,
/// those that were withdrawn, and those that were fulfilled lately, for a point may stand behind them. No more than tell whether
/// there is more than one page.
pub(super) fn recent(classes: &[Class]) -> String {
    let points: BTreeMap<usize, &Point> =
        classes.iter().flat_map(|class| class.source.points()).map(|point| (point.index, point)).collect();
    let mut parts = Vec::new();
    for (index, point) in points {
        let begin_here = classes.iter().filter(|class| class.source.points().iter().any(|p| p.index == index));
        let jobs: Vec<&jobs::Class> = begin_here.map(|class| &class.jobs).collect();
        let feature = jobs.first().map_or("", |class| &class.feature);
        let (standing, unknown, unanswered) = (point.standing_since(feature), unknown(feature, &jobs), unanswered(feature, &jobs));
        parts.push(format!("select p.account_id, {unanswered} from ({standing}) p where {unknown}"));
    }
    for jobs in classes.iter().map(|class| &class.jobs) {
        let this = literals(std::slice::from_ref(&jobs.name));
        parts.push(format!("select j.account_id, {this} from retention.jobs j where {}", changed(jobs)));
        parts.push(format!("select j.account_id, {this} from retention.jobs j where {}", void(jobs)));
        parts.push(format!("select p.account_id, {this} from {} p where {}", requests::parts(), unscheduled(jobs)));
        parts
            .push(format!("select q.account_id, {this} from retention.request_parts q where {} and q.fulfilled_at > $1", of_us(jobs, "q")));
        parts.push(format!("select d.account_id, {this} from retention.done_marks d where {} and d.residue", of_us(jobs, "d")));
    }
    format!("{} limit {}", parts.join("\nunion\n"), PAGE + 1)
}

/// A batch found that the starting point of the job `j` is not what it was.
fn changed(jobs: &jobs::Class) -> String {
    format!("{} and j.blocked_by in ('changed', 'missing')", jobs.open("j"))
}

/// The rows of the class under `alias`, as far as they are this daemon's business.
fn of_us(jobs: &jobs::Class, alias: &str) -> String {
    format!("{} and {}", jobs.of(alias), jobs.is_ours(alias))
}

/// The request that the job `j` is for does not stand any more.
fn void(jobs: &jobs::Class) -> String {
    format!("{} and j.starting_point = {} and not {}", jobs.open("j"), literal(REQUEST), requests::stands("j"))
}

/// No job on request is open for the part `p` of a request that stands. A purge for a point that carries it out is settled with each look, and left alone.
fn unscheduled(jobs: &jobs::Class) -> String {
    format!(
        "{} and not exists (select 1 from retention.jobs j where j.account_id = p.account_id and {} and j.starting_point = {} offset 0)",
        of_us(jobs, "p"),
        jobs.open("j"),
        literal(REQUEST)
    )
}

/// Along the parts of requests that stand.
fn unfulfilled(class: &Class) -> Walk {
    Walk {
        rows: format!("select p.id, p.account_id from {} p where {} and p.id > $1::int8", requests::parts(), unscheduled(&class.jobs)),
        order: "id",
        at: ["id", "null"],
        nominated: "select p.account_id from page p".to_owned(),
        from: [Some("0".to_owned()), None],
        whole: false,
    }
}

// `offset 0` keeps a question a question, asked by index for each row. As a join it would be made part of a plan that rests on statistics, and those of the
// job table may be from before a mass termination, or from never.

/// Exactly this instant is neither scheduled nor done for `p` in one of the classes of the feature, as a condition. What was dated lately is new even
/// where an older instant was answered before: that one may have been withdrawn.
fn unknown(feature: &str, classes: &[&jobs::Class]) -> String {
    let (jobs, marks, all) = (answers("jobs", feature, classes), answers("done_marks", feature, classes), classes.len());
    format!("(select count(*) from ({jobs}) a) < {all} and (select count(distinct a.data_class) from ({jobs} union all {marks}) a) < {all}")
}

/// The names of the classes of the feature for which that is so, as an expression.
fn unanswered(feature: &str, classes: &[&jobs::Class]) -> String {
    let (jobs, marks) = (answers("jobs", feature, classes), answers("done_marks", feature, classes));
    format!("array(select unnest({}) except (({jobs}) union all ({marks})))", names(classes))
}

/// The classes for which exactly this instant stands in the table for `p`: found by the account and the feature, one way through the index for all.
fn answers(table: &str, feature: &str, classes: &[&jobs::Class]) -> String {
    format!(
        "select a.data_class from retention.{table} a
         where a.account_id = p.account_id and a.feature = {} and a.started_at = p.since and a.data_class || '' = any({})",
        literal(feature),
        names(classes)
    )
}

fn names(classes: &[&jobs::Class]) -> String {
    literals(&classes.iter().map(|class| class.name.clone()).collect::<Vec<_>>())
}

/// This instant or an earlier one is scheduled or done for `p`, as the negation of a condition. If the earlier one does not stand any more, the walk
/// along jobs or marks says so.
fn answered(jobs: &jobs::Class) -> String {
    format!(
        "not exists (select 1 from retention.jobs j where j.account_id = p.account_id and {} and j.started_at <= p.since offset 0)
         and not exists (select 1 from retention.done_marks d where d.account_id = p.account_id and {} and d.started_at <= p.since and {} and not d.residue offset 0)",
        jobs.open("j"),
        jobs.of("d"),
        jobs.covered("d")
    )
}

/// Along the instants of a starting point, in their order.
fn standing(class: &Class, point: &Point, since: Option<&str>, unanswered: &str) -> Walk {
    let whole = !(point.dated() && class.source.indexed());
    Walk {
        rows: point.by_instant(&class.jobs.feature),
        order: "since, key",
        at: ["since", "key"],
        nominated: format!("select p.account_id from page p where {unanswered} and {}", point.counts(&class.jobs.feature)),
        from: [Some(since.unwrap_or("1999-12-31 23:59:59.999999+00").to_owned()), None],
        whole,
    }
}

/// Along the rows that vanished for good.
fn vanished(class: &Class, point: &Point) -> Walk {
    Walk {
        rows: format!("{} and a.id > $1::int8", point.absent(&class.jobs.feature)),
        order: "id",
        at: ["id", "null"],
        nominated: format!("select p.account_id from page p where {}", answered(&class.jobs)),
        from: [Some("0".to_owned()), None],
        whole: false,
    }
}

/// Along done-marks, in the order of their key. The first position is one that the empty id has not passed.
fn marks(class: &Class, which: &str, nominated: String) -> Walk {
    Walk {
        rows: format!("select d.* from retention.done_marks d where {which} and d.account_id >= $1 and d.account_id is distinct from $2"),
        order: "account_id",
        at: ["account_id", "account_id"],
        nominated,
        from: [Some(String::new()), None],
        whole: !class.source.indexed(),
    }
}

/// The accounts of the page of jobs or marks `p` whose own starting point says something else.
fn moved(class: &Class) -> String {
    let points = class.source.points();
    let names: Vec<String> = points.iter().map(|point| literal(&point.name)).collect();
    let mut parts =
        vec![format!("select p.account_id from page p where p.starting_point not in ({}, {})", literal(REQUEST), names.join(", "))];
    for (point, name) in points.iter().zip(&names) {
        let says = point.says_otherwise(&class.jobs.feature);
        parts.extend(says.iter().map(|says| format!("select p.account_id from page p where p.starting_point = {name} and {says}")));
    }
    parts.join("\n union all ")
}

//! Jobs page by page, for the API and the pages: by key and never by offset, and never more than [`WINDOW`] jobs looked at for one page, however few of
//! them pass the filter. It changes nothing.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, FromRow, PgConnection};

use super::list::{JOB, Job};
use crate::{database::DatabaseError, safeguards::held};

/// So many jobs are looked at for one page at most.
pub const WINDOW: i64 = 20_000;

/// In which order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// The newest first: the highest id.
    #[default]
    Newest,
    /// What is open, by `retain_until`, the earliest first.
    Due,
}

/// What is asked for; an empty query is everything.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// In which order.
    pub order: Order,
    /// Only this state: scheduled, running, completed, cancelled, or open for the first two.
    pub state: Option<String>,
    /// Only this account.
    pub account: Option<String>,
    /// Only this feature.
    pub feature: Option<String>,
    /// Only this data class.
    pub data_class: Option<String>,
    /// Only what is overdue.
    pub overdue: bool,
    /// Only what is held.
    pub held: bool,
    /// Only what may be deleted from this instant on.
    pub due_after: Option<DateTime<Utc>>,
    /// Only what may be deleted before this instant.
    pub due_before: Option<DateTime<Utc>>,
    /// Goes on behind this.
    pub cursor: Option<Cursor>,
    /// So many at most.
    pub limit: i64,
}

/// Where a page ended. As text, it is what the next page is asked for with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    at: Option<DateTime<Utc>>,
    id: i64,
}

impl Cursor {
    /// Reads what [`ToString`] wrote; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'-').then(|| text.parse::<i64>().ok()).flatten();
        match text.split_once('.') {
            None => Some(Self { at: None, id: digits(text)? }),
            Some((at, id)) => Some(Self { at: Some(DateTime::from_timestamp_micros(digits(at)?)?), id: digits(id)? }),
        }
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.at {
            None => write!(f, "{}", self.id),
            Some(at) => write!(f, "{}.{}", at.timestamp_micros(), self.id),
        }
    }
}

/// Jobs, and where to go on.
#[derive(Debug)]
pub struct Page {
    /// Those that pass, in order.
    pub jobs: Vec<Job>,
    /// Where the next page begins; `None` when there is none. There may be one with fewer jobs than asked for, or none at all: then only [`WINDOW`] jobs were looked at.
    pub next: Option<Cursor>,
}

/// The ids on the page, how many jobs were looked at, and the last of them.
#[derive(FromRow)]
struct Found {
    ids: Vec<i64>,
    looked: i64,
    last: Option<i64>,
    last_at: Option<DateTime<Utc>>,
}

/// One page. For a transaction of [`crate::database::Purpose::Slice`], which goes through indexes in their order.
///
/// # Errors
/// Those of the database.
pub async fn page(conn: &mut PgConnection, query: &Query) -> Result<Page, DatabaseError> {
    let found: Found = sqlx::query_as(AssertSqlSafe(statement(query)))
        .bind(query.cursor.map(|c| c.id))
        .bind(query.cursor.and_then(|c| c.at))
        .bind(query.account.as_deref())
        .bind(query.feature.as_deref())
        .bind(query.data_class.as_deref())
        .bind(query.due_after)
        .bind(query.due_before)
        .bind(query.limit + 1)
        .bind(WINDOW)
        .fetch_one(&mut *conn)
        .await?;
    let full = i64::try_from(found.ids.len()).unwrap_or(i64::MAX) > query.limit;
    let mut jobs: Vec<Job> = sqlx::query_as(AssertSqlSafe(format!(
        "select {} from unnest($1::int8[]) with ordinality w(id, place) join retention.every_job j on j.id = w.id order by w.place",
        &*JOB
    )))
    .bind(&found.ids)
    .fetch_all(conn)
    .await?;
    if full {
        jobs.truncate(usize::try_from(query.limit).unwrap_or(usize::MAX));
    }
    let after = |job: &Job| Some(Cursor { at: (query.order == Order::Due).then_some(job.retain_until), id: job.id.parse().ok()? });
    let next = if full {
        jobs.last().and_then(after)
    } else if found.looked >= WINDOW {
        found.last.map(|id| Cursor { at: found.last_at, id })
    } else {
        None
    };
    Ok(Page { jobs, next })
}

fn statement(query: &Query) -> String {
    let held = held("w");
    let open = query.order == Order::Due
        || query.overdue
        || query.held
        || matches!(query.state.as_deref(), Some("scheduled" | "running" | "open"));
    let past = matches!(query.state.as_deref(), Some("completed" | "cancelled"));
    let from = if open {
        "(select j.*, case when j.lease_until > now() then 'running' else 'scheduled' end as state from retention.jobs j)"
    } else if past {
        "retention.history"
    } else {
        "retention.every_job"
    };
    // What an index answers narrows the window; the rest is looked for within it.
    let (key, order, begins) = match query.order {
        Order::Newest => ("null::timestamptz", "x.id desc", "($1::int8 is null or x.id < $1) and $2::timestamptz is null"),
        Order::Due => (
            "x.retain_until",
            "x.retain_until, x.id",
            "($1::int8 is null or (x.retain_until, x.id) > ($2, $1)) and ($6::timestamptz is null or x.retain_until >= $6) and ($7::timestamptz is null or x.retain_until < $7)",
        ),
    };
    let mut window = begins.to_owned();
    if query.account.is_some() {
        window.push_str(" and x.account_id = $3");
    }
    if query.state.as_deref() == Some("cancelled") {
        window.push_str(" and x.state = 'cancelled'");
    }
    let mut passes =
        "($3::text is null or w.account_id = $3) and ($4::text is null or w.feature = $4) and ($5::text is null or w.data_class = $5)
           and ($6::timestamptz is null or w.retain_until >= $6) and ($7::timestamptz is null or w.retain_until < $7)"
            .to_owned();
    if let Some(state @ ("scheduled" | "running" | "completed")) = query.state.as_deref() {
        // One of three words.
        let _ = write!(passes, " and w.state = '{state}'");
    }
    if query.overdue {
        let _ = write!(passes, " and w.delete_by < now() and not {held}");
    }
    if query.held {
        let _ = write!(passes, " and {held}");
    }
    format!(
        "with w as materialized (
             select x.id, x.account_id, x.feature, x.data_class, x.state, x.retain_until, x.delete_by, {key} as key, row_number() over (order by {order}) as place
             from {from} x where {window} order by {order} limit $9)
         select coalesce((select array_agg(f.id order by f.place) from (select w.id, w.place from w where {passes} order by w.place limit $8) f), '{{}}') as ids,
                (select count(*) from w) as looked, z.id as last, z.key as last_at
         from (select 1) one left join (select w.id, w.key from w order by w.place desc limit 1) z on true"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_nothing_else_is_one() {
        for cursor in [Cursor { at: None, id: 7 }, Cursor { at: DateTime::from_timestamp_micros(1_700_000_000_000_001), id: 9 }] {
            assert_eq!(Cursor::parse(&cursor.to_string()), Some(cursor));
        }
        for text in ["", "x", "1.2.3", "1.", ".1", "+1", "99999999999999999999", "9223372036854775807.1", "1;drop"] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }
}

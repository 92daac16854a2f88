//! Judges what was deleted by what the source said in the snapshot of each delete, and what there is at the end.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{platform::CHECKSUMS, world::World};

const JUDGE: &str = include_str!("judge.sql");

/// Each with the invariant that every row of its answer violates. Only what the daemon deleted is asked about, except media.
const QUESTIONS: [(&str, &str); 16] = [
    ("I1", "select format('%s: %s records of %s were deleted at %s, due at %s', account_id, n, place, statement_at, due)
            from soak.judged where by <> 'platform' and class <> 'media' and statement_at < due"),
    ("I3", "select format('%s: %s records of a bystander in %s were deleted', account_id, n, place) from soak.judged where account_id like 'by-%'"),
    ("I3", "select format('%s: %s records of %s were deleted without a job in a worker''s hands', account_id, n, place)
            from soak.judged where by <> 'platform' and class <> 'media' and (said -> 'job' ->> 'leased')::bool is not true"),
    ("I4", "select format('%s: %s media objects were deleted by %s', account_id, n, by) from soak.judged where class = 'media'"),
    ("I5", "select format('%s: %s records of %s were deleted at %s (committed %s), and a %s had returned at %s', g.account_id, g.n, g.place, g.at, g.committed_at, s.kind, s.returned_at)
            from soak.judged g join soak.stops s on coalesce(s.account_id, g.account_id) = g.account_id and coalesce(s.data_class, g.class) = g.class
            where g.by <> 'platform' and g.class <> 'media' and g.committed_at > s.returned_at and g.committed_at < s.released_at"),
    ("I5", "select format('%s: %s records of %s were deleted at %s although held (%s), paused (%s) or guarded (%s)', account_id, n, place, at,
                          said ->> 'held', said ->> 'paused', said ->> 'guarded')
            from soak.judged where by <> 'platform' and class <> 'media'
            and ((said ->> 'held')::bool or (said ->> 'paused')::bool or (said ->> 'guarded')::bool)"),
    ("I7", "select format('%s: %s records of %s were deleted at %s and nothing stood: %s', account_id, n, place, at, said)
            from soak.judged where by <> 'platform' and class <> 'media' and earliest is null"),
    ("I8", "with gone as (select account_id, place, sum(cardinality(ids)) as n from soak.gone where by <> 'platform' and class <> 'media' group by 1, 2),
            counted as (select account_id, split_part(t.key, '/', 2) as place, sum(t.value::bigint) as n
                        from retention.every_job, jsonb_each_text(records_deleted) t group by 1, 2)
            select format('%s: %s records of %s are gone, the jobs count %s', account_id, coalesce(g.n, 0), place, coalesce(c.n, 0))
            from gone g full join counted c using (account_id, place) where coalesce(g.n, 0) <> coalesce(c.n, 0)"),
    ("I8", "select format('record %s of %s was deleted %s times', r.record, g.place, count(*)) from soak.gone g, unnest(g.ids) r(record) group by g.place, r.record having count(*) > 1"),
    ("I8", "select format('job %s ended %s times: %s', job_id, count(*), string_agg(after, ', ')) from soak.endings group by job_id having count(*) > 1"),
    ("I8", "select format('job %s is open and over', id) from retention.jobs join retention.history using (id)"),
    ("I8", "select format('job %s is with %s, its lease until %s', id, worker, lease_until) from retention.jobs where lease_until is not null"),
    ("I1", "select format('job %s was completed before its time', id) from retention.every_job where completed_at < retain_until"),
    ("I4", "select format('%s: %s media objects', account_id, count(m.media_id))
            from (select distinct account_id from soak.history where account_id like 'acc-%') h left join media_objects m using (account_id)
            group by account_id having count(m.media_id) <> 2"),
    ("I12", "select 'the guard stands tripped: ' || reason from retention.guard where tripped_at is not null"),
    ("end", "select format('%s: a problem that nobody made: %s', account_id, problem) from retention.quarantine"),
];

/// Makes the judge's views.
pub(crate) async fn prepare(world: &World) {
    sqlx::raw_sql(JUDGE).execute(&mut world.connect().await).await.unwrap();
}

/// Waits until nothing is left to do; how long that took, `None` when it did not come to that.
pub(crate) async fn quiet(world: &World, patience: Duration) -> Option<Duration> {
    let began = Instant::now();
    let mut empty = 0;
    while began.elapsed() < patience {
        let left: i64 = sqlx::query_scalar("select count(*) from soak.unfinished").fetch_one(&mut world.connect().await).await.unwrap();
        empty = if left == 0 { empty + 1 } else { 0 };
        // What a later look may still bring up comes within one verifier.interval; so it must stay empty for longer.
        if empty == 8 {
            return Some(began.elapsed());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    None
}

/// Asks every question.
pub(crate) async fn judge(world: &World) {
    let mut c = world.connect().await;
    for (invariant, question) in QUESTIONS {
        let found: Vec<String> = sqlx::query_scalar(question).fetch_all(&mut c).await.unwrap_or_else(|e| panic!("{question}: {e}"));
        for what in found {
            world.violated(invariant, what);
        }
    }
    let unfinished: Vec<(String, String)> = sqlx::query_as("select invariant, what from soak.unfinished").fetch_all(&mut c).await.unwrap();
    for (invariant, what) in unfinished {
        let known = ["I2", "I7", "I9", "I10", "I11"].into_iter().find(|k| *k == invariant).unwrap_or("end");
        world.violated(known, format!("at the end, {what}"));
    }
    let changed: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
        "select format('bystanders'' %s: %s rows before, %s after', place, b.n, a.n) from soak.bystanders b full join ({CHECKSUMS}) a using (place)
         where (a.n, a.checksum) is distinct from (b.n, b.checksum)"
    )))
    .fetch_all(&mut c)
    .await
    .unwrap();
    for what in changed {
        world.violated("I3", what);
    }
}

/// Figures for the summary.
pub(crate) async fn figures(world: &World) -> Vec<(&'static str, String)> {
    const FIGURES: [(&str, &str); 9] = [
        ("jobs completed", "select count(*)::text from retention.every_job where state = 'completed'"),
        ("jobs cancelled (after a batch)", "select format('%s (%s)', count(*), count(*) filter (where purge_began_at is not null)) from retention.every_job where state = 'cancelled'"),
        ("jobs made for records that came back", "select count(*)::text from (select lag(state) over w as before, lag(started_at) over w as since, started_at
            from retention.every_job window w as (partition by account_id, data_class order by id)) x where before = 'completed' and since = started_at"),
        ("records deleted by the daemon", "select coalesce(sum(cardinality(ids)), 0)::text from soak.gone where by <> 'platform'"),
        ("deleting statements judged", "select count(distinct (xid, place))::text from soak.gone where by <> 'platform'"),
        ("deletes for accounts whose row had vanished", "select count(*)::text from soak.judged where by <> 'platform' and not ((said ->> 'account')::bool and (said ->> 'subscribed')::bool)"),
        ("closest delete to its due instant", "select coalesce(min(statement_at - due)::text, '-') from soak.judged where by <> 'platform' and isfinite(due)"),
        ("completed after max(due, scheduled): p50, p99, max", "select coalesce(string_agg(round(p::numeric, 1) || ' s', ', '), '-') from (
            select unnest(percentile_disc(array[0.5, 0.99, 1.0]) within group (order by extract(epoch from completed_at - greatest(retain_until, created_at)))) as p
            from retention.every_job where state = 'completed') x"),
        ("warning: records deleted after delete_by, known in time", "select coalesce(sum(n), 0)::text from soak.judged g join retention.every_job j on j.id = (g.said -> 'job' ->> 'id')::bigint
            where g.by <> 'platform' and g.at > j.delete_by and j.created_at <= j.retain_until"),
    ];
    let mut c: PgConnection = world.connect().await;
    let mut figures = Vec::new();
    for (name, question) in FIGURES {
        figures.push((name, sqlx::query_scalar(question).fetch_one(&mut c).await.unwrap_or_else(|e| panic!("{question}: {e}"))));
    }
    c.close().await.unwrap();
    figures
}

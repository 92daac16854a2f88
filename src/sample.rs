//! Sample accounts for the reference platform, at every stage of life, and a count of what they have left.
//! Knows nothing of jobs or the daemon: what it calls due it works out by itself, from the platform's tables.

pub mod stores;

use sqlx::{Connection, FromRow, PgConnection};

/// What [`fill`] put into the platform.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Accounts.
    pub accounts: i64,
    /// Records of `template_configurations`.
    pub templates: i64,
    /// Records of `task_configurations`.
    pub tasks: i64,
    /// Records of `queue_messages`.
    pub messages: i64,
    /// Records of `media_objects`.
    pub media: i64,
}

impl Summary {
    /// Adds up the stages of a census.
    #[must_use]
    pub fn of(stages: &[Stage]) -> Self {
        stages.iter().fold(Self::default(), |sum, stage| Self {
            accounts: sum.accounts + stage.accounts,
            templates: sum.templates + stage.templates,
            tasks: sum.tasks + stage.tasks,
            messages: sum.messages + stage.messages,
            media: sum.media + stage.media,
        })
    }
}

/// The sample accounts at one stage of life and the records that they have now.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Stage {
    /// The stage, for people: "terminated 8 to 29 days ago".
    pub name: String,
    /// What becomes of its records and why, for people.
    pub reason: String,
    /// Accounts at this stage.
    pub accounts: i64,
    /// Their records of `template_configurations`.
    pub templates: i64,
    /// Their records of `task_configurations`.
    pub tasks: i64,
    /// Their records of `queue_messages`.
    pub messages: i64,
    /// Their records of `media_objects`.
    pub media: i64,
    /// How many of the templates and tasks are past their 30 days now.
    pub configuration_due: i64,
    /// How many of the messages are past their 7 days now.
    pub queue_due: i64,
}

/// Fills an empty reference platform. From 50 accounts on every stage has some. Some come due 8 to 40 seconds after
/// this call, for a reader to watch. The same number gives the same records, their instants counted from now.
///
/// # Errors
/// When the platform's tables are missing or hold sample accounts already; nothing is written then.
pub async fn fill(conn: &mut PgConnection, accounts: u32) -> Result<Summary, sqlx::Error> {
    let mut transaction = conn.begin().await?;
    sqlx::query("SELECT set_config('demo.accounts', $1, true)").bind(accounts.to_string()).execute(&mut *transaction).await?;
    sqlx::raw_sql(include_str!("sample/fill.sql")).execute(&mut *transaction).await?;
    let summary = Summary::of(&census(&mut transaction).await?);
    transaction.commit().await?;
    Ok(summary)
}

/// Counts what the sample accounts have now, stage by stage, in the order of a life.
///
/// # Errors
/// When [`fill`] has not been here.
pub async fn census(conn: &mut PgConnection) -> Result<Vec<Stage>, sqlx::Error> {
    sqlx::query_as(include_str!("sample/census.sql")).fetch_all(conn).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::{Options, Server};

    const ACCOUNTS: u32 = 300;

    async fn filled(server: &Server, database: &'static str) -> (PgConnection, Summary) {
        let mut main = PgConnection::connect(&server.url("postgres")).await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {database}"))).execute(&mut main).await.unwrap();
        let mut conn = PgConnection::connect(&server.url(database)).await.unwrap();
        let platform = include_str!("../migrations/platform/0001_reference_platform.sql");
        for _twice_is_as_good_as_once in 0..2 {
            sqlx::raw_sql(platform).execute(&mut conn).await.unwrap();
        }
        let summary = fill(&mut conn, ACCOUNTS).await.unwrap();
        (conn, summary)
    }

    async fn count(conn: &mut PgConnection, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(conn).await.unwrap()
    }

    #[tokio::test]
    async fn the_sample_platform_is_whole_at_every_stage_and_the_same_each_time() {
        let server = Server::start(&Options { durable: false, ..Options::default() }).unwrap();
        let (mut conn, summary) = filled(&server, "one").await;
        let (mut other, same) = filled(&server, "two").await;
        assert_eq!(summary, same);
        let ids = "SELECT md5(string_agg(account_id || task_id, ',' ORDER BY task_id)) FROM task_configurations";
        let one: String = sqlx::query_scalar(ids).fetch_one(&mut conn).await.unwrap();
        let two: String = sqlx::query_scalar(ids).fetch_one(&mut other).await.unwrap();
        assert_eq!(one, two);
        assert_eq!(count(&mut conn, "SELECT count(*) FROM accounts").await, i64::from(ACCOUNTS));
        assert_eq!(count(&mut conn, "SELECT count(*) FROM media_objects").await, summary.media);

        let uncommented = "SELECT count(*) FROM pg_class c LEFT JOIN pg_attribute a \
             ON a.attrelid = c.oid AND a.attnum > 0 AND c.relkind = 'r' \
             WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'i') \
               AND (obj_description(c.oid, 'pg_class') IS NULL \
                 OR (a.attnum IS NOT NULL AND col_description(c.oid, a.attnum) IS NULL))";
        assert_eq!(count(&mut conn, uncommented).await, 0, "every table, column and index says what it is for");

        let malformed = "SELECT count(*) FROM queue_messages m WHERE num_nonnulls(workflow_task_event, \
             edit_media_task_event, schedule_task_event) <> 1 \
             OR CASE event_type WHEN 'WorkflowTask' THEN workflow_task_event WHEN 'EditMediaTask' THEN \
                edit_media_task_event ELSE schedule_task_event END ->> 'TaskId' NOT IN \
                (SELECT task_id FROM task_configurations t WHERE t.account_id = m.account_id) \
             OR sign !~ '^[0-9a-f]{32}$' OR sign <> md5(\"timestamp\" || md5('notify-key-' || account_id))";
        assert_eq!(count(&mut conn, malformed).await, 0);
        assert_eq!(count(&mut conn, "SELECT count(*) FROM accounts WHERE account_id !~ '^1000[0-9]{8}$'").await, 0);
        let before = census(&mut conn).await.unwrap();
        assert_eq!(before.len(), 15);
        for stage in &before {
            assert!(stage.accounts > 0 && stage.templates > 0 && stage.tasks > 0 && stage.media > 0, "{stage:?}");
            assert_eq!(stage.messages == 0, stage.name == "in use, queue never enabled", "{stage:?}");
        }
    }

    #[tokio::test]
    async fn what_is_due_is_what_its_stage_says_and_more_comes_due_within_the_minute() {
        let server = Server::start(&Options { durable: false, ..Options::default() }).unwrap();
        let (mut conn, _) = filled(&server, "platform").await;
        let before = census(&mut conn).await.unwrap();
        for stage in &before {
            let past = |days: &str| stage.reason.contains(days);
            let everything_due = past("7 and 30 days have passed") || stage.name.starts_with("account deleted, no");
            let queue_due = everything_due || past("queue: 7 days have passed") || past("queue: 7 days from");
            assert_eq!(stage.queue_due, if queue_due { stage.messages } else { 0 }, "{stage:?}");
            let configuration = stage.templates + stage.tasks;
            assert_eq!(stage.configuration_due, if everything_due { configuration } else { 0 }, "{stage:?}");
        }

        // A minute later is a minute earlier for everything else.
        for sql in [
            "UPDATE accounts SET deleted_at = deleted_at - interval '1 minute'",
            "UPDATE feature_subscriptions SET terminated_at = terminated_at - interval '1 minute', \
             cmq_disabled_at = cmq_disabled_at - interval '1 minute'",
        ] {
            sqlx::query(sql).execute(&mut conn).await.unwrap();
        }
        let after = census(&mut conn).await.unwrap();
        for (before, after) in before.iter().zip(&after) {
            let watched = after.reason.contains("while you watch");
            let came = (after.configuration_due - before.configuration_due) + (after.queue_due - before.queue_due);
            assert_eq!(came > 0, watched, "{after:?}");
        }
    }
}

//! The fence (I8): every statement that changes a job changes it only for whoever carries its fence, and none for anybody else.

use std::{collections::BTreeMap, time::Duration};

use retentiond::{
    app::App,
    database::{Database, Purpose, Tx},
    jobs::{self, Claimed, Next, OpenJob, Plan, Progress},
    planner::Look,
    policy::Class,
    safeguards,
};
use sqlx::AssertSqlSafe;

use crate::world::World;

/// A claimed job, and what a worker and a planner would each do to it.
struct Fenced {
    world: World,
    app: App,
    class: Class,
    claimed: Claimed,
    open: OpenJob,
}

impl Fenced {
    async fn new() -> Self {
        let world = World::new().await;
        world.account("a", "null", "now() - interval '31 days'", "null").await;
        let app = world.app().await.unwrap();
        app.planner().look(Look::Resync).await.unwrap();
        let class = app.policy.classes[0].clone();
        let mut tx = app.database.begin(Purpose::Write).await.unwrap();
        safeguards::admit(&mut tx, &app.config.guard).await.unwrap();
        let claimed = jobs::claim(&mut tx, &class.jobs, jobs::Lane::Fresh, "w", Duration::from_mins(10), Duration::from_hours(24), 10)
            .await
            .unwrap()
            .pop()
            .unwrap();
        let (mut open, _) = jobs::lock_open(&mut tx, &class.jobs, &["a".to_owned()]).await.unwrap();
        Database::commit(tx).await.unwrap();
        let open = open.pop().unwrap();
        assert_eq!(open.fence, claimed.fence, "who looks at it now sees the fence of the claim");
        Self { world, app, class, claimed, open }
    }

    /// What each statement does to the job after `change`, each in a transaction that is undone: rows that changed, by statement.
    async fn changes(&self, change: &str, fence: i64) -> BTreeMap<&'static str, u64> {
        let mut changed = BTreeMap::new();
        for statement in ["complete", "give back", "reschedule", "cancel"] {
            let mut tx: Tx = self.app.database.begin(Purpose::Write).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(change.to_owned())).execute(&mut *tx).await.unwrap();
            let open = OpenJob { fence, ..self.open.clone() };
            let rows = match statement {
                "complete" => jobs::record(&mut tx, &self.class.jobs, &[self.progress(Next::Complete, fence)]).await.unwrap().rows as u64,
                "give back" => jobs::record(&mut tx, &self.class.jobs, &[self.progress(Next::Continue, fence)]).await.unwrap().rows as u64,
                "reschedule" => jobs::reschedule(&mut tx, &self.class.jobs, &[(open, self.plan())]).await.unwrap().len() as u64,
                _ => jobs::cancel(&mut tx, &[(open, "reactivated")]).await.unwrap().len() as u64,
            };
            // A done-mark is made of what was recorded, never of what was meant.
            let marks: i64 = sqlx::query_scalar("select count(*) from retention.done_marks").fetch_one(&mut *tx).await.unwrap();
            assert_eq!(marks.unsigned_abs(), if statement == "complete" { rows } else { 0 }, "{statement} after {change}");
            tx.rollback().await.unwrap();
            changed.insert(statement, rows);
        }
        changed
    }

    fn progress(&self, next: Next, fence: i64) -> Progress {
        Progress {
            id: self.claimed.id,
            fence,
            next,
            records_deleted: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            began: true,
            looks: 0,
            error: None,
            requests: Vec::new(),
        }
    }

    fn plan(&self) -> Plan {
        Plan {
            account_id: "a".to_owned(),
            starting_point: self.open.starting_point.clone(),
            started_at: self.open.started_at,
            retain_until: self.open.retain_until,
            delete_by: self.open.delete_by,
            seen: None,
        }
    }
}

fn all(rows: u64) -> BTreeMap<&'static str, u64> {
    ["complete", "give back", "reschedule", "cancel"].map(|statement| (statement, rows)).into()
}

#[tokio::test]
async fn i8_only_who_carries_the_fence_changes_a_job() {
    let fenced = Fenced::new().await;
    let fence = fenced.claimed.fence;
    assert_eq!(fenced.changes("select 1", fence).await, all(1));
    for stale in [fence - 1, fence + 1] {
        assert_eq!(fenced.changes("select 1", stale).await, all(0), "fence {stale} of {fence}");
    }
    // Somebody put it back by hand, and left the fence as it was: no worker has it any more.
    let back = "update retention.jobs set lease_until = null where lease_until is not null";
    let mut changed = fenced.changes(back, fence).await;
    assert_eq!((changed.remove("complete"), changed.remove("give back")), (Some(0), Some(0)));
    assert_eq!(changed.into_values().collect::<Vec<_>>(), [1, 1]);
    // What has ended has ended.
    assert_eq!(fenced.changes("delete from retention.jobs where lease_until is not null", fence).await, all(0));
}

/// Claiming, taking back, another plan and a cancellation each leave the fence of whoever held the job before behind.
#[tokio::test]
async fn i8_every_change_of_hands_takes_a_new_fence() {
    let fenced = Fenced::new().await;
    let fence = async || -> i64 {
        sqlx::query_scalar("select fence from retention.jobs where data_class = 'configuration'")
            .fetch_one(&mut fenced.world.connect().await)
            .await
            .unwrap()
    };
    let claimed = fence().await;
    assert_eq!(claimed, fenced.claimed.fence);
    // A lease that has not lapsed is nobody's to take.
    let claim = async || {
        let mut tx = fenced.app.database.begin(Purpose::Write).await.unwrap();
        let taken =
            jobs::claim(&mut tx, &fenced.class.jobs, jobs::Lane::Fresh, "another", Duration::from_mins(10), Duration::from_hours(24), 10)
                .await
                .unwrap();
        Database::commit(tx).await.unwrap();
        taken
    };
    assert!(claim().await.is_empty());
    assert_eq!(fence().await, claimed);
    fenced.world.sql("update retention.jobs set lease_until = now() where lease_until is not null").await;
    let again = claim().await;
    assert!(again[0].lapsed && again[0].fence > claimed && fence().await == again[0].fence);
    fenced.world.sql("update feature_subscriptions set terminated_at = terminated_at - interval '1 day'").await;
    fenced.app.planner().look(Look::Resync).await.unwrap();
    let rescheduled = fence().await;
    assert!(rescheduled > again[0].fence);
    fenced.world.sql("update feature_subscriptions set terminated_at = null").await;
    fenced.app.planner().look(Look::Resync).await.unwrap();
    assert_eq!(fenced.world.count("retention.jobs where data_class = 'configuration'").await, 0);
    assert_eq!(fenced.world.job("a", "configuration").await.state, "cancelled");
}

/// A claim takes only what may be purged: whoever claims more keeps it from those who may, until the lease is over.
#[tokio::test]
async fn i5_a_claim_leaves_what_may_not_be_purged_to_others() {
    let fenced = Fenced::new().await;
    fenced.world.sql("update retention.jobs set lease_until = null where lease_until is not null").await;
    for (change, claims) in [
        ("select 1", 1),
        ("update retention.jobs set admitted_at = null", 1),
        ("update retention.jobs set admitted_at = null; delete from retention.admissions", 0),
        ("update retention.jobs set admitted_at = null; update retention.admissions set released = true", 0),
        ("update retention.jobs set admitted_at = null; update retention.admissions set admitted_at = now() - interval '24 hours'", 0),
        ("update retention.jobs set admitted_at = null; update retention.admissions set admitted_at = now() - interval '23:59:59'", 1),
        ("update retention.jobs set retain_until = now() + interval '1 microsecond', delete_by = now() + interval '1 hour'", 0),
        ("update retention.jobs set retain_until = now(), delete_by = now() + interval '1 hour'", 1),
        ("update retention.jobs set ready_at = now() + interval '1 microsecond'", 0),
        ("update retention.jobs set policy = 'another'", 0),
        ("update retention.jobs set feature = 'live' where data_class = 'configuration'", 0),
        ("insert into retention.policies (hash, terms, accepted_by, reason) values ('another', '{}', 'test', 'test')", 0),
        ("update retention.guard set tripped_at = now(), reason = 'r'", 0),
        ("insert into retention.holds (account_id, reason, placed_by) values ('a', 'r', 'b')", 0),
        ("insert into retention.holds (account_id, reason, placed_by) values ('b', 'r', 'b')", 1),
        ("insert into retention.pauses (reason, paused_by) values ('r', 'b')", 0),
        ("insert into retention.pauses (data_class, reason, paused_by) values ('queue', 'r', 'b')", 1),
    ] {
        let mut tx = fenced.app.database.begin(Purpose::Write).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(change.to_owned())).execute(&mut *tx).await.unwrap();
        let claimed =
            jobs::claim(&mut tx, &fenced.class.jobs, jobs::Lane::Fresh, "w", Duration::from_mins(1), Duration::from_hours(24), 10)
                .await
                .unwrap();
        assert_eq!(claimed.len(), claims, "{change}");
        tx.rollback().await.unwrap();
    }
}

/// Whatever takes one of its jobs out of a batch's hands before the commit, nothing of the batch stands.
#[tokio::test]
async fn i8_a_batch_that_lost_a_job_is_rolled_back_whole() {
    let fenced = Fenced::new().await;
    // A trigger of ours stands for whoever could: the row is locked, so that nobody can from outside.
    fenced
        .world
        .sql(
            "create function steal() returns trigger language plpgsql as $$ begin
                 update retention.jobs set fence = fence + 1 where lease_until is not null; return null; end $$;
             create trigger steal after delete on template_configurations for each statement execute function steal();
             update retention.jobs set lease_until = now() where lease_until is not null",
        )
        .await;
    let mut worker = fenced.app.executor().worker("w".to_owned());
    worker.step().await.unwrap();
    assert_eq!(fenced.world.left("a").await, crate::world::ALL, "what was deleted by the batch is there again");
    assert_eq!(fenced.world.count("retention.every_job where state = 'completed'").await, 0);
}

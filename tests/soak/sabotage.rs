//! Shows that the judge can find what it looks for: deletes in the daemon's name that must not be.

use std::time::Duration;

use chrono::Utc;
use retentiond::{
    database::{Database, Purpose},
    safeguards::control::{self, Scope},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{stops::now, world::World};

/// What must be found of it.
pub(crate) const FOUND: [&str; 8] = ["I1", "I3", "I4", "I5", "I7", "I8", "I9", "I10"];

async fn run(world: &World, statements: &str) {
    let mut connection = world.connect().await;
    let all = format!("set application_name = 'retentiond'; {statements}");
    sqlx::raw_sql(AssertSqlSafe(all)).execute(&mut connection).await.unwrap_or_else(|e| panic!("{statements}: {e}"));
    connection.close().await.unwrap();
}

/// While everything runs undisturbed.
pub(crate) async fn early(world: &World) {
    let account = |id: &str, terminated: &str| {
        format!(
            "insert into accounts (account_id, region) values ('{id}', 'here');
             insert into feature_subscriptions (account_id, feature, terminated_at) values ('{id}', 'mps', {terminated});
             insert into queue_messages (account_id, event_type) select '{id}', 'WorkflowTask' from generate_series(1, 3);
             insert into media_objects (account_id, kind) select '{id}', 'source' from generate_series(1, 2);"
        )
    };
    run(world, &account("sab-live", "null")).await;
    run(world, "delete from queue_messages where account_id = 'sab-live'").await;
    run(world, "delete from media_objects where account_id = 'sab-live'").await;
    run(world, "delete from template_configurations where account_id = 'by-00001'").await;
    run(world, &account("sab-early", "now()")).await;
    run(world, "delete from queue_messages where account_id = 'sab-early'").await;
    run(world, &account("sab-held", "now() + interval '10 s'")).await;
    let database = Database::new(&World::config(&world.url).database).unwrap();
    let mut tx = database.begin(Purpose::Write).await.unwrap();
    let scope = Scope { account: Some("sab-held".to_owned()), ..Scope::default() };
    control::place_hold(&mut tx, &scope, "soak sabotage", "soak", None).await.unwrap();
    Database::commit(tx).await.unwrap();
    let returned = now();
    tokio::time::sleep(Duration::from_secs(14)).await;
    run(world, "delete from queue_messages where account_id = 'sab-held'").await;
    let mut connection: PgConnection = world.connect().await;
    sqlx::query("insert into soak.stops (kind, account_id, returned_at, released_at) values ('hold', 'sab-held', $1, $2)")
        .bind(returned)
        .bind(Utc::now())
        .execute(&mut connection)
        .await
        .unwrap();
}

/// After the replicas have stopped.
pub(crate) async fn late(world: &World) {
    let standing =
        "select account_id from soak.standing where class = 'queue' and since is not null and account_id like 'acc-%' order by account_id";
    run(
        world,
        &format!(
            "delete from retention.done_marks where data_class = 'queue' and account_id = ({standing} limit 1);
             insert into queue_messages (account_id, event_type, created_at) {} offset 1 limit 1",
            standing.replace("select account_id", "select account_id, 'WorkflowTask', now() - interval '1 day'")
        ),
    )
    .await;
}

//! People who stop deletion and let it go on: holds, pauses and guard trips through the library, as the verbs do it. What counts for the
//! judge is the time from when the act had returned until its end was begun.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use retentiond::{
    database::{Database, DatabaseError, Purpose},
    safeguards::{
        self,
        control::{self, Scope},
    },
};
use sqlx::PgConnection;

use crate::{dice::Dice, world::World};

#[derive(Debug, Clone, Copy)]
enum Kind {
    Hold,
    HoldOfClass,
    PauseOfAccount,
    PauseOfClass,
    PauseOfAll,
    Trip,
}

const KINDS: [(u64, Kind); 6] = [
    (30, Kind::Hold),
    (20, Kind::HoldOfClass),
    (15, Kind::PauseOfAccount),
    (4, Kind::PauseOfClass),
    (2, Kind::PauseOfAll),
    (2, Kind::Trip),
];

/// Stops something and releases it, again and again. `number` tells the people apart; only the first acts on more than one account.
pub(crate) async fn person(world: Arc<World>, number: u64, mut dice: Dice) {
    // Through the pooler for one, past it for the other.
    let url = if number == 0 { world.url.clone() } else { world.through(world.pooled.port()) };
    let database = Database::new(&World::config(&url).database).unwrap();
    while world.rest(dice.millis(100, 900)).await {
        let mut kind = dice.weighted(&KINDS);
        if number != 0 && matches!(kind, Kind::PauseOfClass | Kind::PauseOfAll | Kind::Trip) {
            kind = Kind::Hold;
        }
        let data_class = Some(if dice.percent(50) { "queue" } else { "configuration" }.to_owned());
        let whole = matches!(kind, Kind::PauseOfClass | Kind::PauseOfAll | Kind::Trip);
        let account = match about_to_be_purged(&database, number).await {
            _ if whole => None,
            Ok(Some(account)) => Some(account),
            Ok(None) | Err(_) => continue,
        };
        let scope = match kind {
            Kind::Hold | Kind::PauseOfAccount => Scope { account, ..Scope::default() },
            Kind::HoldOfClass => Scope { account, data_class, ..Scope::default() },
            Kind::PauseOfClass => Scope { data_class, ..Scope::default() },
            Kind::PauseOfAll | Kind::Trip => Scope::default(),
        };
        let reason = format!("soak {number}");
        let placed = place(&database, kind, &scope, &reason).await;
        let returned = now();
        let name = match kind {
            Kind::Hold | Kind::HoldOfClass => "hold",
            Kind::PauseOfAccount | Kind::PauseOfClass | Kind::PauseOfAll => "pause",
            Kind::Trip => "guard trip",
        };
        world.did(&format!("{name}{}", if placed.is_ok() { " placed" } else { " whose answer was lost" }));
        let _goes_on = world.rest(if whole { dice.millis(500, 2_500) } else { dice.millis(500, 9_000) }).await;
        let released = now();
        // Whether or not the answer came: it may have been placed.
        while release(&database, kind, &scope, &reason).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        if placed.is_ok() {
            world.did(&format!("{name} released"));
            keep(&world, name, &scope, returned, released).await;
        }
    }
    database.close().await;
}

/// An account whose purge is near, of this person's own.
async fn about_to_be_purged(database: &Database, number: u64) -> Result<Option<String>, DatabaseError> {
    let mut tx = database.begin(Purpose::Read).await?;
    Ok(sqlx::query_scalar(
        "select account_id from retention.every_job where state in ('scheduled', 'running') and retain_until < now() + interval '2 s'
         and account_id like 'acc-%' and substr(account_id, 5)::int % 2 = $1 order by random() limit 1",
    )
    .bind(i32::try_from(number).unwrap())
    .fetch_optional(&mut *tx)
    .await?)
}

async fn place(database: &Database, kind: Kind, scope: &Scope, reason: &str) -> Result<(), DatabaseError> {
    let mut tx = database.begin(Purpose::Write).await?;
    match kind {
        Kind::Hold | Kind::HoldOfClass => drop(control::place_hold(&mut tx, scope, reason, "soak", None).await?),
        Kind::PauseOfAccount | Kind::PauseOfClass | Kind::PauseOfAll => control::pause(&mut tx, scope, reason, "soak").await?,
        Kind::Trip => safeguards::trip(&mut tx, reason).await?,
    }
    Database::commit(tx).await
}

async fn release(database: &Database, kind: Kind, scope: &Scope, reason: &str) -> Result<(), DatabaseError> {
    let mut tx = database.begin(if matches!(kind, Kind::Trip) { Purpose::Bulk } else { Purpose::Write }).await?;
    match kind {
        Kind::Hold | Kind::HoldOfClass => {
            for hold in control::holds(&mut tx).await?.into_iter().filter(|h| h.reason == reason) {
                control::release_hold(&mut tx, hold.id.parse().unwrap(), "over", "soak").await?;
            }
        }
        Kind::PauseOfAccount | Kind::PauseOfClass | Kind::PauseOfAll => drop(control::resume(&mut tx, scope, "over", "soak").await?),
        Kind::Trip => drop(control::release_guard(&mut tx, std::time::Duration::from_hours(24), "over", "soak").await?),
    }
    Database::commit(tx).await
}

/// Tells the judge.
async fn keep(world: &World, kind: &str, scope: &Scope, returned: DateTime<Utc>, released: DateTime<Utc>) {
    loop {
        let mut connection: PgConnection = world.connect().await;
        let kept =
            sqlx::query("insert into soak.stops (kind, account_id, data_class, returned_at, released_at) values ($1, $2, $3, $4, $5)")
                .bind(kind)
                .bind(scope.account.as_deref())
                .bind(scope.data_class.as_deref())
                .bind(returned)
                .bind(released)
                .execute(&mut connection)
                .await;
        if kept.is_ok() {
            return;
        }
    }
}

/// The host's clock, which is that of the database here.
pub(crate) fn now() -> DateTime<Utc> {
    Utc::now()
}

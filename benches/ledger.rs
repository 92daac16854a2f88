//! The ledger: what telling costs the purge, how fast entries get their number, how long a million of them take to verify, and how soon a proof is made.

use std::time::Instant;

use retentiond::{
    database::{Database, Purpose},
    ledger::{Ledger, Seen, evidence},
};

use crate::{
    Bench, fill,
    lab::{COPY, Lab, completed, number, sql},
    program::{self, Ran},
    report::{Goal, Runs, figure, float, mib, millis, rate},
};

/// Nothing is told: what there would be to tell is thrown away before it is written.
const OFF: &str = "create function retention.nothing() returns trigger language plpgsql as 'begin return null; end';
    create trigger nothing before insert on retention.ledger_pending for each row execute function retention.nothing();
    alter table retention.history disable trigger ledger";

async fn purge(lab: &Lab, telling: bool, accounts: i64) -> Ran {
    let mut conn = lab.copy("told").await;
    if !telling {
        sql(&mut conn, OFF).await;
    }
    let ran = lab.program(COPY, "enforce").run();
    assert_eq!(completed(&mut conn).await, accounts);
    let told = "select count(*) from retention.ledger_entries where kind = 'job' and convert_from(entry, 'UTF8')::jsonb ->> 'event' in ('intent', 'completed')";
    assert_eq!(number(&mut conn, told).await, if telling { 2 * accounts } else { 0 }, "everything is told, or nothing");
    ran
}

pub(crate) async fn ledger(bench: &mut Bench) {
    let (lab, sizes) = (&bench.lab, bench.sizes);
    lab.template("told", &fill::uniform(sizes.due, 10)).await;
    lab.plan("told").await;
    let accounts = i64::from(sizes.due);
    let (mut on, mut off) = (Runs::default(), Runs::default());
    let mut rounds = bench.rounds(120);
    while rounds.next() {
        on.add(rate(accounts, purge(lab, true, accounts).await.purge()));
        off.add(rate(accounts, purge(lab, false, accounts).await.purge()));
    }
    let what = format!("purge {} accounts of ten rows, and tell the ledger", figure(float(accounts)));
    bench.table.compare(&what, "jobs/s", &on, "the same without telling", &off, Goal::AtLeast(0.9));
    lab.drop("told").await;
    whole(bench).await;
}

/// A long ledger: numbered, verified, asked for a proof.
async fn whole(bench: &mut Bench) {
    let (lab, entries) = (&bench.lab, i64::from(bench.sizes.entries));
    lab.template("long", "select 1").await;
    let mut conn = lab.copy("long").await;
    // Three entries for each job, of which the last ends it, as purges leave them.
    sql(
        &mut conn,
        &format!(
            "insert into retention.history (id, account_id, feature, data_class, state, starting_point, started_at, retain_until, delete_by, policy, attempts, records_deleted, outcomes, count_exact,
                                            created_at, completed_at)
             select i, 'account-' || i, 'mps', 'queue', 'completed', 'account_deleted', now() - interval '8 days', now() - interval '1 day', now(), 'rule', 1,
                    '{{\"platform/queue_messages\": 7}}', '{{\"platform/queue_messages\": \"deleted\"}}', true, now() - interval '8 days', now()
             from generate_series(1, {entries} / 3) i;
             insert into retention.ledger_pending (event, kind, reference, subject, body)
             select e.event, 'job', i, 'account-' || i, jsonb_build_object('feature', 'mps', 'data_class', 'queue', 'starting_point', 'account_deleted',
                    'started_at', retention.instant(now()), 'retain_until', retention.instant(now()), 'delete_by', retention.instant(now()), 'rule', 'rule')
             from generate_series(1, {entries} / 3) i, (values ('scheduled'), ('intent')) e(event);
             analyze retention.ledger_pending; analyze retention.history"
        ),
    )
    .await;
    let config = lab.program(COPY, "enforce").config();
    let ledger = Ledger::new(Database::new(&config.database).expect("an address"), std::sync::Arc::clone(&config), Seen::default());
    let began = Instant::now();
    let numbered = ledger.pass().await.expect("a pass");
    let per_second = Runs::one(rate(i64::try_from(numbered).expect("a count"), began.elapsed()));
    bench.table.limit(&format!("number and sign {} entries", figure(float(entries))), "entries/s", &per_second, Goal::None);
    sql(&mut conn, "analyze retention.ledger_entries; analyze retention.ledger_salts").await;
    program::take_memory();
    let began = Instant::now();
    let _verified = lab.program(COPY, "enforce").start(&["ledger", "verify"]).wait();
    let took = Runs::one(began.elapsed().as_secs_f64());
    let memory = Runs::one(mib(program::take_memory()));
    bench.table.limit(
        &format!("verify a ledger of {} entries, and the history against it", figure(float(entries))),
        "s",
        &took,
        Goal::AtMost(60.0),
    );
    bench.table.limit("– memory", "MiB", &memory, Goal::AtMost(64.0));
    let database = Database::new(&config.database).expect("an address");
    let mut proofs = Runs::default();
    for job in 1..=20 {
        let mut tx = database.begin(Purpose::Read).await.expect("a transaction");
        let began = Instant::now();
        let evidence = evidence(&mut tx, job * entries / 3 / 20).await.expect("evidence").expect("the job");
        proofs.add(millis(began.elapsed()));
        assert!(evidence.entries.len() >= 3);
    }
    bench.table.limit("– everything about one job, with its proofs", "ms", &proofs, Goal::AtMost(50.0));
    lab.drop("long").await;
}

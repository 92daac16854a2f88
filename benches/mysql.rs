//! Purging in MariaDB: due accounts among many, scattered as time scatters them, against one single DELETE and against pt-archiver at its best.

use std::{process::Command, time::Instant};

use retentiond::embedded::Mariadb;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};

use crate::{
    Bench, fill,
    lab::COPY,
    report::{Goal, Runs, figure, float, rate},
};

/// Accounts in all; each tenth is due.
const ACCOUNTS: i64 = 1_000;

struct Events<'a> {
    server: &'a Mariadb,
    rows: i64,
}

impl Events<'_> {
    async fn connect(&self) -> MySqlConnection {
        MySqlConnection::connect(&self.server.url("b")).await.expect("MariaDB")
    }

    async fn number(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut self.connect().await).await.expect("a number")
    }

    /// The table as it was in the beginning.
    async fn fresh(&self) {
        let again =
            "drop table if exists b.events; create table b.events like b.all_events; insert into b.events select * from b.all_events";
        sqlx::raw_sql(again).execute(&mut self.connect().await).await.expect("a fresh copy");
    }

    async fn gone(&self) {
        let due = "select count(*) from b.events where account_id in (select account_id from b.due)";
        assert_eq!(self.number(due).await, 0);
        assert_eq!(self.number("select count(*) from b.events").await, self.rows - self.rows / 10, "nobody else's");
    }
}

pub(crate) async fn mysql(bench: &mut Bench) {
    let (lab, rows) = (&bench.lab, i64::from(bench.sizes.due) * 3);
    let Some(server) = Mariadb::start().expect("MariaDB") else {
        bench.table.missing("purge in MariaDB", "MariaDB is not installed");
        return;
    };
    lab.template("elsewhere", &fill::no_rows(0, u32::try_from(ACCOUNTS / 10).expect("a number"))).await;
    let due: Vec<String> = sqlx::query_scalar("select account_id from feature_subscriptions where terminated_at is not null")
        .fetch_all(&mut lab.connect("elsewhere").await)
        .await
        .expect("the due accounts");
    let events = Events { server: &server, rows };
    let list = due.iter().map(|id| format!("('{id}')")).collect::<Vec<_>>().join(", ");
    let filled = format!(
        "create table b.due (account_id varchar(64) primary key); insert into b.due values {list};
         create table b.accounts as select row_number() over () * 10 - 1 as n, account_id from b.due;
         insert into b.accounts select seq, concat('other-', seq) from seq_0_to_{} where seq % 10 <> 9;
         create table b.all_events (id bigint primary key, account_id varchar(64) not null, payload varchar(200) not null, index (account_id));
         insert into b.all_events select s.seq, a.account_id, repeat('x', 100) from seq_1_to_{rows} s join b.accounts a on a.n = s.seq * 7919 % {ACCOUNTS}",
        ACCOUNTS - 1
    );
    let mut anywhere = MySqlConnection::connect(&server.url("")).await.expect("MariaDB");
    // All of it in memory, as with the other server.
    sqlx::raw_sql("set global innodb_buffer_pool_size = 1073741824; create database b").execute(&mut anywhere).await.expect("a database");
    sqlx::raw_sql(AssertSqlSafe(filled)).execute(&mut events.connect().await).await.expect("the events");
    let (mut ours, mut single, mut archiver) = (Runs::default(), Runs::default(), Runs::default());
    let mut rounds = bench.rounds(60);
    let mut why = None;
    while rounds.next() {
        events.fresh().await;
        let began = Instant::now();
        sqlx::raw_sql("delete e from b.events e join b.due d on d.account_id = e.account_id")
            .execute(&mut events.connect().await)
            .await
            .expect("the DELETE");
        single.add(rate(rows / 10, began.elapsed()));
        events.gone().await;

        events.fresh().await;
        let began = Instant::now();
        let source = format!("h=127.0.0.1,P={},u=root,D=b,t=events", server.port());
        let words = ["--purge", "--no-check-charset", "--bulk-delete", "--limit", "5000", "--commit-each", "--where"];
        let ran =
            Command::new("pt-archiver").args(["--source", &source]).args(words).arg("account_id in (select account_id from due)").output();
        match ran {
            Ok(output) if output.status.success() => {
                archiver.add(rate(rows / 10, began.elapsed()));
                events.gone().await;
            }
            Ok(output) => why = Some(String::from_utf8_lossy(&output.stderr).lines().next_back().unwrap_or("it failed").to_owned()),
            Err(error) => why = Some(error.to_string()),
        }

        events.fresh().await;
        drop(lab.copy("elsewhere").await);
        let ran = lab
            .program(COPY, "enforce")
            .elsewhere(&format!("kind = \"mysql\"\nurl = \"{}\"", server.url("b")), "table = \"events\"\naccount_column = \"account_id\"")
            .run();
        assert_eq!(ran.completed, ACCOUNTS / 10);
        ours.add(rate(rows / 10, ran.purge()));
        events.gone().await;
    }
    let what =
        format!("purge {} rows of {} due accounts among {} in MariaDB", figure(float(rows / 10)), ACCOUNTS / 10, figure(float(rows)));
    bench.table.compare(&what, "rows/s", &ours, "one single `DELETE … JOIN` the due accounts", &single, Goal::AtLeast(0.7));
    match why {
        None => bench.table.compare(
            "– the same",
            "rows/s",
            &ours,
            "pt-archiver --bulk-delete --limit 5000 --commit-each",
            &archiver,
            Goal::AtLeast(2.5),
        ),
        Some(why) => bench.table.missing("– beside pt-archiver", &why),
    }
}

//! What the sample accounts have in other stores: a second Postgres and, where it is installed, a MariaDB, both started here. Records of the two classes
//! lie there as well as in the reference platform, so that one can see the same accounts disappear from all of them.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::embedded::{EmbeddedError, Mariadb, Options, Server};

/// Records of each account in each place.
const EACH: i32 = 5;

/// Servers of the other stores. They end with this value.
#[derive(Debug)]
pub struct Stores {
    archive: Server,
    media: Option<Mariadb>,
}

/// One place in another store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The target, as the rules name it.
    pub target: String,
    /// Records of accounts whose period has passed in the class that the place belongs to.
    pub due: i64,
    /// Records of all others.
    pub others: i64,
}

/// Which accounts are due, by class: the platform's own tables say so.
#[derive(Debug, Default)]
pub struct Due {
    configuration: Vec<String>,
    queue: Vec<String>,
}

impl Stores {
    /// Starts the servers. Blocks.
    ///
    /// # Errors
    /// When one that is installed does not come up.
    pub fn start() -> Result<Self, EmbeddedError> {
        Ok(Self { archive: Server::start(&Options::default())?, media: Mariadb::start()? })
    }

    /// The stores that cannot be had on this machine, each with the reason.
    #[must_use]
    pub fn left_out(&self) -> Vec<&'static str> {
        if cfg!(not(feature = "mysql")) {
            vec!["mysql: built without it"]
        } else if self.media.is_none() {
            vec!["mysql: MariaDB is not installed (Debian: apt-get install mariadb-server)"]
        } else {
            Vec::new()
        }
    }

    /// The rules with these stores and a target in each.
    #[must_use]
    pub fn rules(&self, promise: &str) -> String {
        let mut rules = promise.to_owned();
        let mut stores = format!("\n[stores.archive]\nkind = \"postgres\"\nurl = \"{}\"\n", self.archive.url("postgres"));
        let mut targets = vec![("queue", "archive", "queue_archive")];
        if let Some(media) = self.media.as_ref().filter(|_| cfg!(feature = "mysql")) {
            stores = format!("{stores}\n[stores.media_db]\nkind = \"mysql\"\nurl = \"{}\"\n", media.url("media"));
            targets.push(("configuration", "media_db", "task_events"));
        }
        for (class, store, table) in targets {
            let target = format!("[[data_classes.targets]]\nstore = \"{store}\"\ntable = \"{table}\"\naccount_column = \"account_id\"\n\n");
            // Before the first target of the class.
            if let Some(at) = rules
                .find(&format!("name = \"{class}\"\n"))
                .and_then(|from| rules[from..].find("[[data_classes.targets]]").map(|at| from + at))
            {
                rules.insert_str(at, &target);
            }
        }
        rules + &stores
    }

    /// Puts records of every account of the platform into each place.
    ///
    /// # Errors
    /// Those of the databases.
    pub async fn fill(&self, platform: &mut PgConnection) -> Result<(), sqlx::Error> {
        let accounts: Vec<String> = sqlx::query_scalar("select account_id from accounts order by 1").fetch_all(platform).await?;
        let mut archive = PgConnection::connect(&self.archive.url("postgres")).await?;
        sqlx::raw_sql("create table queue_archive (id bigserial primary key, account_id text not null, event jsonb); create index on queue_archive (account_id)")
            .execute(&mut archive)
            .await?;
        sqlx::query("insert into queue_archive (account_id, event) select a, '{}' from unnest($1::text[]) a, generate_series(1, $2)")
            .bind(&accounts)
            .bind(EACH)
            .execute(&mut archive)
            .await?;
        #[cfg(feature = "mysql")]
        if let Some(media) = &self.media {
            let mut conn = sqlx::MySqlConnection::connect(&media.url("")).await?;
            sqlx::raw_sql(
                "create database media; create table media.task_events (id bigint auto_increment primary key, account_id varchar(64) not null, index (account_id))",
            )
            .execute(&mut conn)
            .await?;
            for page in accounts.chunks(100) {
                let values = vec!["(?)"; page.len()].join(", ");
                for _ in 0..EACH {
                    let mut insert = sqlx::query(AssertSqlSafe(format!("insert into media.task_events (account_id) values {values}")));
                    for account in page {
                        insert = insert.bind(account);
                    }
                    insert.execute(&mut conn).await?;
                }
            }
        }
        Ok(())
    }

    /// Counts what is there now.
    ///
    /// # Errors
    /// Those of the databases.
    pub async fn census(&self, due: &Due) -> Result<Vec<Count>, sqlx::Error> {
        let mut archive = PgConnection::connect(&self.archive.url("postgres")).await?;
        let rows: Vec<String> = sqlx::query_scalar("select account_id from queue_archive").fetch_all(&mut archive).await?;
        let mut counts = vec![Count::of("archive/queue_archive", &rows, &due.queue)];
        #[cfg(feature = "mysql")]
        if let Some(media) = &self.media {
            let mut conn = sqlx::MySqlConnection::connect(&media.url("media")).await?;
            let rows: Vec<String> = sqlx::query_scalar("select account_id from task_events").fetch_all(&mut conn).await?;
            counts.push(Count::of("media_db/task_events", &rows, &due.configuration));
        }
        Ok(counts)
    }
}

impl Count {
    fn of(target: &str, rows: &[String], due: &[String]) -> Self {
        let of_due = rows.iter().filter(|account| due.contains(account)).count();
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        Self { target: target.to_owned(), due: count(of_due), others: count(rows.len() - of_due) }
    }
}

impl Due {
    /// Asks the platform's tables, which know nothing of jobs.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn now(platform: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let since = |points: &str, days: i32| {
            format!(
                "select a.account_id from accounts a left join feature_subscriptions s on s.account_id = a.account_id and s.feature = 'mps'
                 where least({points}) <= now() - interval '{days} days'"
            )
        };
        let (configuration, queue) =
            (since("a.deleted_at, s.terminated_at", 30), since("a.deleted_at, s.terminated_at, s.cmq_disabled_at", 7));
        Ok(Self {
            configuration: sqlx::query_scalar(AssertSqlSafe(configuration)).fetch_all(&mut *platform).await?,
            queue: sqlx::query_scalar(AssertSqlSafe(queue)).fetch_all(platform).await?,
        })
    }
}

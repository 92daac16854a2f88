//! What the sample accounts have in other stores: a second Postgres, a folder of objects and, where they are installed, a MariaDB and a RabbitMQ, all
//! started here. Records of the two classes lie there as well as in the reference platform, so that one can see the same accounts disappear from all of
//! them.

use std::{fs, io, path::PathBuf, thread};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use tempfile::TempDir;

use crate::embedded::{EmbeddedError, Mariadb, Options, Rabbitmq, Server};

/// Records of each account in each place.
const EACH: i32 = 5;
/// Where the objects of an account are, in a folder of its own.
const FOLDER: &str = "backups";
/// What the queue of an account is called, before its id.
const QUEUE: &str = "mps.";

/// Why a store could not be filled or counted.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// One of the databases.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The folder.
    #[error("the folder of objects: {0}")]
    Folder(#[from] io::Error),
    /// The broker.
    #[cfg(feature = "amqp")]
    #[error("the broker: {0}")]
    Broker(#[from] lapin::Error),
}

/// Servers of the other stores. They end with this value.
#[derive(Debug)]
pub struct Stores {
    archive: Server,
    media: Option<Mariadb>,
    broker: Option<Rabbitmq>,
    backups: TempDir,
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
    all: Vec<String>,
    configuration: Vec<String>,
    queue: Vec<String>,
}

impl Stores {
    /// Starts the servers. Blocks.
    ///
    /// # Errors
    /// When one that is installed does not come up.
    pub fn start() -> Result<Self, EmbeddedError> {
        let backups = tempfile::Builder::new().prefix("retentiond-backups-").tempdir();
        let backups = backups.map_err(|source| EmbeddedError::Io { doing: "make a temporary folder".to_owned(), source })?;
        let archive = Server::start(&Options::default())?;
        // A broker takes a while to come up; the others do so meanwhile.
        let broker = thread::spawn(Rabbitmq::start);
        let media = Mariadb::start()?;
        let broker = broker.join().unwrap_or(Ok(None))?;
        Ok(Self { archive, media, broker, backups })
    }

    /// The stores that cannot be had on this machine, each with the reason.
    #[must_use]
    pub fn left_out(&self) -> Vec<&'static str> {
        let mut left_out = Vec::new();
        let mut unless = |built: bool, there: bool, without: &'static str, missing: &'static str| {
            if !built {
                left_out.push(without);
            } else if !there {
                left_out.push(missing);
            }
        };
        let (mysql, amqp) = (self.media.is_some(), self.broker.is_some());
        unless(cfg!(feature = "objects"), true, "objects: built without it", "");
        unless(
            cfg!(feature = "mysql"),
            mysql,
            "mysql: built without it",
            "mysql: MariaDB is not installed (Debian: apt-get install mariadb-server)",
        );
        unless(
            cfg!(feature = "amqp"),
            amqp,
            "amqp: built without it",
            "amqp: RabbitMQ is not installed (Debian: apt-get install rabbitmq-server)",
        );
        left_out.push("mongodb: there is no server to be found on this machine that a demo could start");
        left_out.push("cmq: it is a service of Tencent Cloud");
        left_out
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
        let mut targets: Vec<(&str, String)> = targets
            .into_iter()
            .map(|(class, store, table)| (class, format!("store = \"{store}\"\ntable = \"{table}\"\naccount_column = \"account_id\"")))
            .collect();
        if cfg!(feature = "objects") {
            let root = self.backups.path().display();
            stores = format!("{stores}\n[stores.backups]\nkind = \"objects\"\nservice = \"fs\"\nroot = \"{root}\"\n");
            targets.push(("configuration", format!("store = \"backups\"\nprefix = \"{FOLDER}/{{account_id}}/\"")));
        }
        if let Some(broker) = self.broker.as_ref().filter(|_| cfg!(feature = "amqp")) {
            stores = format!("{stores}\n[stores.broker]\nkind = \"amqp\"\nurl = \"{}\"\n", broker.url("all"));
            targets.push(("queue", format!("store = \"broker\"\nqueue = \"{QUEUE}{{account_id}}\"")));
        }
        for (class, target) in targets {
            let target = format!("[[data_classes.targets]]\n{target}\n\n");
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
    /// Those of the stores.
    pub async fn fill(&self, platform: &mut PgConnection) -> Result<(), SampleError> {
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
        for account in &accounts {
            let folder = self.folder().join(account);
            fs::create_dir_all(&folder)?;
            (1..=EACH).try_for_each(|n| fs::write(folder.join(format!("{n}.json")), "{}"))?;
        }
        #[cfg(feature = "amqp")]
        if let Some(broker) = &self.broker {
            broker::fill(&broker.url("all"), &accounts).await?;
        }
        Ok(())
    }

    /// Counts what is there now.
    ///
    /// # Errors
    /// Those of the stores.
    pub async fn census(&self, due: &Due) -> Result<Vec<Count>, SampleError> {
        let mut archive = PgConnection::connect(&self.archive.url("postgres")).await?;
        let rows: Vec<String> = sqlx::query_scalar("select account_id from queue_archive").fetch_all(&mut archive).await?;
        let mut counts = vec![Count::of("archive/queue_archive", &rows, &due.queue)];
        #[cfg(feature = "mysql")]
        if let Some(media) = &self.media {
            let mut conn = sqlx::MySqlConnection::connect(&media.url("media")).await?;
            let rows: Vec<String> = sqlx::query_scalar("select account_id from task_events").fetch_all(&mut conn).await?;
            counts.push(Count::of("media_db/task_events", &rows, &due.configuration));
        }
        if cfg!(feature = "objects") {
            let mut files = Vec::new();
            // A folder that is gone has no files.
            for account in &due.all {
                let found = fs::read_dir(self.folder().join(account)).map_or(0, Iterator::count);
                files.extend(vec![account.clone(); found]);
            }
            counts.push(Count::of(&format!("backups/{FOLDER}/{{account_id}}/"), &files, &due.configuration));
        }
        #[cfg(feature = "amqp")]
        if let Some(broker) = &self.broker {
            let messages = broker::census(&broker.url("all"), &due.all).await?;
            counts.push(Count::of(&format!("broker/{QUEUE}{{account_id}}"), &messages, &due.queue));
        }
        Ok(counts)
    }

    fn folder(&self) -> PathBuf {
        self.backups.path().join(FOLDER)
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
            all: sqlx::query_scalar("select account_id from accounts order by 1").fetch_all(&mut *platform).await?,
            configuration: sqlx::query_scalar(AssertSqlSafe(configuration)).fetch_all(&mut *platform).await?,
            queue: sqlx::query_scalar(AssertSqlSafe(queue)).fetch_all(platform).await?,
        })
    }
}

/// Queues of each account's own.
#[cfg(feature = "amqp")]
mod broker {
    use lapin::{
        BasicProperties, Connection, ConnectionProperties, Error, ErrorKind,
        options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
        protocol::{AMQPErrorKind, AMQPSoftError},
        types::FieldTable,
    };

    use super::{EACH, QUEUE};

    pub(super) async fn fill(url: &str, accounts: &[String]) -> Result<(), Error> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let mut sent = Vec::new();
        for account in accounts {
            let queue = format!("{QUEUE}{account}");
            channel
                .queue_declare(queue.as_str().into(), QueueDeclareOptions { durable: true, ..Default::default() }, FieldTable::default())
                .await?;
            for _ in 0..EACH {
                let publish = channel.basic_publish(
                    "".into(),
                    queue.as_str().into(),
                    BasicPublishOptions::default(),
                    b"{}",
                    BasicProperties::default(),
                );
                sent.push(publish.await?);
            }
        }
        for confirm in sent {
            confirm.await?;
        }
        connection.close(200, "".into()).await
    }

    /// The account of each message that waits.
    pub(super) async fn census(url: &str, accounts: &[String]) -> Result<Vec<String>, Error> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let mut messages = Vec::new();
        for account in accounts {
            // A channel ends with an error.
            let channel = connection.create_channel().await?;
            let queue = channel.queue_declare(format!("{QUEUE}{account}").into(), passive, FieldTable::default()).await;
            let gone = |error: &Error| matches!(error.kind(), ErrorKind::ProtocolError(e) if matches!(e.kind(), AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)));
            match queue {
                Ok(queue) => messages.extend((0..queue.message_count()).map(|_| account.clone())),
                Err(error) if gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        connection.close(200, "".into()).await?;
        Ok(messages)
    }
}

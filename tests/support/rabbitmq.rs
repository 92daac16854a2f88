//! A RabbitMQ of our own: found among the installed programs, on loopback, gone with its name server and its folder when we are gone.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::chown, process::CommandExt},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer,
    options::{BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};

use crate::pgbouncer::stand_in;

/// The end of the pipe is the end of the server: however we end, the pipe does.
const UNTIL_THE_PIPE_ENDS: &str = r#"set -m
( epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 & exec "$1" ) </dev/null &
read -r _
kill -9 -- -$!
wait
rm -rf "$2""#;

/// A running RabbitMQ.
pub(crate) struct Rabbitmq {
    /// Who watches the pipe.
    watcher: Child,
    pub(crate) port: u16,
    folder: PathBuf,
}

/// The server, if it is installed.
pub(crate) fn installed() -> Option<PathBuf> {
    // What Debian has on the path changes to a user of its own.
    let versions = fs::read_dir("/usr/lib/rabbitmq/lib").ok()?;
    versions.filter_map(|version| Some(version.ok()?.path().join("sbin/rabbitmq-server"))).find(|server| server.is_file())
}

impl Rabbitmq {
    /// Starts a server with an empty folder. `all` may do everything, `none` nothing but connect; each has its name for a password.
    pub(crate) fn start(server: &PathBuf) -> Self {
        let folder = tempfile::Builder::new().prefix("retentiond-rabbitmq-").tempdir().expect("a temporary folder").keep();
        let place = |name: &str| folder.join(name).display().to_string();
        let ports = [(); 3].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
        let [port, distribution, names] = ports.each_ref().map(|port| port.local_addr().expect("a free port").port());
        drop(ports);
        let users = r#"{"vhosts": [{"name": "/"}],
            "users": [{"name": "all", "password": "all", "tags": ""}, {"name": "none", "password": "none", "tags": ""}],
            "permissions": [{"user": "all", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
                            {"user": "none", "vhost": "/", "configure": "", "write": "", "read": ""}]}"#;
        let settings = format!(
            "listeners.tcp.1 = 127.0.0.1:{port}\nload_definitions = {}\ndisk_free_limit.absolute = 1MB\nnum_acceptors.tcp = 2\n",
            place("users.json")
        );
        for (name, text) in [("users.json", users), ("rabbitmq.conf", settings.as_str()), ("plugins", "[].\n"), ("env.conf", "")] {
            fs::write(folder.join(name), text).expect("a file of RabbitMQ");
        }
        let log = fs::File::options().create(true).append(true).open(folder.join("log")).expect("a log file");
        let mut watcher = Command::new("bash");
        watcher
            .args(["-c", UNTIL_THE_PIPE_ENDS, "rabbitmq"])
            .arg(server)
            .arg(&folder)
            .current_dir(&folder)
            .envs([("HOME", place("")), ("RABBITMQ_NODENAME", format!("retentiond{port}@localhost"))])
            .envs([("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1"), ("ERL_EPMD_ADDRESS", "127.0.0.1"), ("RABBITMQ_ALLOW_INPUT", "true")])
            .envs(
                [("RABBITMQ_NODE_PORT", port), ("RABBITMQ_DIST_PORT", distribution), ("ERL_EPMD_PORT", names)]
                    .map(|(n, p)| (n, p.to_string())),
            )
            .envs([("RABBITMQ_MNESIA_BASE", place("data")), ("RABBITMQ_LOG_BASE", place("logs"))])
            .envs([("RABBITMQ_CONFIG_FILE", place("rabbitmq.conf")), ("RABBITMQ_ENABLED_PLUGINS_FILE", place("plugins"))])
            .envs([("RABBITMQ_CONF_ENV_FILE", place("env.conf")), ("RABBITMQ_PID_FILE", place("pid"))])
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-noinput -kernel inet_dist_use_interface {127,0,0,1}")
            .stdin(Stdio::piped())
            .process_group(0)
            .stdout(log.try_clone().expect("the log file"))
            .stderr(log);
        if let Some((uid, gid)) = stand_in() {
            chown(&folder, Some(uid), Some(gid)).expect("a folder that RabbitMQ may use");
            watcher.uid(uid).gid(gid);
        }
        let watcher = watcher.spawn().expect("bash starts");
        let started = Self { watcher, port, folder };
        let deadline = Instant::now() + Duration::from_mins(2);
        while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(Instant::now() < deadline, "RabbitMQ does not listen: {}", started.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        started
    }

    /// Its address for a user.
    pub(crate) fn url(&self, user: &str) -> String {
        format!("amqp://{user}:{user}@127.0.0.1:{}/%2f", self.port)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Rabbitmq {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        let _gone = self.watcher.wait();
    }
}

/// A connection of somebody else's.
pub(crate) struct Visitor {
    connection: Connection,
    channel: Channel,
}

impl Visitor {
    pub(crate) async fn new(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { connection, channel }
    }

    /// Declares a queue, for this connection alone if asked to, and puts so many messages there.
    pub(crate) async fn put(&self, queue: &str, messages: i64, exclusive: bool) {
        let options = QueueDeclareOptions { durable: true, exclusive, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
        for _ in 0..messages {
            let properties = BasicProperties::default().with_delivery_mode(2);
            let sent =
                self.channel.basic_publish("".into(), queue.into(), BasicPublishOptions::default(), b"not to be logged", properties).await;
            sent.unwrap().await.unwrap();
        }
    }

    /// Deletes a queue.
    pub(crate) async fn delete(&self, queue: &str) {
        self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    }

    /// Messages that wait, if there is such a queue.
    pub(crate) async fn look(&self, queue: &str) -> Option<i64> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let channel = self.connection.create_channel().await.unwrap();
        match channel.queue_declare(queue.into(), passive, FieldTable::default()).await {
            Ok(found) => Some(found.message_count().into()),
            Err(error) => {
                assert!(error.to_string().contains("NOT_FOUND - no queue"), "{error}");
                None
            }
        }
    }

    /// Fetches one message at a time and acknowledges none.
    pub(crate) async fn hold_one(&self, queue: &str) -> Consumer {
        self.channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
        self.channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await.unwrap()
    }

    pub(crate) async fn leave(self) {
        // A channel that is closing too makes this an error, and the connection closes all the same.
        let _gone = self.connection.close(200, "".into()).await;
    }
}

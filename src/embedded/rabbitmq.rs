//! A RabbitMQ of our own, for the demo and the tests: found among the installed programs, in a temporary folder, on loopback. It ends with this value, or
//! with this process, and its name server too.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpStream},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Instant,
};

use super::{EmbeddedError, PATIENCE, PAUSE, User, free_port, io_error, own};

/// Runs the server and its name server until the script's own input ends, which it does with whoever holds the other end. Then the folder goes as well.
const LEASH: &str = r#"set -m
( epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 & exec "$1" ) </dev/null &
read -r _
kill -9 -- -$!
wait
rm -rf -- "$2""#;
/// `all` may do everything, `none` nothing but connect; each has its name for a password.
const USERS: &str = r#"{"vhosts": [{"name": "/"}],
    "users": [{"name": "all", "password": "all", "tags": ""}, {"name": "none", "password": "none", "tags": ""}],
    "permissions": [{"user": "all", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
                    {"user": "none", "vhost": "/", "configure": "", "write": "", "read": ""}]}"#;

/// A running RabbitMQ.
#[derive(Debug)]
pub struct Rabbitmq {
    leash: Child,
    port: u16,
}

impl Rabbitmq {
    /// Whether the programs are installed.
    #[must_use]
    pub fn is_installed() -> bool {
        program().is_some()
    }

    /// Makes a folder, starts a broker on it, and returns once it accepts connections; `None` where it is not installed. Blocks.
    ///
    /// # Errors
    /// When there is no user to run it, no folder for it, or it does not come up.
    pub fn start() -> Result<Option<Self>, EmbeddedError> {
        let Some(server) = program() else { return Ok(None) };
        let user = User::choose()?;
        let folder = tempfile::Builder::new().prefix("retentiond-rabbitmq-").tempdir().map_err(io_error("make a temporary folder"))?;
        own(folder.path(), 0o700, user.as_ref())?;
        let place = |name: &str| folder.path().join(name).display().to_string();
        let (port, distribution, names) = (free_port()?, free_port()?, free_port()?);
        let settings = format!(
            "listeners.tcp.1 = 127.0.0.1:{port}\nload_definitions = {}\ndisk_free_limit.absolute = 1MB\nnum_acceptors.tcp = 2\n",
            place("users.json")
        );
        for (name, text) in [("users.json", USERS), ("rabbitmq.conf", &settings), ("plugins", "[].\n"), ("env.conf", "")] {
            fs::write(place(name), text).map_err(io_error("write the settings of RabbitMQ"))?;
        }
        let output = File::options().create(true).append(true).open(place("log")).map_err(io_error("make the log of RabbitMQ"))?;
        let mut leash = Command::new("bash");
        leash
            .args(["-c", LEASH, "retentiond-rabbitmq"])
            .arg(server)
            .arg(folder.path())
            .current_dir(folder.path())
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
            .stdout(output.try_clone().map_err(io_error("share the log of RabbitMQ"))?)
            .stderr(output);
        if let Some(user) = &user {
            leash.uid(user.uid).gid(user.gid);
        }
        let leash = leash.spawn().map_err(io_error("run bash, which starts RabbitMQ"))?;
        // From here on the shell removes it.
        let (log, _kept) = (place("log"), folder.keep());
        let mut started = Self { leash, port };
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if let Some(status) = started.leash.try_wait().map_err(io_error("wait for RabbitMQ"))? {
                return Err(EmbeddedError::Ended { status, log: fs::read_to_string(&log).unwrap_or_default() });
            }
            if begun.elapsed() > PATIENCE {
                return Err(EmbeddedError::Slow { log: fs::read_to_string(&log).unwrap_or_default() });
            }
            thread::sleep(PAUSE);
        }
        Ok(Some(started))
    }

    /// Its address for a user: `all` or `none`.
    #[must_use]
    pub fn url(&self, user: &str) -> String {
        format!("amqp://{user}:{user}@127.0.0.1:{}/%2f", self.port)
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Rabbitmq {
    fn drop(&mut self) {
        drop(self.leash.stdin.take());
        let _best_effort = self.leash.wait();
    }
}

/// The server. What Debian has on the path changes to a user of its own.
fn program() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/rabbitmq/lib").ok()?;
    versions.filter_map(|version| Some(version.ok()?.path().join("sbin/rabbitmq-server"))).find(|server| server.is_file())
}

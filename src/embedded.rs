//! A Postgres of our own: found among the installed binaries, started on loopback, gone when its owner is gone.
//! For the demo and the tests. Not for production: the daemon never keeps its records in one.

mod mariadb;
mod rabbitmq;

use std::{
    fs::{self, File, Permissions},
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use thiserror::Error;

pub use mariadb::Mariadb;
pub use rabbitmq::Rabbitmq;

const PACKAGED: &str = "/usr/lib/postgresql";
const PATIENCE: Duration = Duration::from_mins(3);
const PAUSE: Duration = Duration::from_millis(10);

/// The shell that outlives us. It reads a pipe of which we hold the only writing end: a word there dismisses it, the
/// end of the file means that we are gone, however that came about, and Postgres and its temporary folder go as well.
/// The parent-death signal of Linux would not do: it fires when the starting *thread* ends, and leaves the folder.
const WATCH: &str = r#"
read -r dismissed && exit
data=$1/data
# A process id may have been given to somebody else since; only Postgres works in its data folder.
alive() { [ "$(readlink "/proc/$postmaster/cwd")" = "$data" ]; }
read -r postmaster <"$data/postmaster.pid" && alive && kill -INT "$postmaster"
tries=0
while alive && [ "$tries" -lt 300 ]; do sleep 0.1; tries=$((tries + 1)); done
[ "$2" = temporary ] && rm -rf -- "$1"
"#;

/// How a [`Server`] is to be started. The default is a fresh, durable cluster that disappears at the end.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of the cluster, made when missing and kept at the end; `None` is a temporary one.
    pub dir: Option<PathBuf>,
    /// The folder that holds `initdb` and `postgres`; `None` looks under `/usr/lib/postgresql`, then on `PATH`.
    pub bin: Option<PathBuf>,
    /// Whether writes reach the disk. Without it a crash of Postgres loses nothing, a crash of the machine everything.
    pub durable: bool,
    /// More settings (`name`, `value`), stronger than ours.
    pub settings: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { dir: None, bin: None, durable: true, settings: Vec::new() }
    }
}

/// Why there is no server.
#[derive(Debug, Error)]
pub enum EmbeddedError {
    /// Postgres is not installed where we looked.
    #[error(
        "no PostgreSQL server binaries (initdb and postgres) in {looked}: install them, on Debian with \
         `apt-get install postgresql-15`, or name the folder that holds them"
    )]
    NoBinaries {
        /// The places that were tried.
        looked: String,
    },
    /// Postgres refuses to run as root, and there is nobody else to run it as.
    #[error("running as root, and neither user postgres nor user nobody exists to run PostgreSQL as")]
    NoUser,
    /// The user that Postgres runs as may not enter a folder on the way to the cluster.
    #[error("user {user} may not enter {}: choose a folder for the cluster that it can reach", folder.display())]
    Unreachable {
        /// The user that was chosen.
        user: String,
        /// The folder that stops it.
        folder: PathBuf,
    },
    /// The folder holds something that is not a cluster of ours.
    #[error("{} is not empty and holds no cluster: choose an empty folder", folder.display())]
    Occupied {
        /// The folder that was named.
        folder: PathBuf,
    },
    /// The folder holds a cluster of another major version.
    #[error(
        "{} was made by PostgreSQL {found} and the binaries are of {installed}: use those of {found}, convert it \
         with pg_upgrade, or choose an empty folder", folder.display()
    )]
    Version {
        /// The cluster's folder.
        folder: PathBuf,
        /// The major version that made it.
        found: String,
        /// The major version of the binaries.
        installed: String,
    },
    /// `initdb` failed.
    #[error("initdb ended with {status}: {output}")]
    Initdb {
        /// How it ended.
        status: ExitStatus,
        /// What it wrote.
        output: String,
    },
    /// The server ended before it accepted connections.
    #[error("the server ended with {status}; its last words:\n{log}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// The server accepts no connections.
    #[error("the server is not ready after {} s; its last words:\n{log}", PATIENCE.as_secs())]
    Slow {
        /// The end of its log.
        log: String,
    },
    /// A file or a process would not do as told.
    #[error("cannot {doing}")]
    Io {
        /// What was attempted.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A running Postgres that listens on 127.0.0.1 only and ends with this value, or with this process.
#[derive(Debug)]
pub struct Server {
    // Dropped in this order: Postgres stops, the watch is dismissed, the folder goes.
    postmaster: Postmaster,
    _watch: Watch,
    home: Home,
    port: u16,
    password: String,
}

impl Server {
    /// Starts a cluster, made first when there is none, and returns once it accepts connections. Blocks.
    ///
    /// # Errors
    /// When the binaries, a user to run them, or a usable folder are missing, or Postgres does not come up.
    pub fn start(options: &Options) -> Result<Self, EmbeddedError> {
        let bin = find_binaries(options.bin.as_deref())?;
        let user = User::choose()?;
        let home = Home::open(options.dir.as_deref(), user.as_ref())?;
        let watch = Watch::over(&home)?;
        let programs = Programs { bin: &bin, user: user.as_ref() };
        let password = programs.initialize(&home, options.durable)?;
        let mut last = None;
        // Between finding a free port and binding it, somebody else may take it.
        for _ in 0..5 {
            let port = free_port()?;
            match programs.serve(&home, port, options) {
                Ok(postmaster) => {
                    return Ok(Self { postmaster, _watch: watch, home, port, password });
                }
                Err(EmbeddedError::Ended { status, log }) if log.contains("could not bind") => {
                    last = Some(EmbeddedError::Ended { status, log });
                }
                Err(other) => return Err(other),
            }
        }
        Err(last.unwrap_or(EmbeddedError::Slow { log: String::new() }))
    }

    /// The address of `database`, password included, as the superuser `postgres`.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres:{}@{}:{}/{database}", self.password, Ipv4Addr::LOCALHOST, self.port)
    }

    /// The process id of the postmaster.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.postmaster.0.id()
    }

    /// The folder that holds the cluster and its log.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.home.path()
    }

    /// Shuts Postgres down and removes its temporary folder. Dropping does the same, but tells of no failure.
    ///
    /// # Errors
    /// When Postgres cannot be signalled or its folder not removed.
    pub fn stop(mut self) -> Result<(), EmbeddedError> {
        self.postmaster.stop().map_err(io_error("stop postgres"))?;
        match self.home {
            Home::Temporary(dir) => dir.close().map_err(io_error("remove the temporary cluster")),
            Home::Kept(_) => Ok(()),
        }
    }
}

/// The folder of a cluster: `data`, `postgres-password`, `postgres.log`.
#[derive(Debug)]
enum Home {
    Temporary(TempDir),
    Kept(PathBuf),
}

impl Home {
    fn open(dir: Option<&Path>, user: Option<&User>) -> Result<Self, EmbeddedError> {
        let home = match dir {
            None => Self::temporary().map_err(io_error("make a temporary folder"))?,
            Some(dir) => {
                fs::create_dir_all(dir).map_err(io_error(format!("make {}", dir.display())))?;
                Self::Kept(dir.canonicalize().map_err(io_error(format!("find {}", dir.display())))?)
            }
        };
        // A folder that holds anything else must keep its owner and mode.
        let listing = || fs::read_dir(home.path()).map(|mut entries| entries.next().is_none());
        if !home.secret().exists() && !listing().map_err(io_error(format!("list {}", home.path().display())))? {
            return Err(EmbeddedError::Occupied { folder: home.path().to_owned() });
        }
        own(home.path(), 0o700, user)?;
        if let Some(user) = user {
            user.can_reach(home.path())?;
        }
        Ok(home)
    }

    fn temporary() -> io::Result<Self> {
        // Without symbolic links, because the watch compares it with where Postgres works.
        let parent = std::env::temp_dir().canonicalize()?;
        tempfile::Builder::new().prefix("retentiond-pg-").tempdir_in(parent).map(Self::Temporary)
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Kept(dir) => dir,
        }
    }

    fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    fn secret(&self) -> PathBuf {
        self.path().join("postgres-password")
    }

    fn last_words(&self) -> String {
        let log = fs::read(self.path().join("postgres.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

/// Whom Postgres runs as when we are root, which it refuses to be.
#[derive(Debug)]
struct User {
    name: &'static str,
    uid: u32,
    gid: u32,
}

impl User {
    fn choose() -> Result<Option<Self>, EmbeddedError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let known = fs::read_to_string("/etc/passwd").map_err(io_error("read /etc/passwd"))?;
        ["postgres", "nobody"].into_iter().find_map(|name| Self::find(name, &known)).map(Some).ok_or(EmbeddedError::NoUser)
    }

    fn find(name: &'static str, passwd: &str) -> Option<Self> {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next()? != name {
                return None;
            }
            Some(Self { name, uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
        })
    }

    fn can_reach(&self, path: &Path) -> Result<(), EmbeddedError> {
        for folder in path.ancestors() {
            let meta = fs::metadata(folder).map_err(io_error(format!("look at {}", folder.display())))?;
            let bit = if meta.uid() == self.uid {
                0o100
            } else if meta.gid() == self.gid {
                0o010
            } else {
                0o001
            };
            if meta.mode() & bit == 0 {
                return Err(EmbeddedError::Unreachable { user: self.name.to_owned(), folder: folder.to_owned() });
            }
        }
        Ok(())
    }
}

/// The installed binaries, run as the chosen user.
struct Programs<'a> {
    bin: &'a Path,
    user: Option<&'a User>,
}

impl Programs<'_> {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        // Nobody's PGDATA or locale reaches our cluster; initdb fails in a folder that its user cannot read. In a
        // process group of its own, Postgres is stopped by us and not by the reader's Ctrl-C before us.
        command
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "LD_LIBRARY_PATH"))
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null())
            .process_group(0);
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    /// Makes the cluster unless it is there; returns its password.
    fn initialize(&self, home: &Home, durable: bool) -> Result<String, EmbeddedError> {
        let (data, secret) = (home.data(), home.secret());
        if data.join("PG_VERSION").exists() {
            self.same_major(&data)?;
            return fs::read_to_string(&secret).map_err(io_error(format!("read {}", secret.display())));
        }
        let password = random_password().map_err(io_error("read /dev/urandom"))?;
        fs::write(&secret, &password).map_err(io_error(format!("write {}", secret.display())))?;
        own(&secret, 0o600, self.user)?;
        // Made aside and renamed, so that an initdb that was killed never looks like a cluster.
        let aside = home.path().join("data.new");
        let _absent = fs::remove_dir_all(&aside);
        let output = self
            .command("initdb")
            .args(["-U", "postgres", "-E", "UTF8", "--locale=C", "--auth=scram-sha-256", "--data-checksums"])
            .args((!durable).then_some("--no-sync"))
            .arg("--pwfile")
            .arg(&secret)
            .arg("-D")
            .arg(&aside)
            .output()
            .map_err(io_error("run initdb"))?;
        if !output.status.success() {
            let output_text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(EmbeddedError::Initdb { status: output.status, output: output_text });
        }
        fs::rename(&aside, &data).map_err(io_error("name the new cluster"))?;
        Ok(password)
    }

    fn same_major(&self, data: &Path) -> Result<(), EmbeddedError> {
        let found = fs::read_to_string(data.join("PG_VERSION")).map_err(io_error("read PG_VERSION"))?;
        let version = self.command("postgres").arg("--version").output().map_err(io_error("run postgres"))?;
        let version = String::from_utf8_lossy(&version.stdout);
        let installed = version.split_whitespace().nth(2).and_then(|v| v.split('.').next()).unwrap_or("unknown");
        if found.trim() == installed {
            return Ok(());
        }
        Err(EmbeddedError::Version { folder: data.to_owned(), found: found.trim().to_owned(), installed: installed.to_owned() })
    }

    /// Starts Postgres and waits until it accepts connections.
    fn serve(&self, home: &Home, port: u16, options: &Options) -> Result<Postmaster, EmbeddedError> {
        let log = File::create(home.path().join("postgres.log")).map_err(io_error("make postgres.log"))?;
        let mut settings: Vec<(&str, &str)> = vec![
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", ""),
            ("logging_collector", "off"),
            ("max_connections", "200"),
            ("shared_buffers", "64MB"),
            ("jit", "off"),
        ];
        if !options.durable {
            // synchronous_commit stays on: a killed Postgres must still lose nothing that was acknowledged.
            settings.extend([("fsync", "off"), ("full_page_writes", "off")]);
        }
        settings.extend(options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let child = self
            .command("postgres")
            .arg("-D")
            .arg(home.data())
            .args(["-p", &port.to_string()])
            .args(settings.iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]))
            .stdout(log.try_clone().map_err(io_error("share postgres.log"))?)
            .stderr(log)
            .spawn()
            .map_err(io_error("start postgres"))?;
        let mut postmaster = Postmaster(child);
        let begun = Instant::now();
        while !postmaster.ready(&home.data()) {
            if let Some(status) = postmaster.0.try_wait().map_err(io_error("wait for postgres"))? {
                return Err(EmbeddedError::Ended { status, log: home.last_words() });
            }
            if begun.elapsed() > PATIENCE {
                return Err(EmbeddedError::Slow { log: home.last_words() });
            }
            thread::sleep(PAUSE);
        }
        Ok(postmaster)
    }
}

/// The server process, stopped when dropped.
#[derive(Debug)]
struct Postmaster(Child);

impl Postmaster {
    /// Postgres writes its process id into the first line of this file, and its state into the eighth.
    fn ready(&self, data: &Path) -> bool {
        let Ok(pidfile) = fs::read_to_string(data.join("postmaster.pid")) else { return false };
        let mut lines = pidfile.lines().map(str::trim);
        lines.next() == Some(self.0.id().to_string().as_str()) && lines.nth(6) == Some("ready")
    }

    /// Ends sessions and shuts down cleanly; what does not end within a minute is ended without a checkpoint.
    fn stop(&mut self) -> io::Result<()> {
        for signal in [Signal::INT, Signal::QUIT] {
            if self.0.try_wait()?.is_some() {
                return Ok(());
            }
            kill_process(Pid::from_child(&self.0), signal)?;
            let begun = Instant::now();
            while begun.elapsed() < PATIENCE {
                if self.0.try_wait()?.is_some() {
                    return Ok(());
                }
                thread::sleep(PAUSE);
            }
        }
        self.0.kill()?;
        self.0.wait().map(drop)
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        let _best_effort = self.stop();
    }
}

/// The shell of [`WATCH`], dismissed when dropped.
#[derive(Debug)]
struct Watch(Child);

impl Watch {
    fn over(home: &Home) -> Result<Self, EmbeddedError> {
        let fate = match home {
            Home::Temporary(_) => "temporary",
            Home::Kept(_) => "kept",
        };
        Command::new("/bin/sh")
            .args(["-c", WATCH, "retentiond-embedded-watch"])
            .arg(home.path())
            .arg(fate)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map(Self)
            .map_err(io_error("start the watch over postgres"))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.0.stdin.take() {
            let _best_effort = pipe.write_all(b"dismissed\n");
        }
        let _best_effort = self.0.wait();
    }
}

fn find_binaries(given: Option<&Path>) -> Result<PathBuf, EmbeddedError> {
    let complete = |dir: &PathBuf| ["initdb", "postgres"].iter().all(|program| dir.join(program).is_file());
    if let Some(dir) = given {
        // Absolute, because the programs run elsewhere than we do.
        return dir.canonicalize().ok().filter(complete).ok_or_else(|| EmbeddedError::NoBinaries { looked: dir.display().to_string() });
    }
    let mut packaged: Vec<(u32, PathBuf)> = fs::read_dir(PACKAGED)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    packaged.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    let path = std::env::var_os("PATH").unwrap_or_default();
    packaged
        .into_iter()
        .map(|(_, dir)| dir)
        .chain(std::env::split_paths(&path).filter(|dir| dir.is_absolute()))
        .find(complete)
        .ok_or_else(|| EmbeddedError::NoBinaries { looked: format!("{PACKAGED}/*/bin or on PATH") })
}

fn free_port() -> Result<u16, EmbeddedError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(io_error("find a free port on 127.0.0.1"))
}

fn random_password() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(hex::encode(bytes))
}

fn own(path: &Path, mode: u32, user: Option<&User>) -> Result<(), EmbeddedError> {
    let doing = || format!("take {} into possession", path.display());
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(io_error(doing()))?;
    user.map_or(Ok(()), |user| chown(path, Some(user.uid), Some(user.gid))).map_err(io_error(doing()))
}

fn io_error(doing: impl Into<String>) -> impl FnOnce(io::Error) -> EmbeddedError {
    move |source| EmbeddedError::Io { doing: doing.into(), source }
}

#[cfg(test)]
mod tests;

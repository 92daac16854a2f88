//! A pgbouncer of our own in transaction mode: found among the installed programs, on loopback, gone when its owner is gone.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Where it pools to.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) password: String,
}

impl Upstream {
    /// Reads an address like `postgres://user:password@host:port/database?parameters`.
    pub(crate) fn of(url: &str) -> Self {
        let authority = url.split_once("://").expect("an address").1.split(['/', '?']).next().unwrap_or_default();
        let (login, place) = authority.rsplit_once('@').expect("an address with a user");
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (host, port) = place.split_once(':').unwrap_or((place, "5432"));
        Self { host: host.to_owned(), port: port.parse().expect("a port"), user: user.to_owned(), password: password.to_owned() }
    }
}

/// A running pgbouncer.
pub(crate) struct Pgbouncer {
    child: Child,
    program: PathBuf,
    pub(crate) port: u16,
    folder: tempfile::TempDir,
}

/// The program, if it is installed.
pub(crate) fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join("pgbouncer")).find(|program| program.is_file())
}

impl Pgbouncer {
    /// Starts it with so many sessions of the server at most, and waits until it listens.
    pub(crate) fn start(program: &Path, to: &Upstream, sessions: u16) -> Self {
        let folder = tempfile::Builder::new().prefix("retentiond-pgbouncer-").tempdir().expect("a temporary folder");
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port").port();
        let users = folder.path().join("users.txt");
        let settings = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = {sessions}\nmax_client_conn = 500\n\
             server_login_retry = 1\nserver_connect_timeout = 3\nlog_connections = 0\nlog_disconnections = 0\n",
            to.host,
            to.port,
            users.display()
        );
        fs::write(folder.path().join("pgbouncer.ini"), settings).expect("pgbouncer.ini");
        fs::write(&users, format!("\"{}\" \"{}\"\n", to.user, to.password)).expect("users.txt");
        if let Some((uid, gid)) = stand_in() {
            for path in [folder.path(), &users, &folder.path().join("pgbouncer.ini")] {
                chown(path, Some(uid), Some(gid)).expect("a folder that pgbouncer may read");
            }
        }
        fs::set_permissions(&users, fs::Permissions::from_mode(0o600)).expect("users.txt for its owner alone");
        let child = spawn(program, folder.path());
        let started = Self { child, program: program.to_owned(), port, folder };
        started.wait();
        started
    }

    /// Kills it and starts it again on the same port.
    pub(crate) fn restart(&mut self) {
        self.end();
        self.child = spawn(&self.program, self.folder.path());
        self.wait();
    }

    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            assert!(Instant::now() < deadline, "pgbouncer does not listen: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn end(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Drop for Pgbouncer {
    fn drop(&mut self) {
        self.end();
    }
}

fn spawn(program: &Path, folder: &Path) -> Child {
    let log = fs::File::options().create(true).append(true).open(folder.join("log")).expect("a log file");
    let mut command = Command::new(program);
    command.arg("-q").arg(folder.join("pgbouncer.ini")).current_dir("/").stdin(Stdio::null()).process_group(0);
    command.stdout(log.try_clone().expect("the log file")).stderr(log);
    // Like Postgres, it refuses to run as root.
    if let Some((uid, gid)) = stand_in() {
        command.uid(uid).gid(gid);
    }
    command.spawn().expect("pgbouncer starts")
}

/// Whom servers run as when we are root: user and group.
pub(crate) fn stand_in() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let known = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    ["postgres", "nobody"].into_iter().find_map(|name| {
        let mut fields = known.lines().find(|line| line.split(':').next() == Some(name))?.split(':');
        Some((fields.nth(2)?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

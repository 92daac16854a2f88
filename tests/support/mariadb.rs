//! A MariaDB of our own: found among the installed programs, on loopback, gone when its owner is gone.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::pgbouncer::stand_in;

/// A running MariaDB.
pub(crate) struct Mariadb {
    child: Child,
    pub(crate) port: u16,
    folder: tempfile::TempDir,
}

/// The server and the program that makes its folder, if they are installed.
pub(crate) fn installed() -> Option<(PathBuf, PathBuf)> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]).collect();
    let find = |name: &str| folders.iter().map(|folder| folder.join(name)).find(|program| program.is_file());
    Some((find("mariadbd")?, find("mariadb-install-db")?))
}

impl Mariadb {
    /// Makes a folder and starts a server on it. Who connects is `root`, without a password.
    pub(crate) fn start((server, install): &(PathBuf, PathBuf)) -> Self {
        let folder = tempfile::Builder::new().prefix("retentiond-mariadb-").tempdir().expect("a temporary folder");
        if let Some((uid, gid)) = stand_in() {
            chown(folder.path(), Some(uid), Some(gid)).expect("a folder that MariaDB may use");
        }
        let data = format!("--datadir={}", folder.path().join("data").display());
        let made = like_nobody(install, folder.path())
            .args(["--no-defaults", &data, "--auth-root-authentication-method=normal", "--skip-test-db"])
            .status()
            .expect("mariadb-install-db starts");
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port").port();
        let place = |name: &str| folder.path().join(name).display().to_string();
        let child = like_nobody(server, folder.path())
            .args(["--no-defaults", &data, "--bind-address=127.0.0.1", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=2"])
            .args([format!("--socket={}", place("s")), format!("--pid-file={}", place("pid")), format!("--port={port}")])
            .spawn()
            .expect("mariadbd starts");
        let started = Self { child, port, folder };
        assert!(made.success(), "no folder for MariaDB: {}", started.log());
        let deadline = Instant::now() + Duration::from_mins(1);
        while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(Instant::now() < deadline, "MariaDB does not listen: {}", started.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        started
    }

    /// The address of one of its databases.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("mysql://root@127.0.0.1:{}/{database}", self.port)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Mariadb {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// A program that runs as whoever servers run as when we are root, with its output in a log.
fn like_nobody(program: &Path, folder: &Path) -> Command {
    let log = fs::File::options().create(true).append(true).open(folder.join("log")).expect("a log file");
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null()).process_group(0).stdout(log.try_clone().expect("the log file")).stderr(log);
    if let Some((uid, gid)) = stand_in() {
        command.uid(uid).gid(gid);
    }
    command
}

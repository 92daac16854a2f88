//! A MariaDB of our own, for the demo and the tests: found among the installed programs, in a temporary folder, on loopback. It ends with this value, or
//! with this process.

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

/// Runs the rest of its arguments until its own input ends, which it does with whoever holds the other end. Then the folder that it was given goes as well.
const LEASH: &str = r#"folder=$1; shift; exec 3<&0; "$@" </dev/null & child=$!; read -r _ <&3; kill "$child" 2>/dev/null; wait "$child"; rm -rf -- "$folder""#;

/// A running MariaDB. Who connects is `root`, without a password.
#[derive(Debug)]
pub struct Mariadb {
    leash: Child,
    port: u16,
}

impl Mariadb {
    /// Whether the programs are installed.
    #[must_use]
    pub fn is_installed() -> bool {
        programs().is_some()
    }

    /// Makes a folder, starts a server on it, and returns once it accepts connections; `None` where it is not installed. Blocks.
    ///
    /// # Errors
    /// When there is no user to run it, no folder for it, or it does not come up.
    pub fn start() -> Result<Option<Self>, EmbeddedError> {
        let Some((server, install)) = programs() else { return Ok(None) };
        let user = User::choose()?;
        let folder = tempfile::Builder::new().prefix("retentiond-mariadb-").tempdir().map_err(io_error("make a temporary folder"))?;
        own(folder.path(), 0o700, user.as_ref())?;
        let place = |name: &str| folder.path().join(name);
        let (log, data) = (place("log"), format!("--datadir={}", place("data").display()));
        let command = |program: &PathBuf| -> Result<Command, EmbeddedError> {
            let output = File::options().create(true).append(true).open(&log).map_err(io_error("make the log of MariaDB"))?;
            let mut command = Command::new(program);
            command
                .current_dir("/")
                .process_group(0)
                .stdout(output.try_clone().map_err(io_error("share the log of MariaDB"))?)
                .stderr(output);
            if let Some(user) = &user {
                command.uid(user.uid).gid(user.gid);
            }
            Ok(command)
        };
        let ended = |status| EmbeddedError::Ended { status, log: fs::read_to_string(&log).unwrap_or_default() };
        let made = command(&install)?
            .args(["--no-defaults", &data, "--auth-root-authentication-method=normal", "--skip-test-db"])
            .stdin(Stdio::null())
            .status()
            .map_err(io_error("run mariadb-install-db"))?;
        if !made.success() {
            return Err(ended(made));
        }
        let port = free_port()?;
        let leash = command(&PathBuf::from("/bin/sh"))?
            .args(["-c", LEASH, "retentiond-mariadb"])
            .args([folder.path(), &server])
            .args(["--no-defaults", &data, "--bind-address=127.0.0.1", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=2"])
            .args([
                format!("--socket={}", place("s").display()),
                format!("--pid-file={}", place("pid").display()),
                format!("--port={port}"),
            ])
            .stdin(Stdio::piped())
            .spawn()
            .map_err(io_error("start mariadbd"))?;
        // From here on the shell removes it.
        let _kept = folder.keep();
        let mut started = Self { leash, port };
        let begun = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if let Some(status) = started.leash.try_wait().map_err(io_error("wait for mariadbd"))? {
                return Err(ended(status));
            }
            if begun.elapsed() > PATIENCE {
                return Err(EmbeddedError::Slow { log: fs::read_to_string(&log).unwrap_or_default() });
            }
            thread::sleep(PAUSE);
        }
        Ok(Some(started))
    }

    /// The address of one of its databases.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("mysql://root@127.0.0.1:{}/{database}", self.port)
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Mariadb {
    fn drop(&mut self) {
        drop(self.leash.stdin.take());
        let _best_effort = self.leash.wait();
    }
}

/// The server and what makes its folder.
fn programs() -> Option<(PathBuf, PathBuf)> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]).collect();
    let find = |name: &str| folders.iter().map(|folder| folder.join(name)).find(|program| program.is_file());
    Some((find("mariadbd")?, find("mariadb-install-db")?))
}

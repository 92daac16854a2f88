//! A server that speaks like `MongoDB`: `SecantusDB`, found in the folder of the build, in memory, on loopback, gone when its owner is gone.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mongodb::{
    Client, Collection,
    bson::{Document, doc},
};

use crate::pgbouncer::stand_in;

/// A running server.
pub(crate) struct Secantus {
    /// Who watches the pipe.
    watcher: Child,
    pub(crate) port: u16,
    folder: tempfile::TempDir,
}

/// The program, if it is installed.
pub(crate) fn installed() -> Option<PathBuf> {
    Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/secantusdb/bin/secantusd-py")).filter(|program| program.is_file())
}

impl Secantus {
    /// Starts one and waits until it listens.
    pub(crate) fn start(program: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("retentiond-secantus-").tempdir().expect("a temporary folder");
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port").port();
        let log = fs::File::create(folder.path().join("log")).expect("a log file");
        // The end of the pipe is the end of the server: however we end, the pipe does. What it keeps in memory is a temporary folder to it.
        let until_the_pipe_ends = "\"$0\" \"$@\" </dev/null & read -r _; kill $!; wait";
        let mut watcher = Command::new("bash");
        watcher
            .args(["-c", until_the_pipe_ends])
            .arg(program)
            .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--storage-path", ":memory:", "--enable-test-commands"])
            .current_dir("/")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .process_group(0)
            .stdout(log.try_clone().expect("the log file"))
            .stderr(log);
        // Nobody else may be let into the folder of the build.
        if let Some((uid, gid)) = stand_in().filter(|_| open_to_all(program)) {
            watcher.uid(uid).gid(gid);
        }
        let started = Self { watcher: watcher.spawn().expect("bash starts"), port, folder };
        let deadline = Instant::now() + Duration::from_mins(5);
        while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(Instant::now() < deadline, "SecantusDB does not listen: {}", started.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        started
    }

    /// The address of one of its databases.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("mongodb://127.0.0.1:{}/{database}?directConnection=true&appName=retentiond", self.port)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Secantus {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        let _gone = self.watcher.wait();
    }
}

/// Whether everybody may get to a program and to the Python beside it.
fn open_to_all(program: &Path) -> bool {
    let python = fs::canonicalize(program.with_file_name("python3")).unwrap_or_else(|_| program.to_owned());
    let open = |path: &Path| fs::metadata(path).is_ok_and(|found| found.mode() & 0o001 != 0);
    [program, &python].iter().all(|program| program.ancestors().all(open))
}

/// Somebody else's client, who is never failed on purpose.
pub(crate) struct Documents(pub(crate) Collection<Document>, Client);

impl Documents {
    pub(crate) async fn of(server: &Secantus, database: &str, collection: &str) -> Self {
        let client = Client::with_uri_str(server.url(database).replace("appName=retentiond", "appName=visitor")).await.unwrap();
        Self(client.database(database).collection(collection), client)
    }

    /// Puts so many documents of an account there.
    pub(crate) async fn put(&self, account: &str, documents: i64) {
        for _ in 0..documents {
            self.0.insert_one(doc! { "owner": account, "secret": "not to be logged" }).await.unwrap();
        }
    }

    pub(crate) async fn count(&self, account: &str) -> i64 {
        self.0.count_documents(doc! { "owner": account }).await.unwrap().try_into().unwrap()
    }

    /// From here on each of these commands of the daemon comes to that, until something else is said.
    pub(crate) async fn fail(&self, commands: &[&str], mut with: Document) {
        with.insert("failCommands", commands);
        with.insert("appName", "retentiond");
        let mode = if commands.is_empty() { "off" } else { "alwaysOn" };
        self.1.database("admin").run_command(doc! { "configureFailPoint": "failCommand", "mode": mode, "data": with }).await.unwrap();
    }
}

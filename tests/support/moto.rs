//! A moto of our own, which speaks like S3: found in the folder of the build or among the installed programs, on loopback, gone when its owner is gone.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    pgbouncer::stand_in,
    standin::{Asked, Said, StandIn},
};

/// A running moto.
pub(crate) struct Moto {
    child: Child,
    pub(crate) port: u16,
    folder: tempfile::TempDir,
}

/// The program, if it is installed.
pub(crate) fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/moto/bin");
    std::iter::once(ours).chain(std::env::split_paths(&path)).map(|folder| folder.join("moto_server")).find(|program| program.is_file())
}

impl Moto {
    /// Starts it and waits until it listens.
    pub(crate) fn start(program: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("retentiond-moto-").tempdir().expect("a temporary folder");
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).expect("a free port").port();
        let log = fs::File::create(folder.path().join("log")).expect("a log file");
        // It ends when what it reads from ends: with its owner at the latest, however that ends.
        let ends_with_us = "\"$0\" \"$@\" </dev/null & server=$!; read -r dismissed; kill \"$server\"";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", ends_with_us]).arg(program).args(["-H", "127.0.0.1", "-p", &port.to_string()]).current_dir("/");
        command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .process_group(0)
            .stdout(log.try_clone().expect("the log file"))
            .stderr(log);
        // Nobody else may be let into the folder of the build.
        if let Some((uid, gid)) = stand_in().filter(|_| open_to_all(program)) {
            command.uid(uid).gid(gid);
        }
        let started = Self { child: command.spawn().expect("moto starts"), port, folder };
        let deadline = Instant::now() + Duration::from_mins(5);
        while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(Instant::now() < deadline, "moto does not listen: {}", started.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        started
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _gone = self.child.wait();
    }
}

/// Whether everybody may get to a program and to the Python beside it.
fn open_to_all(program: &Path) -> bool {
    let python = fs::canonicalize(program.with_file_name("python3")).unwrap_or_else(|_| program.to_owned());
    let open = |path: &Path| fs::metadata(path).is_ok_and(|found| found.mode() & 0o001 != 0);
    [program, &python].iter().all(|program| program.ancestors().all(open))
}

/// Asks it, as whoever set it up. What it says must be good.
pub(crate) async fn ask(method: &str, port: u16, path: &str, body: &str) -> String {
    let (status, text) = ask_any(method, port, path, body).await;
    assert!(status < 300, "{method} {path}: {status}: {text}");
    text
}

/// Asks it likewise, whatever it says.
pub(crate) async fn ask_any(method: &str, port: u16, path: &str, body: &str) -> (u16, String) {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let signed = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
    let request = client.request(method.parse().unwrap(), format!("http://127.0.0.1:{port}/{path}"));
    let answer = request.header("authorization", signed).body(body.to_owned()).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// A front of it for whoever signs as COS wants it: all else is the same there.
pub(crate) fn cos(port: u16) -> StandIn {
    StandIn::start(move |asked: Asked| async move {
        if !asked.authorization.starts_with("q-sign-algorithm=sha1&q-ak=id&q-sign-time=") {
            return Said(403, ("content-type", "application/xml"), "<Error><Code>AccessDenied</Code></Error>".to_owned());
        }
        let (status, text) = ask_any(&asked.method, port, asked.path.trim_start_matches('/'), &asked.body).await;
        Said(status, ("content-type", "application/xml"), text)
    })
}

/// A key as it stands in an address.
pub(crate) fn encoded(key: &str) -> String {
    key.bytes()
        .map(|b| if b.is_ascii_alphanumeric() || b"/-_.".contains(&b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

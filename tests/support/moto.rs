//! A moto of our own, which speaks like S3: found in the folder of the build or among the installed programs, on loopback, gone when its owner is gone.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::pgbouncer::stand_in;

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
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).current_dir("/").env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::null()).process_group(0).stdout(log.try_clone().expect("the log file")).stderr(log);
        // Nobody else may be let into the folder of the build.
        if let Some((uid, gid)) = stand_in().filter(|_| open_to_all(program)) {
            command.uid(uid).gid(gid);
        }
        let started = Self { child: command.spawn().expect("moto starts"), port, folder };
        let deadline = Instant::now() + Duration::from_mins(1);
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
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Whether everybody may get to a program, also through the link that it may be.
fn open_to_all(program: &Path) -> bool {
    let to = fs::canonicalize(program).unwrap_or_default();
    [program, &to].iter().flat_map(|path| path.ancestors()).filter(|path| !path.as_os_str().is_empty()).all(|path| {
        fs::metadata(path).is_ok_and(|found| found.mode() & 0o001 != 0)
    })
}

/// Asks it, as whoever set it up.
pub(crate) async fn ask(method: &str, port: u16, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.request(method.parse().unwrap(), format!("http://127.0.0.1:{port}/{path}")).body(body.to_owned());
    request = request.header("authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert!(status.is_success(), "{method} {path}: {status}: {text}");
    text
}

/// A key as it stands in an address.
pub(crate) fn encoded(key: &str) -> String {
    key.bytes().map(|b| if b.is_ascii_alphanumeric() || b"/-_.".contains(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

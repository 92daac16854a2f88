//! A server of our own starts where it can, says why where it cannot, and leaves nothing behind.

use std::{
    io::{BufRead, BufReader},
    net::TcpStream,
};

use sqlx::{Connection, PgConnection};

use super::*;

const OWNER: &str = "RETENTIOND_TEST_OWNS_A_SERVER";

fn scratch() -> Options {
    Options { durable: false, ..Options::default() }
}

fn ask(server: &Server, sql: &'static str) -> String {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let mut conn = PgConnection::connect(&server.url("postgres")).await.unwrap();
        let answer = sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        answer
    })
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "still waiting: {what}");
        thread::sleep(PAUSE);
    }
}

fn runs(pid: u32, dir: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir.join("data"))
}

#[test]
fn a_server_listens_on_loopback_only_and_leaves_nothing_behind() {
    let server = Server::start(&scratch()).unwrap();
    assert_eq!(ask(&server, "SELECT current_setting('listen_addresses')"), "127.0.0.1");
    assert_eq!(ask(&server, "SELECT current_setting('unix_socket_directories')"), "");
    assert_eq!(ask(&server, "SELECT current_setting('max_connections')"), "200");
    let (pid, dir, port) = (server.pid(), server.dir().to_owned(), server.port);
    assert!(runs(pid, &dir));
    server.stop().unwrap();
    assert!(!runs(pid, &dir));
    assert!(!dir.exists(), "{} is left", dir.display());
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
}

#[test]
fn a_dropped_server_is_gone_too() {
    let server = Server::start(&scratch()).unwrap();
    let (pid, dir) = (server.pid(), server.dir().to_owned());
    drop(server);
    assert!(!runs(pid, &dir));
    assert!(!dir.exists());
}

#[test]
fn a_kept_folder_keeps_its_data_and_password_for_the_next_start() {
    let place = Home::temporary().unwrap();
    // The user that Postgres runs as has to pass through it.
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let options = Options { dir: Some(place.path().join("cluster")), ..scratch() };
    let server = Server::start(&options).unwrap();
    let made = ask(&server, "SELECT system_identifier::text FROM pg_control_system()");
    let refused = Server::start(&options).unwrap_err().to_string();
    assert!(refused.contains("postmaster.pid"), "{refused}");
    assert_eq!(made, ask(&server, "SELECT system_identifier::text FROM pg_control_system()"));
    server.stop().unwrap();

    let again = Server::start(&Options { settings: vec![("work_mem".into(), "7MB".into())], ..options.clone() }).unwrap();
    assert_eq!(made, ask(&again, "SELECT system_identifier::text FROM pg_control_system()"));
    assert_eq!(ask(&again, "SELECT current_setting('work_mem')"), "7MB");
    again.stop().unwrap();

    fs::write(place.path().join("cluster/data/PG_VERSION"), "9\n").unwrap();
    let refused = Server::start(&options).unwrap_err().to_string();
    assert!(refused.contains("made by PostgreSQL 9 and the binaries are of "), "{refused}");
}

#[test]
fn a_folder_that_holds_anything_else_is_refused_and_left_as_it_was() {
    let home = Home::temporary().unwrap();
    fs::write(home.path().join("letter.txt"), "dear").unwrap();
    fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
    let before = fs::metadata(home.path()).unwrap();
    let refused = Server::start(&Options { dir: Some(home.path().to_owned()), ..scratch() }).unwrap_err();
    assert!(matches!(refused, EmbeddedError::Occupied { .. }), "{refused}");
    let after = fs::metadata(home.path()).unwrap();
    assert_eq!((before.uid(), before.mode()), (after.uid(), after.mode()));
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn a_server_that_cannot_start_says_why_and_what_to_do() {
    let nowhere = Options { bin: Some("/nonexistent".into()), ..scratch() };
    let error = Server::start(&nowhere).unwrap_err().to_string();
    assert!(error.contains("/nonexistent") && error.contains("apt-get install postgresql-15"), "{error}");

    let wrong = Options { settings: vec![("wal_level".into(), "loud".into())], ..scratch() };
    let error = Server::start(&wrong).unwrap_err().to_string();
    assert!(error.contains("wal_level") && error.contains("last words"), "{error}");
}

#[test]
fn a_folder_that_the_other_user_cannot_enter_is_named() {
    let home = Home::temporary().unwrap();
    fs::set_permissions(home.path(), Permissions::from_mode(0o700)).unwrap();
    let inner = home.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let stranger = User { name: "stranger", uid: 54_321, gid: 54_321 };
    let error = stranger.can_reach(&inner).unwrap_err().to_string();
    assert!(error.contains("stranger may not enter"), "{error}");
    assert!(error.contains(&home.path().display().to_string()), "{error}");
}

#[test]
fn users_are_found_by_their_whole_name() {
    let passwd = "postgresql:x:7:8::/:/bin/sh\npostgres:x:101:104:admin:/var/lib/postgresql:/bin/bash\n";
    let user = User::find("postgres", passwd).unwrap();
    assert_eq!((user.uid, user.gid), (101, 104));
    assert!(User::find("nobody", passwd).is_none());
}

/// Runs itself once more in a process of its own, which owns a server and is killed without a chance to tidy up.
#[test]
fn postgres_does_not_outlive_a_killed_owner() {
    let own_name = "embedded::tests::postgres_does_not_outlive_a_killed_owner";
    if std::env::var_os(OWNER).is_some() {
        let server = Server::start(&scratch()).unwrap();
        writeln!(io::stdout(), "\nowns {} {}", server.pid(), server.dir().display()).unwrap();
        let _until_killed = io::stdin().read(&mut [0]);
        unreachable!("the owner was not killed");
    }
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", own_name, "--nocapture"])
        .env(OWNER, "")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(owner.stdout.take().unwrap())
        .lines()
        .find_map(|line| line.unwrap().strip_prefix("owns ").map(str::to_owned))
        .unwrap();
    let (pid, dir) = said.split_once(' ').unwrap();
    let (pid, dir) = (pid.parse().unwrap(), PathBuf::from(dir));
    assert!(runs(pid, &dir));
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until("postgres ends and its folder goes", || !runs(pid, &dir) && !dir.exists());
}

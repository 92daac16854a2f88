//! Keeps `Dockerfile`, `.dockerignore` and `compose.yaml` true: their paths, verbs, keys and limits, read as text.
//! Builds and starts no container.

#![expect(clippy::expect_used, reason = "a test that cannot read what it checks has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_retentiond");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The instructions of the Dockerfile: comments dropped, continued lines joined.
fn instructions() -> Vec<(String, String)> {
    let text = read("Dockerfile");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    let split = |line: &str| line.split_once(' ').map(|(word, rest)| (word.to_owned(), rest.trim().to_owned()));
    joined.lines().filter_map(split).collect()
}

fn instruction(word: &str) -> String {
    let all: Vec<String> = instructions().into_iter().filter(|(found, _)| found == word).map(|(_, rest)| rest).collect();
    all.last().unwrap_or_else(|| panic!("no {word} in Dockerfile")).clone()
}

/// The `"words"` of a list written the way of JSON.
fn words(list: &str) -> Vec<String> {
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The lines of compose.yaml that are indented below `service`, anchors resolved by hand.
fn service(service: &str) -> Vec<String> {
    let text = read("compose.yaml");
    let block = |name: &str| -> Vec<String> {
        let mut lines = text.lines().skip_while(|line| *line != format!("  {name}:"));
        assert!(lines.next().is_some(), "no service {name}");
        let below = lines.take_while(|line| line.is_empty() || line.starts_with("   "));
        below.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
    };
    let mut lines = block(service);
    if lines.iter().any(|line| line == "environment: *environment") {
        let anchored = block("migrate");
        let shared = anchored.iter().skip_while(|line| *line != "environment: &environment").skip(1);
        lines.extend(shared.take_while(|line| line.starts_with(char::is_uppercase)).cloned());
    }
    lines
}

/// What a service's environment says, `${NAME:-default}` being its default.
fn environment(of: &str) -> Vec<(String, String)> {
    let lines = service(of);
    let pairs = lines.iter().filter_map(|line| line.split_once(": "));
    pairs
        .filter(|(name, _)| name.starts_with("RETENTIOND__") || *name == "DATABASE_URL")
        .map(|(name, value)| {
            let default = value.strip_suffix('}').and_then(|value| value.split_once(":-")).map(|(_, default)| default);
            (name.to_owned(), default.unwrap_or(value).to_owned())
        })
        .collect()
}

/// Where the file at `inside` the image comes from.
fn origin(inside: &str) -> PathBuf {
    let copies = instructions().into_iter().filter(|(word, rest)| word == "COPY" && !rest.starts_with("--from"));
    let pairs = copies.filter_map(|(_, rest)| rest.split_once(' ').map(|(from, to)| (from.to_owned(), to.to_owned())));
    let found = pairs.into_iter().find(|(_, to)| to == inside);
    root().join(found.unwrap_or_else(|| panic!("nothing is copied to {inside}")).0)
}

fn check(environment: &[(String, String)]) -> Output {
    let (name, file) = instruction("ENV").split_once('=').map(|(name, file)| (name.to_owned(), origin(file))).expect("ENV name=value");
    assert_eq!(name, "RETENTIOND_CONFIG");
    let mut command = Command::new(PROGRAM);
    command.env_clear().env(name, file).envs(environment.iter().cloned());
    command.args(["check", "--offline"]).output().expect("the program runs")
}

fn is_a_verb(words: &[String]) -> bool {
    // `healthcheck --help` answers, whatever is listening; an unknown verb or flag is a mistake in usage.
    let output = Command::new(PROGRAM).env_clear().args(words).arg("--help").output().expect("the program runs");
    output.status.success()
}

#[test]
fn everything_copied_into_the_image_is_in_the_repository_and_reaches_the_engine() {
    let ignored = read(".dockerignore");
    assert!(ignored.lines().any(|line| line == "*"), "only what is named goes to the engine");
    let admitted = |path: &str| ignored.lines().any(|line| line.strip_prefix('!').is_some_and(|top| top == path));
    for (_, rest) in instructions().into_iter().filter(|(word, rest)| word == "COPY" && !rest.starts_with("--from")) {
        let from = rest.split(' ').next().expect("a source");
        assert!(root().join(from).exists(), "COPY {from}: not in the repository");
        let top = from.split('/').next().expect("a first part");
        assert!(top == "." || admitted(top), "COPY {from}: .dockerignore withholds it");
    }
    // What the build reads without COPY naming it, because all is copied.
    let mut needed = vec!["Cargo.toml".to_owned(), "Cargo.lock".to_owned(), "src".to_owned()];
    needed.extend(["benches", "build.rs", "tests"].into_iter().filter(|top| root().join(top).exists()).map(str::to_owned));
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&entry).expect("a source file");
                let included = text.split("include_str!(\"").skip(1).chain(text.split("migrate!(\"").skip(1));
                needed.extend(
                    included
                        .filter_map(|rest| rest.trim_start_matches("./").split_once('"'))
                        .filter(|(path, _)| path.starts_with("../") || path.starts_with("migrations"))
                        .map(|(path, _)| path.trim_start_matches("../").split('/').next().expect("a part").to_owned()),
                );
            }
        }
    }
    assert!(needed.iter().any(|top| top == "migrations"), "the search finds what is included: {needed:?}");
    for top in needed {
        assert!(root().join(&top).exists() && admitted(&top), "the build needs {top}: .dockerignore withholds it");
    }
}

#[test]
fn the_verbs_of_the_image_and_of_compose_exist() {
    assert!(!is_a_verb(&["no-such-verb".to_owned()]), "an unknown verb must fail for this test to mean anything");
    let program = words(&instruction("ENTRYPOINT"));
    assert_eq!(program, ["/usr/local/bin/retentiond"]);
    let copied = instructions().into_iter().any(|(word, rest)| word == "COPY" && rest.ends_with(&program[0]));
    assert!(copied, "{} is never put there", program[0]);
    let health = words(&instruction("HEALTHCHECK"));
    assert_eq!(health[..1], program, "there is no shell to run it");
    let command = service("migrate").iter().find_map(|line| line.strip_prefix("command: ").map(words));
    for verb in [words(&instruction("CMD")), health[1..].to_vec(), command.expect("migrate has a command")] {
        assert!(is_a_verb(&verb), "{verb:?}");
    }
}

#[test]
fn the_image_runs_as_somebody_without_rights_and_ends_on_the_signal_the_daemon_drains_at() {
    let user = instruction("USER");
    let uid = user.split(':').next().expect("a user").parse::<u32>();
    assert!(uid.is_ok_and(|uid| uid > 0), "{user}: a number, for engines that refuse root by number");
    assert_eq!(instruction("STOPSIGNAL"), "SIGTERM");
}

#[test]
fn the_configuration_of_compose_is_one_that_the_program_accepts() {
    for name in ["migrate", "retentiond"] {
        let environment = environment(name);
        assert!(environment.iter().any(|(key, value)| key == "RETENTIOND__MODE" && value == "observe"), "{name}");
        let output = check(&environment);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));

        let mistaken = [environment, vec![("RETENTIOND__HTTP__NO_SUCH_KEY".to_owned(), "1".to_owned())]].concat();
        assert_eq!(check(&mistaken).status.code(), Some(78), "an unknown key is refused");
    }
}

#[test]
fn compose_spells_out_the_missing_tls_and_gives_the_daemon_time_to_drain() {
    for name in ["migrate", "retentiond"] {
        let environment = environment(name);
        let (_, url) = environment.iter().find(|(key, _)| key == "DATABASE_URL").expect("an address");
        assert!(url.contains("@db:5432/") && url.ends_with("?sslmode=disable"), "{name}: {url}");
    }
    assert!(service("retentiond").contains(&"stop_grace_period: 40s".to_owned()));
}

#[test]
fn compose_publishes_on_loopback_only_and_only_what_listens_inside() {
    for name in ["db", "migrate", "retentiond"] {
        let published: Vec<String> = service(name).into_iter().filter(|line| line.starts_with("- \"") && line.contains(':')).collect();
        assert_eq!(published.is_empty(), name == "migrate", "{name}: {published:?}");
        assert!(published.iter().all(|line| line.starts_with("- \"127.0.0.1:")), "{name}: {published:?}");
    }
    let environment = environment("retentiond");
    let (_, listen) = environment.iter().find(|(key, _)| key == "RETENTIOND__HTTP__OPS_LISTEN").expect("where it listens");
    assert_eq!(listen, "0.0.0.0:9464", "a listener on the container's own loopback cannot be published");
    assert!(service("retentiond").contains(&"- \"127.0.0.1:9464:9464\"".to_owned()));
}

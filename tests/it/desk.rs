//! The API: who may do what, that an act is done once, that lists go by key, and that nothing a client sends breaks anything.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::{
    client::{Reply, send},
    world::{Daemon, World, until},
};

const OLD: &str = "now() - interval '40 days'";

/// The tokens of the tests, by role.
const TOKENS: [(&str, &str, &str); 4] =
    [("vera", "viewer", "t-vera"), ("otto", "operator", "t-otto"), ("olga", "officer", "t-olga"), ("ines", "ingest", "t-ines")];

/// Rules with a token for each role.
fn with_tokens(rules: &str) -> String {
    let token = |(name, role, token): &(&str, &str, &str)| {
        let hash = hex::encode(retentiond::desk::hash(token));
        format!("\n[[http.tokens]]\nname = \"{name}\"\nrole = \"{role}\"\nsha256 = \"{hash}\"\n")
    };
    rules.to_owned() + &TOKENS.iter().map(token).collect::<String>()
}

struct Desk {
    addr: SocketAddr,
    daemon: Daemon,
}

impl Desk {
    /// Starts the daemon and waits until its first comparison has ended.
    async fn open(world: &World) -> Self {
        let daemon = world.daemon();
        let started = daemon.wait_for("its start", |e| e["event"] == "daemon.started").await;
        daemon.wait_for("a comparison", |e| e["event"] == "poll.completed").await;
        Self { addr: started["listen"].as_str().expect("where it listens").parse().unwrap(), daemon }
    }

    fn get(&self, path: &str, token: &str) -> Reply {
        send(self.addr, "GET", path, &[("Authorization", &format!("Bearer {token}"))], b"")
    }

    fn post(&self, path: &str, token: &str, key: &str, seen: Option<&str>, body: &Value) -> Reply {
        let bearer = format!("Bearer {token}");
        let mut headers = vec![("Authorization", bearer.as_str()), ("Content-Type", "application/json"), ("Idempotency-Key", key)];
        headers.extend(seen.map(|seen| ("If-Match", seen)));
        send(self.addr, "POST", path, &headers, body.to_string().as_bytes())
    }
}

async fn world() -> World {
    let mut world = World::new().await;
    world.rules = with_tokens(&world.rules);
    world
}

fn problem(reply: &Reply, status: u16, code: &str) {
    assert_eq!((reply.status, reply.json()["code"].as_str()), (status, Some(code)), "{}", reply.body);
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    assert_eq!(reply.json()["type"], format!("urn:retentiond:problem:{code}"));
}

#[tokio::test]
async fn who_may_do_what_is_decided_by_the_role_and_a_wrong_token_is_nobody() {
    let world = world().await;
    world.account("a", "null", "now() - interval '20 days'", "null").await;
    let desk = Desk::open(&world).await;
    problem(&send(desk.addr, "GET", "/api/v1/status", &[], b""), 401, "unauthorized");
    problem(&desk.get("/api/v1/status", "t-nobody"), 401, "unauthorized");
    problem(&send(desk.addr, "GET", "/api/v1/status", &[("Authorization", "Basic dDp0")], b""), 401, "unauthorized");
    assert_eq!(send(desk.addr, "GET", "/api/v1/openapi.json", &[], b"").status, 200);
    for token in ["t-vera", "t-otto", "t-olga"] {
        assert_eq!(desk.get("/api/v1/status", token).status, 200, "{token}");
    }
    problem(&desk.get("/api/v1/status", "t-ines"), 403, "forbidden");

    let hold = json!({"account_id": "a", "reason": "case 7"});
    problem(&desk.post("/api/v1/holds", "t-vera", "k1", None, &hold), 403, "forbidden");
    let placed = desk.post("/api/v1/holds", "t-otto", "k1", None, &hold);
    assert_eq!((placed.status, placed.json()["placed_by"].as_str()), (201, Some("otto")), "{}", placed.body);
    let path = format!("/api/v1/holds/{}/release", placed.json()["id"].as_str().unwrap());
    problem(&desk.post(&path, "t-otto", "k2", Some("*"), &json!({"reason": "over"})), 403, "forbidden");
    assert_eq!(world.count("retention.holds where released_at is null").await, 1);
    assert_eq!(desk.post(&path, "t-olga", "k2", Some("*"), &json!({"reason": "over"})).status, 200);
    assert_eq!(world.count("retention.holds where released_at is null").await, 0);
    // What was refused is in the log too, with its role.
    let denied = desk.daemon.wait_for("the refusal", |e| e["event"] == "operator.action" && e["outcome"] == "forbidden").await;
    assert_eq!((&denied["actor"], &denied["role"], &denied["action"]), (&json!("vera"), &json!("viewer"), &json!("hold place")));
    let acts = desk.get("/api/v1/acts", "t-vera").json();
    let told: Vec<_> = acts["acts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| (a["act"].as_str().unwrap(), a["actor"].as_str().unwrap(), a["surface"].as_str().unwrap()))
        .collect();
    assert_eq!(told, [("hold release", "olga", "api"), ("hold place", "otto", "api")]);
}

#[tokio::test]
async fn without_tokens_this_machine_reads_and_nobody_writes() {
    let world = World::new().await;
    let desk = Desk::open(&world).await;
    assert_eq!(send(desk.addr, "GET", "/api/v1/status", &[], b"").status, 200);
    let local = format!("localhost:{}", desk.addr.port());
    assert_eq!(send(desk.addr, "GET", "/api/v1/status", &[("Host", &local)], b"").status, 200);
    // A name of somebody else's that resolves to this machine.
    for host in ["evil.example", "localhost.evil.example:80", "127.0.0.1.evil.example", "[::2]:80", ""] {
        problem(&send(desk.addr, "GET", "/api/v1/status", &[("Host", host)], b""), 403, "forbidden");
    }
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "k")];
    problem(&send(desk.addr, "POST", "/api/v1/pauses", &headers, br#"{"reason":"x"}"#), 403, "forbidden");
    assert_eq!(world.count("retention.pauses").await, 0);
}

#[tokio::test]
async fn a_proxy_is_believed_only_where_it_stands_and_only_one_name() {
    let mut world = World::new().await;
    world.rules += "\n[http.proxy]\nfrom = [\"127.0.0.1\"]\nuser_header = \"X-User\"\nrole_header = \"X-Role\"\n";
    let desk = Desk::open(&world).await;
    let asked = |headers: &[(&str, &str)]| send(desk.addr, "GET", "/api/v1/version", headers, b"");
    let known = asked(&[("X-User", "ada"), ("X-Role", "officer")]).json();
    assert_eq!((known["actor"].as_str(), known["role"].as_str()), (Some("ada"), Some("officer")));
    assert_eq!(asked(&[("X-User", "ada")]).json()["role"], "viewer");
    problem(&asked(&[]), 401, "unauthorized");
    problem(&asked(&[("X-User", "ada"), ("X-User", "eve")]), 401, "unauthorized");
    problem(&asked(&[("X-User", "ada"), ("X-Role", "root")]), 403, "forbidden");
    problem(&asked(&[("X-User", "ada"), ("X-Role", "viewer"), ("X-Role", "officer")]), 403, "forbidden");
    // What the proxy forwards of what it asked people for itself.
    assert_eq!(asked(&[("X-User", "ada"), ("Authorization", "Basic YWRhOnNlY3JldA==")]).json()["actor"], "ada");
    drop(desk);
    world.rules = world.rules.replace("127.0.0.1\"", "10.0.0.5\"");
    let desk = Desk::open(&world).await;
    problem(&send(desk.addr, "GET", "/api/v1/version", &[("X-User", "ada")], b""), 401, "unauthorized");
}

#[tokio::test]
async fn an_act_under_one_key_is_done_once_and_answered_again() {
    let world = world().await;
    let desk = Desk::open(&world).await;
    let hold = json!({"account_id": "a", "reason": "case 7"});
    let first = desk.post("/api/v1/holds", "t-otto", "key-1", None, &hold);
    let again = desk.post("/api/v1/holds", "t-otto", "key-1", None, &hold);
    assert_eq!((first.status, again.status, &first.body), (201, 201, &again.body));
    assert_eq!((first.header("idempotent-replayed"), again.header("idempotent-replayed")), (None, Some("true")));
    assert_eq!(world.count("retention.holds").await, 1);
    problem(
        &desk.post("/api/v1/holds", "t-otto", "key-1", None, &json!({"account_id": "b", "reason": "case 7"})),
        422,
        "idempotency_key_reused",
    );
    problem(&desk.post("/api/v1/pauses", "t-otto", "key-1", None, &json!({"reason": "case 7"})), 422, "idempotency_key_reused");
    problem(&desk.post("/api/v1/holds", "t-otto", "", None, &hold), 400, "bad_request");
    problem(&desk.post("/api/v1/holds", "t-otto", "with space", None, &hold), 400, "bad_request");
    // Another's key of the same name is another key.
    assert_eq!(desk.post("/api/v1/holds", "t-olga", "key-1", None, &hold).status, 201);
    // A refusal is not kept: mended, the same key does it.
    problem(&desk.post("/api/v1/holds", "t-otto", "key-2", None, &json!({"account_id": "a", "reason": " "})), 422, "senseless");
    assert_eq!(desk.post("/api/v1/holds", "t-otto", "key-2", None, &hold).status, 201);
    assert_eq!(world.count("retention.holds").await, 3);
    // At the same time, from many: one is done, the others are answered with it or told to wait.
    let replies: Vec<Reply> = std::thread::scope(|scope| {
        let asked: Vec<_> =
            (0..8).map(|_| scope.spawn(|| desk.post("/api/v1/pauses", "t-otto", "key-3", None, &json!({"reason": "storm"})))).collect();
        asked.into_iter().map(|reply| reply.join().unwrap()).collect()
    });
    assert!(replies.iter().all(|r| r.status == 201 || r.status == 409), "{replies:?}");
    assert_eq!(world.count("retention.pauses").await, 1);
}

#[tokio::test]
async fn what_has_changed_since_it_was_seen_is_not_acted_on() {
    let world = world().await;
    world.sql("update retention.guard set tripped_at = now(), reason = 'first'").await;
    let desk = Desk::open(&world).await;
    let seen = desk.get("/api/v1/guard", "t-olga");
    let tag = seen.header("etag").unwrap().to_owned();
    assert_eq!(desk.get("/api/v1/guard", "t-olga").header("etag"), Some(tag.as_str()));
    let holds = desk.get("/api/v1/holds", "t-olga").header("etag").unwrap().to_owned();
    let known = send(desk.addr, "GET", "/api/v1/holds", &[("Authorization", "Bearer t-olga"), ("If-None-Match", &holds)], b"");
    assert_eq!((known.status, known.body.as_str()), (304, ""));
    let release = |key: &str, seen: Option<&str>| desk.post("/api/v1/guard/release", "t-olga", key, seen, &json!({"reason": "seen"}));
    problem(&release("k1", None), 428, "precondition_required");
    world.sql("update retention.guard set reason = 'second'").await;
    problem(&release("k1", Some(&tag)), 412, "precondition_failed");
    assert_eq!(world.count("retention.guard where tripped_at is not null").await, 1);
    let now = desk.get("/api/v1/guard", "t-olga").header("etag").unwrap().to_owned();
    // What it sees coming is not what is released.
    world.sql("update retention.guard set forecast = 'more', forecast_at = now()").await;
    assert_eq!(release("k1", Some(&now)).status, 200);
    assert_eq!(world.count("retention.guard where tripped_at is not null").await, 0);
    problem(&release("k2", Some("*")), 409, "past");
}

#[tokio::test]
async fn an_act_that_needs_two_waits_for_the_second() {
    let mut world = world().await;
    world.set("APPROVALS__HOLD_RELEASE", "2");
    world.rules += "\n[[http.tokens]]\nname = \"oona\"\nrole = \"officer\"\nsha256 = \"";
    world.rules += &hex::encode(retentiond::desk::hash("t-oona"));
    world.rules += "\"\n";
    let desk = Desk::open(&world).await;
    let placed = desk.post("/api/v1/holds", "t-olga", "k1", None, &json!({"account_id": "a", "reason": "case"})).json();
    let path = format!("/api/v1/holds/{}/release", placed["id"].as_str().unwrap());
    let why = json!({"reason": "over"});
    let first = desk.post(&path, "t-olga", "k2", Some("*"), &why);
    assert_eq!(first.status, 202, "{}", first.body);
    assert!(first.json()["waits"].as_str().unwrap().contains("another person"), "{}", first.body);
    assert_eq!(desk.post(&path, "t-olga", "k3", Some("*"), &why).status, 202, "the same person again");
    assert_eq!(world.count("retention.holds where released_at is null").await, 1);
    assert_eq!(desk.post(&path, "t-oona", "k4", Some("*"), &why).status, 200);
    assert_eq!(world.count("retention.holds where released_at is null").await, 0);
}

#[tokio::test]
async fn a_page_of_another_site_changes_nothing() {
    let world = world().await;
    let desk = Desk::open(&world).await;
    let sent = |extra: &[(&str, &str)], key: &str| {
        let mut headers = vec![("Cookie", "a=b; retentiond_token=t-otto"), ("Content-Type", "application/json"), ("Idempotency-Key", key)];
        headers.extend(extra);
        send(desk.addr, "POST", "/api/v1/pauses", &headers, br#"{"reason":"x"}"#)
    };
    let own = format!("http://{}", desk.addr);
    for elsewhere in
        [[("Sec-Fetch-Site", "cross-site")], [("Sec-Fetch-Site", "same-site")], [("Origin", "https://evil.example")], [("Origin", "null")]]
    {
        problem(&sent(&elsewhere, "k"), 403, "forbidden");
    }
    assert_eq!(world.count("retention.pauses").await, 0);
    assert_eq!(sent(&[("Sec-Fetch-Site", "same-origin")], "k1").status, 201);
    assert_eq!(sent(&[("Origin", &own)], "k2").status, 201);
    assert_eq!(world.count("retention.pauses").await, 2);
}

#[tokio::test]
async fn lists_go_by_key_every_job_once_and_filters_find_what_is_there() {
    let world = world().await;
    for n in 0..7 {
        world.account(&format!("due-{n}"), "null", &format!("now() - interval '{} days'", 9 + n), "null").await;
    }
    world.account("held", "null", OLD, "null").await;
    world.account("a/b c?d=é", "null", "now() - interval '8 days'", "null").await;
    assert!(world.cli(&["hold", "place", "--account", "held", "--reason", "t"]).status.success());
    let desk = Desk::open(&world).await;
    // Of each account the queue is over and the configuration waits; the held one keeps both.
    until("the purges", || async { world.count("retention.history").await == 8 }).await;
    let all = |query: &str| {
        let (mut found, mut next) = (Vec::new(), Some(String::new()));
        while let Some(cursor) = next {
            let page = desk.get(&format!("/api/v1/jobs?limit=3{query}{cursor}"), "t-vera");
            assert_eq!(page.status, 200, "{}", page.body);
            found.extend(
                page.json()["jobs"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|j| (j["account_id"].as_str().unwrap().to_owned(), j["id"].as_str().unwrap().parse::<i64>().unwrap())),
            );
            next = page.json()["next"].as_str().map(|next| format!("&cursor={next}"));
        }
        found
    };
    let ids = |found: &[(String, i64)]| found.iter().map(|(_, id)| *id).collect::<Vec<_>>();
    let everything = ids(&all(""));
    let mut sorted = everything.clone();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    sorted.dedup();
    assert_eq!((everything.len(), &everything), (18, &sorted));
    assert_eq!(all("&state=completed").len(), 8);
    assert_eq!(all("&state=open").len(), 10);
    assert_eq!(all("&state=cancelled").len(), 0);
    assert_eq!(all("&held=true").iter().map(|(a, _)| a.as_str()).collect::<Vec<_>>(), ["held", "held"]);
    assert_eq!(all("&data_class=configuration").len(), 9);
    assert_eq!(all("&account_id=a%2Fb%20c%3Fd%3D%C3%A9").len(), 2);
    // By their date: the longer terminated, the sooner due.
    let due: Vec<String> = all("&order=due&data_class=configuration").into_iter().map(|(account, _)| account).collect();
    assert_eq!(due, ["held", "due-6", "due-5", "due-4", "due-3", "due-2", "due-1", "due-0", "a/b c?d=é"]);
    assert_eq!(all("&overdue=true").len(), 0, "what is held is not overdue");
    for (query, word) in [
        ("state=gone", "state"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("cursor=x", "cursor"),
        ("order=best", "order"),
        ("colour=red", "colour"),
        ("due_before=tomorrow", "due_before"),
    ] {
        let refused = desk.get(&format!("/api/v1/jobs?{query}"), "t-vera");
        problem(&refused, 400, "bad_request");
        assert!(refused.body.contains(word), "{}", refused.body);
    }
    let explained = desk.get("/api/v1/accounts/a%2Fb%20c%3Fd%3D%C3%A9/explain", "t-vera").json();
    assert_eq!(explained["account_id"], "a/b c?d=é");
    assert_eq!(explained["classes"].as_array().unwrap().len(), 2);
    // What the plan says of the next 30 days is what is scheduled, with its records.
    let until = "2100-01-01T00:00:00Z";
    let plan = desk.get(&format!("/api/v1/plan?until={until}"), "t-vera").json();
    let planned: i64 = plan["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|j| j["targets"].as_array().unwrap())
        .map(|t| t["records"].as_i64().unwrap())
        .sum();
    assert_eq!((plan["jobs"].as_array().unwrap().len(), planned), (10, 9 * 8 + 7), "{plan}");
    assert_eq!(desk.get("/api/v1/plan", "t-vera").json()["jobs"].as_array().unwrap().len(), 2, "until tomorrow only what is held");
}

#[tokio::test]
async fn a_short_window_goes_on_where_it_stopped() {
    // Few among many: a page may be empty, and the next ones find what there is.
    let world = world().await;
    world
        .sql(
            "insert into retention.history (id, account_id, feature, data_class, state, starting_point, started_at, retain_until, delete_by, policy, attempts, records_deleted, count_exact, created_at, completed_at)
             select -n, 'x' || n, 'mps', case when n = 45000 then 'queue' else 'configuration' end, 'completed', 'p', now() - interval '40 days', now() - interval '10 days', now() - interval '9 days', 'p', 1, '{}', true, now() - interval '40 days', now() - interval '1 day' from generate_series(1, 50000) n",
        )
        .await;
    let desk = Desk::open(&world).await;
    let (mut found, mut pages, mut cursor) = (0, 0, String::new());
    loop {
        let page = desk.get(&format!("/api/v1/jobs?data_class=queue{cursor}"), "t-vera").json();
        found += page["jobs"].as_array().unwrap().len();
        pages += 1;
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!((found, pages), (1, 3));
    // They are counted beside.
    until("the figures", || async { desk.get("/api/v1/series", "t-vera").status == 200 }).await;
    let series = desk.get("/api/v1/series", "t-vera").json();
    assert_eq!(series["jobs"]["completed"], 50_000, "{series}");
}

#[tokio::test]
async fn what_a_job_did_is_told_and_certified_through_the_api() {
    let world = world().await;
    world.account("a", "null", OLD, "null").await;
    let desk = Desk::open(&world).await;
    until("the purges", || async { world.count("retention.history").await == 2 }).await;
    let id = desk.get("/api/v1/jobs?data_class=queue", "t-vera").json()["jobs"][0]["id"].as_str().unwrap().to_owned();
    // Entries are numbered beside the purge.
    let path = format!("/api/v1/jobs/{id}/certificate");
    until("its certificate", || async { desk.get(&path, "t-vera").status == 200 }).await;
    let certificate = desk.get(&path, "t-vera");
    assert!(certificate.header("content-disposition").unwrap().contains(&format!("certificate-{id}.json")));
    let file = std::env::temp_dir().join(format!("certificate-{}-{id}.json", world.database));
    std::fs::write(&file, &certificate.body).unwrap();
    let verified = world.cli(&["certificate", "verify", file.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    std::fs::remove_file(file).unwrap();
    let entries = desk.get(&format!("/api/v1/jobs/{id}/entries"), "t-vera").json();
    let events: Vec<_> =
        entries["entries"].as_array().unwrap().iter().filter(|e| e["kind"] == "job").filter_map(|e| e["event"].as_str()).collect();
    assert!(events.contains(&"completed") && events.contains(&"scheduled"), "{events:?}");
    let note = desk.get("/api/v1/ledger/checkpoint", "t-vera").body;
    assert!(note.contains("\n\n\u{2014} "), "{note}");
    let csv = desk.get("/api/v1/reports/deletions?format=csv", "t-vera");
    assert_eq!((csv.header("content-type"), csv.body.lines().count()), (Some("text/csv; charset=utf-8"), 9), "{}", csv.body);
    assert_eq!(desk.get("/api/v1/reports/deletions", "t-vera").json()["totals"]["completed"], 2);
    problem(&desk.get("/api/v1/jobs/999999/certificate", "t-vera"), 404, "not_found");
    problem(&desk.get("/api/v1/jobs/x", "t-vera"), 400, "bad_request");
}

#[tokio::test]
async fn a_database_that_is_away_is_said_and_nothing_else() {
    let mut world = world().await;
    world.set("DATABASE__URL", "postgres://secret-user:secret-word@127.0.0.1:1/none");
    let daemon = world.daemon();
    let started = daemon.wait_for("its start", |e| e["event"] == "daemon.started").await;
    let addr: SocketAddr = started["listen"].as_str().unwrap().parse().unwrap();
    for path in ["/api/v1/status", "/api/v1/jobs", "/api/v1/plan", "/api/v1/accounts/a/explain", "/api/v1/jobs/1/certificate"] {
        let reply = send(addr, "GET", path, &[("Authorization", "Bearer t-vera")], b"");
        problem(&reply, 503, "unavailable");
        assert!(!reply.body.contains("secret"), "{}", reply.body);
    }
    assert_eq!(send(addr, "GET", "/api/v1/version", &[("Authorization", "Bearer t-vera")], b"").status, 200);
}

#[tokio::test]
async fn an_event_has_the_source_looked_at_and_decides_nothing() {
    let mut world = world().await;
    world.set("POLL__INTERVAL", "1h").set("POLL__RESYNC_INTERVAL", "2h").set("POLL__OVERLAP", "100d");
    let desk = Desk::open(&world).await;
    world.account("a", "null", "now() - interval '8 days'", "null").await;
    let event = |id: &str, subject: &str| {
        json!({"specversion": "1.0", "id": id, "source": "/platform", "type": "com.example.account.terminated.v1", "subject": subject})
            .to_string()
    };
    let sent = |token: &str, kind: &str, body: &str| {
        send(desk.addr, "POST", "/api/v1/events", &[("Authorization", &format!("Bearer {token}")), ("Content-Type", kind)], body.as_bytes())
    };
    let kind = "application/cloudevents+json";
    problem(&sent("t-vera", kind, &event("1", "a")), 403, "forbidden");
    problem(&sent("t-ines", "application/json", &event("1", "a")), 400, "bad_request");
    problem(&sent("t-ines", kind, "{"), 400, "bad_request");
    assert_eq!(world.count("retention.jobs").await + world.count("retention.history").await, 0);
    // The account it names still stands; the one that it does not name is found all the same.
    let first = sent("t-ines", kind, &event("1", "somebody else"));
    assert_eq!((first.status, first.json()), (202, json!({"accounts": 1})));
    until("the purge", || async { world.count("retention.history where account_id = 'a' and data_class = 'queue'").await == 1 }).await;
    assert_eq!(world.count("retention.every_job where account_id <> 'a'").await, 0);
    assert_eq!(sent("t-ines", kind, &event("1", "somebody else")).status, 200, "it was sent before");
}

#[tokio::test]
async fn a_policy_is_accepted_only_as_it_was_seen_whichever_replica_answers() {
    let mut world = world().await;
    let shipped = world.rules.clone();
    drop(Desk::open(&world).await);
    let shorter = |days: &str| shipped.replacen("retain_for = \"30d\"", &format!("retain_for = \"{days}\""), 1);
    let with = async |world: &mut World, rules: String| {
        world.rules = rules;
        let daemon = world.daemon();
        let started = daemon.wait_for("its start", |e| e["event"] == "daemon.started").await;
        daemon.wait_for("the refusal", |e| e["event"] == "policy.waiting").await;
        Desk { addr: started["listen"].as_str().unwrap().parse().unwrap(), daemon }
    };
    let mild = with(&mut world, shorter("20d")).await;
    let seen = mild.get("/api/v1/policy", "t-olga").header("etag").unwrap().to_owned();
    let harsh = with(&mut world, shorter("1d")).await;
    let accept = |desk: &Desk, key: &str| desk.post("/api/v1/policy/accept", "t-olga", key, Some(&seen), &json!({"reason": "read it"}));
    problem(&accept(&harsh, "k1"), 412, "precondition_failed");
    let accepted = accept(&mild, "k2");
    assert_eq!(accepted.status, 200, "{}", accepted.body);
    assert_eq!(accepted.json()["policy"], mild.get("/api/v1/policy", "t-olga").json()["hash"]);
}

#[tokio::test]
async fn what_was_paused_goes_on_also_where_no_class_has_that_name_any_more() {
    let world = world().await;
    world.sql("insert into retention.pauses (data_class, reason, paused_by) values ('renamed', 'before', 'ada')").await;
    let desk = Desk::open(&world).await;
    let wish = json!({"data_class": "renamed", "reason": "gone"});
    problem(&desk.post("/api/v1/pauses", "t-otto", "k1", None, &wish), 422, "senseless");
    assert_eq!(desk.post("/api/v1/pauses/resume", "t-otto", "k2", None, &wish).status, 200);
    assert_eq!(world.count("retention.pauses where resumed_at is null").await, 0);
}

#[tokio::test]
async fn the_way_back_from_the_sign_in_leads_nowhere_else() {
    let world = world().await;
    let desk = Desk::open(&world).await;
    for back in
        ["//evil.example", "/%09/evil.example", "/%0a/evil.example", "/%5Cevil.example", "https://evil.example", "%20//evil.example"]
    {
        let body = format!("token=t-vera&back={back}");
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        let reply = send(desk.addr, "POST", "/sign-in", &headers, body.as_bytes());
        assert_eq!((reply.status, reply.header("location")), (303, Some("/")), "{back}");
    }
    let reply = send(
        desk.addr,
        "POST",
        "/sign-in",
        &[("Content-Type", "application/x-www-form-urlencoded")],
        b"token=t-vera&back=/jobs%3Fstate=open",
    );
    assert_eq!(reply.header("location"), Some("/jobs?state=open"));
    assert!(reply.header("set-cookie").unwrap().contains("HttpOnly; SameSite="));
}

#[tokio::test]
async fn whoever_reads_much_keeps_no_stop_waiting() {
    let world = world().await;
    let desk = Desk::open(&world).await;
    // Nobody can read the jobs: every connection for reading waits.
    let mut holder = world.connect().await;
    sqlx::raw_sql("begin; lock table retention.history in access exclusive mode").execute(&mut holder).await.unwrap();
    std::thread::scope(|scope| {
        let reports: Vec<_> = (0..4).map(|_| scope.spawn(|| desk.get("/api/v1/reports/deletions", "t-vera").status)).collect();
        let paused = desk.post("/api/v1/pauses", "t-otto", "k", None, &json!({"reason": "incident"}));
        assert_eq!(paused.status, 201, "{}", paused.body);
        for report in reports {
            assert!(report.join().unwrap() >= 503);
        }
    });
    assert_eq!(world.count("retention.pauses where resumed_at is null").await, 1);
}

//! Traces: what a receiver of OTLP is sent, and that nothing depends on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    sync::{Arc, Mutex, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use axum::{Router, body, extract::Request, http::Response};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value as Any},
    trace::v1::Span,
};
use prost::Message as _;
use rustix::process::Signal;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    client::send,
    metrics::free_port,
    stores::{self, Kind},
    world::{World, left, until},
};

const OLD: &str = "now() - interval '40 days'";
/// Stands wherever an account is named.
const CANARY: &str = "canary-4711";

/// A request as it came.
#[derive(Debug, Clone)]
struct Got {
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// A receiver of traces on loopback.
struct Receiver {
    port: u16,
    got: Arc<Mutex<Vec<Got>>>,
    end: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Takes everything on a free port; one that `hangs` never answers.
    fn start(hangs: bool) -> Self {
        let (end, (tell, told)) = (CancellationToken::new(), mpsc::channel());
        let (ends, got) = (end.clone(), Arc::<Mutex<Vec<Got>>>::default());
        let keep = Arc::clone(&got);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                tell.send(listener.local_addr().unwrap().port()).unwrap();
                let routes = Router::new().fallback(move |request: Request| {
                    let keep = Arc::clone(&keep);
                    async move {
                        let (head, body) = request.into_parts();
                        let text = |value: &axum::http::HeaderValue| value.to_str().unwrap().to_owned();
                        let got = Got {
                            path: head.uri.path().to_owned(),
                            headers: head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
                            body: body::to_bytes(body, 1 << 24).await.unwrap().to_vec(),
                        };
                        keep.lock().unwrap().push(got);
                        if hangs {
                            std::future::pending::<()>().await;
                        }
                        Response::builder().header("content-type", "application/x-protobuf").body(body::Body::empty()).unwrap()
                    }
                });
                ends.run_until_cancelled(axum::serve(listener, routes).into_future()).await
            });
        });
        Self { port: told.recv().unwrap(), got, end, thread: Some(thread) }
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// Every span so far, and what the resources are called that they come from.
    fn spans(&self) -> (Vec<Span>, BTreeSet<String>) {
        let (mut spans, mut services) = (Vec::new(), BTreeSet::new());
        for got in self.got() {
            let request = ExportTraceServiceRequest::decode(got.body.as_slice()).unwrap();
            for part in request.resource_spans {
                services.extend(attribute(&part.resource.unwrap().attributes, "service.name"));
                spans.extend(part.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
        }
        (spans, services)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.end.cancel();
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|pair| pair.key == key)?.value.clone()?.value?;
    if let Any::StringValue(text) = value {
        assert!(key == "job_id" || text.parse::<f64>().is_err(), "{key} is a number, and came as a text");
        return Some(text);
    }
    Some(if let Any::IntValue(number) = value { number.to_string() } else { format!("{value:?}") })
}

fn of<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

/// The attributes of a span, of those that are asked for.
fn known(span: &Span, keys: &[&str]) -> Vec<Option<String>> {
    keys.iter().map(|key| attribute(&span.attributes, key)).collect()
}

fn some(values: &[&str]) -> Vec<Option<String>> {
    values.iter().map(|value| Some((*value).to_owned())).collect()
}

/// The lines that `run --once` says; it must succeed.
fn run_once(world: &World) -> Vec<Value> {
    let output = world.cli(&["run", "--once"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(line: &Value) -> (String, String) {
    (line["trace_id"].as_str().unwrap_or_default().to_owned(), line["span_id"].as_str().unwrap_or_default().to_owned())
}

fn ids_of(span: &Span) -> (String, String) {
    let hex = |bytes: &[u8]| hex::encode(bytes);
    (hex(&span.trace_id), hex(&span.span_id))
}

fn address(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_arrives_as_spans_that_its_log_lines_name_and_that_name_no_account() {
    let receiver = Receiver::start(false);
    let mut world = World::new().await;
    let mut headers = tempfile::NamedTempFile::new().unwrap();
    headers.write_all(b"authorization: Bearer hunter2\n").unwrap();
    world.set("TELEMETRY__OTLP_ENDPOINT", &address(receiver.port)).set("TELEMETRY__SERVICE_NAME", "retentiond-eu");
    world.set("TELEMETRY__OTLP_HEADERS_FILE", headers.path().to_str().unwrap());
    world.account(CANARY, OLD, "null", "null").await;
    let lines = run_once(&world);
    assert_eq!(world.left(CANARY).await, left(0, 0, 0, 2));

    for got in receiver.got() {
        assert_eq!((got.path.as_str(), got.headers["authorization"].as_str()), ("/v1/traces", "Bearer hunter2"));
        assert_eq!(got.headers["content-type"], "application/x-protobuf");
        assert!(!String::from_utf8_lossy(&got.body).contains(CANARY), "an account is named");
    }
    let (spans, services) = receiver.spans();
    assert_eq!(services, BTreeSet::from(["retentiond-eu".to_owned()]));
    let resync = of(&spans, "planner.look")[0];
    assert_eq!(known(resync, &["kind", "accounts"]), some(&["resync", "2"]), "one account of two classes");
    for name in ["executor.claim", "verifier.pass", "ledger.pass"] {
        assert!(!of(&spans, name).is_empty(), "no {name}");
    }
    let numbered: u64 =
        of(&spans, "ledger.pass").iter().filter_map(|span| attribute(&span.attributes, "entries")?.parse::<u64>().ok()).sum();
    assert!(numbered > 0, "the ledger has numbered something");

    // Queue data of 7 messages is one batch, whose line names it.
    let deleted = lines.iter().find(|line| line["event"] == "batch.deleted" && line["data_class"] == "queue").unwrap();
    let batch = spans.iter().find(|span| ids_of(span) == ids(deleted)).expect("the span that the line names");
    assert_eq!(batch.name, "executor.batch");
    let job = deleted["job_id"].as_str().unwrap();
    assert_eq!(known(batch, &["feature", "data_class", "job_id", "jobs", "records"]), some(&["mps", "queue", job, "1", "7"]));
    let purge = spans.iter().find(|span| span.span_id == batch.parent_span_id).expect("its parent");
    assert_eq!((purge.name.as_str(), &purge.trace_id), ("executor.purge", &batch.trace_id));
    assert!(purge.parent_span_id.is_empty() && purge.start_time_unix_nano <= batch.start_time_unix_nano);
    let started = lines.iter().find(|line| line["event"] == "job.started" && line["data_class"] == "queue").unwrap();
    let claim = spans.iter().find(|span| ids_of(span) == ids(started)).expect("the span that the line names");
    assert_eq!((claim.name.as_str(), known(claim, &["jobs"])), ("executor.claim", some(&["1"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_to_another_store_is_a_span_below_the_purge() {
    let receiver = Receiver::start(false);
    let (mut world, place) = stores::world(Kind::Folder).await;
    world.set("TELEMETRY__OTLP_ENDPOINT", &address(receiver.port));
    world.account(CANARY, OLD, "null", "null").await;
    place.put(CANARY, 4).await;
    run_once(&world);
    assert_eq!(place.count(CANARY).await, 0);
    let (spans, _) = receiver.spans();
    let deletes = of(&spans, "store.delete");
    let records: u64 = deletes.iter().filter_map(|span| attribute(&span.attributes, "records")?.parse::<u64>().ok()).sum();
    assert_eq!(records, 4);
    for delete in deletes {
        assert_eq!(attribute(&delete.attributes, "target"), Some(place.target()));
        assert!(attribute(&delete.attributes, "job_id").is_some() && attribute(&delete.attributes, "data_class").is_some());
        let parent = spans.iter().find(|span| span.span_id == delete.parent_span_id).expect("its parent");
        assert_eq!(parent.name, "executor.purge");
    }
    assert!(!receiver.got().iter().any(|got| String::from_utf8_lossy(&got.body).contains(CANARY)), "an account is named");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_the_desk_is_a_span_without_its_address_and_the_stop_sends_the_last() {
    let receiver = Receiver::start(false);
    let mut world = World::new().await;
    world.set("TELEMETRY__OTLP_ENDPOINT", &address(receiver.port)).set("LOG__LEVEL", "debug");
    world.account(CANARY, "null", "null", "null").await;
    let mut daemon = world.daemon();
    let started = daemon.wait_for("its start", |e| e["event"] == "daemon.started").await;
    daemon.wait_for("a comparison", |e| e["event"] == "poll.completed").await;
    let desk = started["listen"].as_str().unwrap().parse().unwrap();
    assert_eq!(send(desk, "GET", &format!("/api/v1/accounts/{CANARY}/explain"), &[], b"").status, 200);
    let line = daemon.wait_for("the request", |e| e["event"] == "api.request" && e["status"] == 200).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await, Some(0));
    let (spans, _) = receiver.spans();
    let request = spans.iter().find(|span| ids_of(span) == ids(&line)).expect("the span that the line names");
    assert_eq!(request.name, "http.request");
    let route = line["route"].as_str().unwrap();
    assert!(!route.contains(CANARY));
    assert_eq!(known(request, &["http.request.method", "http.route", "http.response.status_code"]), some(&["GET", route, "200"]));
    assert!(!receiver.got().iter().any(|got| String::from_utf8_lossy(&got.body).contains(CANARY)), "an account is named");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nobody_there_everything_is_purged_and_one_line_says_that_traces_are_lost() {
    let mut world = World::new().await;
    world.set("TELEMETRY__OTLP_ENDPOINT", &address(free_port())).set("LOG__LEVEL", "trace");
    world.account("a", OLD, "null", "null").await;
    let began = Instant::now();
    let lines = run_once(&world);
    assert!(began.elapsed() < Duration::from_mins(1), "{:?}", began.elapsed());
    assert_eq!(world.left("a").await, left(0, 0, 0, 2));
    let failed: Vec<&Value> = lines.iter().filter(|line| line["event"] == "traces.failed").collect();
    assert_eq!((failed.len(), &failed[0]["level"]), (1, &Value::from("warn")), "{failed:?}");
    assert!(failed[0]["spans"].as_u64().unwrap() > 0);
    let libraries = lines.iter().filter_map(|line| line["target"].as_str()).filter(|target| target.starts_with("opentelemetry"));
    assert_eq!(libraries.collect::<Vec<_>>(), [""; 0], "the libraries say nothing of their own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_never_answers_holds_the_end_for_two_seconds_and_no_longer() {
    let receiver = Receiver::start(true);
    let mut world = World::new().await;
    world.set("TELEMETRY__OTLP_ENDPOINT", &address(receiver.port));
    world.account("a", OLD, "null", "null").await;
    let mut daemon = world.daemon();
    daemon.wait_for("the purge", |e| e["event"] == "job.completed").await;
    // The sender is in the middle of a request that nobody answers.
    until("a request", || async { !receiver.got().is_empty() }).await;
    daemon.signal(Signal::TERM);
    daemon.wait_for("the end of the work", |e| e["event"] == "daemon.stopped").await;
    let began = Instant::now();
    assert_eq!(daemon.ended().await, Some(0));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let failed = daemon.events().into_iter().filter(|line| line["event"] == "traces.failed").count();
    assert_eq!(failed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_key_no_line_has_an_id_and_no_variable_turns_traces_on() {
    // Whoever listens here is never called.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut world = World::new().await;
    let here = address(listener.local_addr().unwrap().port());
    world.settings.insert("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), here);
    world.set("LOG__LEVEL", "trace");
    world.account("a", OLD, "null", "null").await;
    let lines = run_once(&world);
    assert!(lines.iter().any(|line| line["event"] == "job.completed"));
    for line in &lines {
        assert!(line.get("trace_id").is_none() && line.get("span_id").is_none(), "{line}");
    }
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

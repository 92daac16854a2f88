//! The ops listener: is the process alive, is it of use (contract §7, R46), and its figures for monitors. Open to all, so it carries no account data.
//! Knows neither passes nor databases: what to answer is asked from outside.

mod connections;
mod healthcheck;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::future::BoxFuture;
use serde::Serialize;
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::terminal::printable;

pub use healthcheck::{HealthcheckError, healthcheck};

/// How long the database may take to say that it is there (R46).
const READY_LIMIT: Duration = Duration::from_secs(2);

/// Why a probe failed, for the one who reads the answer. Names no account and no address with credentials.
pub type Reason = String;

/// What was asked of a probe, by name.
pub type Checks = Vec<(&'static str, Result<(), Reason>)>;

/// What the ops listener asks.
#[derive(Clone)]
pub struct Ops {
    /// Whether every pass moves, and if not, which hangs. Answers at once, without the database.
    pub live: Arc<dyn Fn() -> Checks + Send + Sync>,
    /// Whether the daemon can do its work now. Asks the database; dropped after two seconds.
    pub ready: Arc<dyn Fn() -> BoxFuture<'static, Checks> + Send + Sync>,
    /// Figures in the Prometheus text format. May ask the database, and must bound itself.
    pub figures: Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>,
}

impl Ops {
    /// Takes plain closures.
    pub fn new<F>(live: impl Fn() -> Checks + Send + Sync + 'static, ready: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Checks> + Send + 'static,
    {
        Self { live: Arc::new(live), ready: Arc::new(move || Box::pin(ready())), figures: Arc::new(|| Box::pin(async { String::new() })) }
    }

    /// The same, with figures to show at `/metrics`.
    #[must_use]
    pub fn with_figures<F>(self, figures: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = String> + Send + 'static,
    {
        Self { figures: Arc::new(move || Box::pin(figures())), ..self }
    }
}

/// Why the listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{key}: cannot listen on {addr}; {remedy}")]
pub struct BindError {
    key: &'static str,
    addr: SocketAddr,
    remedy: &'static str,
    source: io::Error,
}

/// Opens a listener, before anything else is started, so that a taken port is a clear error. `key` is where its address is configured.
///
/// # Errors
/// When the address cannot be had; the message names the key and the remedy.
pub async fn bind(key: &'static str, addr: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(addr).await.map_err(|source| {
        let kind = source.kind();
        let remedy = if kind == io::ErrorKind::AddrInUse {
            "end what listens there (another retentiond?), or set it to a free port"
        } else if kind == io::ErrorKind::PermissionDenied {
            "set it to a port above 1023"
        } else {
            "set it to an address of this machine"
        };
        BindError { key, addr, remedy, source }
    })
}

/// Answers `/livez`, `/readyz` and `/metrics` until the stop, and returns within three seconds after it, whatever clients do.
pub async fn serve(listener: TcpListener, ops: Ops, stop: CancellationToken) {
    connections::serve(listener, routes(ops), stop).await;
}

/// Who is at the other end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// Answers what the router knows until the stop, as [`serve`] does. Requests carry their [`Peer`] as an extension.
pub async fn serve_router(listener: TcpListener, router: Router, stop: CancellationToken) {
    connections::serve(listener, router, stop).await;
}

fn routes(ops: Ops) -> Router {
    Router::new().route("/livez", get(livez)).route("/readyz", get(readyz)).route("/metrics", get(figures)).with_state(ops)
}

async fn figures(State(ops): State<Ops>) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    (headers, (ops.figures)().await).into_response()
}

async fn livez(State(ops): State<Ops>, RawQuery(query): RawQuery) -> Response {
    answer((ops.live)(), query.as_deref())
}

async fn readyz(State(ops): State<Ops>, RawQuery(query): RawQuery) -> Response {
    let late = |_| vec![("database", Err("the database did not answer within 2 s".to_owned()))];
    answer(timeout(READY_LIMIT, (ops.ready)()).await.unwrap_or_else(late), query.as_deref())
}

#[derive(Serialize)]
struct Answer {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
}

/// 200 when every check that is not excluded passed. `verbose` lists them, `exclude=NAME` leaves one out and may be given more than once.
fn answer(mut checks: Checks, query: Option<&str>) -> Response {
    let asked: Vec<&str> = query.unwrap_or_default().split('&').collect();
    let excluded =
        |name: &str| asked.iter().any(|part| part.strip_prefix("exclude=").is_some_and(|given| given.replace("%20", " ") == name));
    checks.retain(|(name, _)| !excluded(name));
    let failed = checks.iter().find_map(|(_, outcome)| outcome.as_ref().err());
    let code = if failed.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if asked.iter().any(|part| *part == "verbose" || part.starts_with("verbose=")) {
        let line = |(name, outcome): &(&str, Result<(), Reason>)| match outcome {
            Ok(()) => format!("[+]{name} ok\n"),
            Err(reason) => format!("[-]{name} {}\n", printable(reason)),
        };
        let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
        return (code, headers, checks.iter().map(line).collect::<String>()).into_response();
    }
    let answer = match failed {
        None => Answer { status: "ok", reason: None },
        Some(reason) => Answer { status: "unavailable", reason: Some(reason.clone()) },
    };
    // Two texts, which serde_json always writes.
    let body = serde_json::to_string(&answer).unwrap_or_default() + "\n";
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (code, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::Mutex,
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        task::JoinHandle,
        time::Instant,
    };

    use super::*;

    fn fine() -> Ops {
        Ops::new(Vec::new, || ready(Vec::new()))
    }

    struct Served {
        addr: SocketAddr,
        stop: CancellationToken,
        done: JoinHandle<()>,
    }

    #[expect(clippy::disallowed_methods, reason = "the test itself waits for it")]
    async fn serving(ops: Ops) -> Served {
        let listener = bind("http.ops_listen", "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (addr, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let done = tokio::spawn(serve(listener, ops, stop.clone()));
        Served { addr, stop, done }
    }

    impl Served {
        async fn get(&self, path: &str) -> (String, String) {
            let mut stream = TcpStream::connect(self.addr).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
        }
    }

    #[tokio::test]
    async fn alive_and_ready_are_answered_and_all_else_is_404() {
        let served = serving(fine()).await;
        for path in ["/livez", "/readyz"] {
            assert_eq!(served.get(path).await, ("200".into(), "{\"status\":\"ok\"}\n".into()));
        }
        for path in ["/", "/api/v1/jobs", "/livez/x"] {
            assert_eq!(served.get(path).await.0, "404", "{path}");
        }
    }

    #[tokio::test]
    async fn figures_are_asked_each_time_and_answered_as_they_are() {
        let scrapes = Mutex::new(0);
        let figures = move || {
            *scrapes.lock().unwrap() += 1;
            ready(format!("scrapes {}\n", scrapes.lock().unwrap()))
        };
        let served = serving(fine().with_figures(figures)).await;
        for n in 1..=2 {
            assert_eq!(served.get("/metrics").await, ("200".into(), format!("scrapes {n}\n")));
        }
    }

    #[tokio::test]
    async fn an_unreachable_database_is_not_ready_but_alive() {
        let away = || ready(vec![("database", Err("the database is unreachable".to_owned()))]);
        let served = serving(Ops::new(Vec::new, away)).await;
        let body = "{\"status\":\"unavailable\",\"reason\":\"the database is unreachable\"}\n";
        assert_eq!(served.get("/readyz").await, ("503".into(), body.into()));
        assert_eq!(served.get("/livez").await.0, "200");
    }

    #[tokio::test]
    async fn readiness_is_asked_each_time_so_the_first_failure_shows() {
        let answers = Mutex::new(vec![Ok(()), Err("gone".to_owned()), Ok(())]);
        let probe = move || ready(vec![("database", answers.lock().unwrap().pop().unwrap())]);
        let served = serving(Ops::new(Vec::new, probe)).await;
        for want in ["200", "503", "200"] {
            assert_eq!(served.get("/readyz").await.0, want);
        }
    }

    #[tokio::test]
    async fn a_verbose_probe_lists_every_check_and_an_excluded_one_does_not_count() {
        let checks = || vec![("database", Ok(())), ("schema", Err("older\nthan this program".to_owned())), ("ledger check", Ok(()))];
        let served = serving(Ops::new(checks, move || ready(checks()))).await;
        for path in ["/livez", "/readyz"] {
            let (code, body) = served.get(&format!("{path}?verbose")).await;
            assert_eq!((code.as_str(), body.lines().count()), ("503", 3), "{body}");
            assert!(body.starts_with("[+]database ok\n[-]schema older"), "{body}");
            let (code, body) = served.get(&format!("{path}?verbose&exclude=schema&exclude=ledger%20check")).await;
            assert_eq!((code.as_str(), body.as_str()), ("200", "[+]database ok\n"));
            assert_eq!(served.get(&format!("{path}?exclude=schema")).await.0, "200");
            assert_eq!(served.get(&format!("{path}?exclude=database")).await.0, "503");
        }
    }

    #[tokio::test]
    async fn a_hung_pass_is_not_alive() {
        let served = serving(Ops::new(|| vec![("planner", Err("planner hangs".to_owned()))], || ready(Vec::new()))).await;
        let (code, body) = served.get("/livez").await;
        assert_eq!((code.as_str(), body.contains("planner hangs")), ("503", true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_that_does_not_answer_is_not_ready_after_two_seconds() {
        let start = Instant::now();
        let (code, body) = serving(Ops::new(Vec::new, pending)).await.get("/readyz").await;
        assert_eq!((code.as_str(), body.contains("within 2 s")), ("503", true));
        assert_eq!(start.elapsed().as_secs(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_half_a_request_is_hung_up_on() {
        let (served, start) = (serving(fine()).await, Instant::now());
        let mut stream = TcpStream::connect(served.addr).await.unwrap();
        stream.write_all(b"GET /livez HT").await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn silent_clients_do_not_keep_a_probe_out_for_long() {
        let (served, start) = (serving(fine()).await, Instant::now());
        let mut crowd = Vec::new();
        for _ in 0..64 {
            crowd.push(TcpStream::connect(served.addr).await.unwrap());
        }
        assert_eq!(served.get("/livez").await.0, "200");
        assert!(start.elapsed().as_secs() <= 5, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn no_client_holds_the_stop_and_a_running_answer_is_still_given() {
        let (asked, seen) = tokio::sync::oneshot::channel();
        let asked = Mutex::new(Some(asked));
        let probe = move || {
            asked.lock().unwrap().take().unwrap().send(()).unwrap();
            pending()
        };
        let served = serving(Ops::new(Vec::new, probe)).await;
        let mut silent = TcpStream::connect(served.addr).await.unwrap();
        silent.write_all(b"GET /live").await.unwrap();
        let mut running = TcpStream::connect(served.addr).await.unwrap();
        running.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        seen.await.unwrap();
        served.stop.cancel();
        let start = Instant::now();
        served.done.await.unwrap();
        assert!(start.elapsed() <= Duration::from_secs(3), "{:?}", start.elapsed());
        let mut answer = String::new();
        running.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(TcpStream::connect(served.addr).await.is_err(), "still listening");
    }

    #[tokio::test]
    async fn a_crowd_of_silent_clients_does_not_keep_a_stop_waiting() {
        let served = serving(fine()).await;
        let mut crowd = Vec::new();
        for _ in 0..100 {
            crowd.push(TcpStream::connect(served.addr).await.unwrap());
        }
        served.stop.cancel();
        served.done.await.unwrap();
    }

    #[tokio::test]
    async fn a_taken_port_names_the_key_the_address_and_the_remedy() {
        let taken = bind("http.ops_listen", "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = taken.local_addr().unwrap();
        let text = bind("http.ops_listen", addr).await.unwrap_err().to_string();
        let start = format!("http.ops_listen: cannot listen on {addr}; ");
        assert!(text.starts_with(&start) && text.contains("free port"), "{text}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_healthcheck_hears_the_listener() {
        let served = serving(fine()).await;
        let addr = served.addr;
        tokio::task::spawn_blocking(move || healthcheck(addr)).await.unwrap().unwrap();
    }
}

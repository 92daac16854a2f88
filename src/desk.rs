//! The operator's desk: the API at `/api/v1` and the pages at `/`, on a listener of their own. It reads through the gateways and acts through
//! [`crate::acts`], with few connections of its own, so that no screen keeps a purge waiting. Nothing can be deleted before its time from here.

mod api;
mod auth;
mod figures;
pub mod pages;
pub mod plot;
mod problem;
mod read;
mod site;
mod submit;

use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Extension, Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderValue, Method, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use futures_util::future::BoxFuture;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::time::timeout;

use crate::{
    app::{App, Front},
    config::{self, Config, Role},
    database::{self, Database, DatabaseError, Purpose, Tx},
    failure::Failure,
    http, metrics,
    notices::Inbound,
    outlook, spans,
};

pub use auth::fresh_token;
pub use auth::{Principal, hash};
use figures::Counter;
use problem::Problem;

/// Connections of the desk's own, for reading.
const CONNECTIONS: u32 = 4;
/// And for acts, so that nobody who reads much keeps a stop waiting.
const ACT_CONNECTIONS: u32 = 2;
/// No statement that somebody waits for takes longer: it would go on when nobody does any more.
const STATEMENT: Duration = Duration::from_secs(8);
/// What still runs at the stop is left to the database.
const CLOSING: Duration = Duration::from_secs(2);
/// Bytes of a request's body.
const BODY_LIMIT: usize = 64 * 1024;
/// How long an answer may take altogether.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Requests that one client may send in a second, and so many at once.
const RATE: NonZeroU32 = NonZeroU32::new(50).unwrap();
const BURST: NonZeroU32 = NonZeroU32::new(200).unwrap();
/// What the catalogue says is asked for anew after so long.
const APP_LIFE: Duration = Duration::from_mins(1);

/// What every handler has.
#[derive(Clone)]
pub(crate) struct Desk(Arc<Inner>);

struct Inner {
    config: Arc<Config>,
    database: Database,
    acting: Database,
    front: Front,
    app: Mutex<Option<(Instant, App)>>,
    counter: Counter,
    limiter: DefaultKeyedRateLimiter<String>,
    inbound: Inbound,
}

/// Serves the desk until the stop. Waits for no database: while that is away, answers say so.
///
/// # Errors
/// When the address of the database cannot be parsed.
pub fn serve(front: Front) -> Result<BoxFuture<'static, ()>, DatabaseError> {
    let desk = Desk::new(front)?;
    let Some(listener) = desk.0.front.take_listener() else { return Ok(Box::pin(async {})) };
    let stop = desk.0.front.stop.clone();
    let router = router(desk.clone());
    Ok(Box::pin(async move {
        tokio::select! {
            () = http::serve_router(listener, router, stop) => {}
            // Never ends by itself, and counts nothing while nobody asks.
            () = desk.0.counter.run(&desk.0.database) => {}
        }
        let closed = futures_util::future::join(desk.0.database.close(), desk.0.acting.close());
        let _ = timeout(CLOSING, closed).await;
    }))
}

impl Desk {
    fn new(front: Front) -> Result<Self, DatabaseError> {
        let config = Arc::clone(&front.config);
        let pool = |max_connections| Database::new(&config::Database { max_connections, ..config.database.clone() });
        let (database, acting) = (pool(CONNECTIONS)?, pool(ACT_CONNECTIONS)?);
        let limiter = RateLimiter::keyed(Quota::per_second(RATE).allow_burst(BURST));
        Ok(Self(Arc::new(Inner {
            config,
            database,
            acting,
            front,
            app: Mutex::default(),
            counter: Counter::default(),
            limiter,
            inbound: Inbound::default(),
        })))
    }

    pub(crate) fn config(&self) -> &Arc<Config> {
        &self.0.config
    }

    /// What the ops listener would say: alive, and ready.
    pub(crate) fn probes(&self) -> &http::Ops {
        &self.0.front.probes
    }

    /// Events that the platform has sent.
    pub(crate) fn inbound(&self) -> &Inbound {
        &self.0.inbound
    }

    /// A look at the source happens soon, whatever its interval.
    pub(crate) fn wake(&self) {
        (self.0.front.wake)();
    }

    /// A transaction for what a screen shows: short, read only, by index and in its order.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn screen(&self) -> Result<Tx, Problem> {
        Ok(self.0.database.begin(Purpose::Screen).await?)
    }

    /// A transaction for what is read as a whole, like a report.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn reading(&self) -> Result<Tx, Problem> {
        let mut tx = self.0.database.begin(Purpose::Read).await?;
        database::limit_statements(&mut tx, STATEMENT).await?;
        Ok(tx)
    }

    /// A transaction for an act.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn begin_act(&self, purpose: Purpose) -> Result<Tx, Problem> {
        Ok(self.0.acting.begin(purpose).await?)
    }

    /// The policy joined with the catalogue, as it was a minute ago at most.
    ///
    /// # Errors
    /// When the database is away, or does not fit the configuration.
    pub(crate) async fn app(&self) -> Result<App, Problem> {
        let known = self.0.app.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, app)) = known
            && at.elapsed() < APP_LIFE
        {
            return Ok(app);
        }
        let app = App::fit(Arc::clone(&self.0.config), self.0.database.clone()).await?;
        *self.0.app.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), app.clone()));
        Ok(app)
    }

    /// Figures over all jobs, not older than the work of counting them allows; `None` while they are counted for the first time.
    pub(crate) async fn figures(&self) -> Option<Arc<crate::jobs::Figures>> {
        self.0.counter.figures().await
    }

    /// What `status` says, with figures as they were counted last.
    ///
    /// # Errors
    /// Those of the database.
    pub(crate) async fn status(&self) -> Result<outlook::Status, Problem> {
        // Unknown is not none.
        let counting = || Problem::unavailable("the jobs are being counted, or cannot be counted now; ask again in a moment");
        let jobs = self.figures().await.ok_or_else(counting)?.jobs.clone();
        let mut tx = self.screen().await?;
        Ok(outlook::status_with(&mut tx, self.0.config.mode, &self.0.config.terms(), jobs).await?)
    }
}

fn router(desk: Desk) -> Router {
    Router::new()
        .merge(api::routes())
        .merge(site::routes())
        .fallback(|| async { Problem::not_found("there is nothing at this address; /api/v1/openapi.json lists what there is") })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(desk.clone(), around))
        .with_state(desk)
}

/// What is done for every request, as one span.
async fn around(State(desk): State<Desk>, request: Request, next: Next) -> Response {
    let method = method_label(request.method());
    let route = request.extensions().get::<MatchedPath>().map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    spans::request(&method, &route, answer(&desk, request, next, &route)).await
}

/// Who is it, is it too much, does it take too long; and what is said of it afterwards.
async fn answer(desk: &Desk, mut request: Request, next: Next, route: &str) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let peer = request.extensions().get::<http::Peer>().map(|peer| peer.0);
    let who = auth::authenticate(desk.config(), request.headers(), peer);
    let actor = who.as_ref().ok().map(|who| who.name.clone());
    let (address, reader) = (request.uri().clone(), who.as_ref().ok().cloned());
    let response = if let Err(problem) = admit(desk, &who, peer, &request) {
        problem.into_response()
    } else {
        if let Ok(who) = who {
            request.extensions_mut().insert(who);
        }
        let answered = timeout(TIME_LIMIT, next.run(request)).await.unwrap_or_else(|_| Problem::too_slow().into_response());
        problem::spelt_out(answered)
    };
    let response = site::in_words(reader, &address, response);
    let (status, took) = (response.status().as_u16(), began.elapsed());
    metrics::answered(&method_label(&method), route, status, took);
    spans::answered(status);
    let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    if method == Method::GET && status < 400 {
        tracing::debug!(event = "api.request", method = method.as_str(), route, status, duration_ms, actor, "answered");
    } else {
        tracing::info!(event = "api.request", method = method.as_str(), route, status, duration_ms, actor, "answered");
    }
    harden(response)
}

/// A closed set, whatever a client calls its method.
fn method_label(method: &Method) -> String {
    if [Method::GET, Method::HEAD, Method::POST].contains(method) { method.as_str().to_owned() } else { "other".to_owned() }
}

fn admit(desk: &Desk, who: &Result<Principal, Problem>, peer: Option<IpAddr>, request: &Request) -> Result<(), Problem> {
    let key = who
        .as_ref()
        .map_or_else(|_| format!("peer {}", peer.map(|p| p.to_string()).unwrap_or_default()), |who| format!("name {}", who.name));
    if desk.0.limiter.len() > 1_000 {
        desk.0.limiter.retain_recent();
    }
    if desk.0.limiter.check_key(&key).is_err() {
        return Err(Problem::too_many());
    }
    auth::same_origin(request)?;
    let uri = request.uri();
    if uri.path().contains("%00") || uri.query().is_some_and(|query| query.contains("%00")) {
        return Err(Problem::bad_request("the address holds the character zero, which no name has"));
    }
    if is_open(request.uri().path()) {
        return Ok(());
    }
    match who {
        Err(problem) => Err(problem.clone()),
        Ok(who) if who.role == Role::Ingest && request.uri().path() != api::EVENTS => {
            Err(Problem::forbidden("the role ingest may do nothing but POST /api/v1/events"))
        }
        Ok(_) => Ok(()),
    }
}

/// What is answered to everybody: it tells of nobody.
fn is_open(path: &str) -> bool {
    path == "/api/v1/openapi.json" || path == pages::links::SIGN_IN || path.starts_with("/assets/")
}

/// Nothing from elsewhere is loaded, nothing frames a page, nothing is kept by caches.
fn harden(mut response: Response) -> Response {
    const CSP: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CSP),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // With no-referrer, a form would say that it comes from nowhere, and be refused.
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        if let Failure::Database(error) = failure { error.into() } else { Problem::unavailable(&failure.to_string()) }
    }
}

/// Whoever asks, for handlers.
pub(crate) type Who = Extension<Principal>;

//! Sends spans to a receiver of OTLP over HTTP, in a thread of its own. Whoever works never waits for it: what does not fit the queue, or cannot be sent, is
//! lost, and one warning an hour says so. Which spans there are is `spans`.

use std::{
    collections::HashMap,
    error::Error,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use opentelemetry::{
    Context, KeyValue,
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter},
};
use secrecy::ExposeSecret as _;
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::FilterFn, registry::LookupSpan};

use super::TelemetryError;
use crate::{config, spans};

/// How long one request may take, further tries included.
const REQUEST: Duration = Duration::from_secs(5);
/// How often what has ended is sent.
const INTERVAL: Duration = Duration::from_secs(2);
/// Spans that wait at most: some megabytes.
const QUEUE: usize = 8_192;
/// Spans in one request at most.
const BATCH: usize = 512;
/// How long the end of the process waits for the last spans.
const FLUSH: Duration = Duration::from_secs(2);
/// After a warning no other for so long.
const SILENCE: Duration = Duration::from_hours(1);

/// What sends.
#[derive(Debug)]
pub(super) struct Sender {
    provider: SdkTracerProvider,
    complaint: Arc<Complaint>,
}

impl Sender {
    /// Opens no connection. Must not be called inside the runtime: the client has one of its own.
    pub(super) fn new(traces: &config::Traces) -> Result<Self, TelemetryError> {
        let refused = |error: &dyn Error| TelemetryError::Traces(super::chain(error));
        // Somebody else may have installed it: there is only this one.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::blocking::Client::builder()
            .user_agent("retentiond")
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(FLUSH)
            .timeout(REQUEST)
            .build()
            .map_err(|error| refused(&error))?;
        let headers: HashMap<String, String> =
            traces.headers.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned())).collect();
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(&traces.endpoint)
            .with_headers(headers)
            .with_timeout(REQUEST)
            .build()
            .map_err(|error| refused(&error))?;
        Ok(Self::of(exporter, &traces.service_name))
    }

    /// Everything is said here, so that no variable of the environment says it otherwise.
    fn of(exporter: impl SpanExporter + 'static, service_name: &str) -> Self {
        let complaint = Arc::<Complaint>::default();
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(INTERVAL)
            .build();
        let told = Told { exporter, complaint: Arc::clone(&complaint) };
        let resource = Resource::builder_empty()
            .with_service_name(service_name.to_owned())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(told).with_batch_config(batches).build())
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource)
            .build();
        Self { provider, complaint }
    }

    /// The layer that hands over our spans and nothing else: events, which may name an account, stay in the log.
    pub(super) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        let ours = FilterFn::new(|data| data.is_span() && data.target() == spans::TARGET).with_max_level_hint(LevelFilter::INFO);
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("retentiond"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_level(false)
            .with_tracked_inactivity(false)
            .with_filter(ours)
    }

    /// Sends what is left, within [`FLUSH`].
    pub(super) fn finish(&self) {
        // Of what failed before there was a line, and how many there were left is not known.
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH) {
            self.complaint.failed(0, &error);
        }
    }
}

/// Trace and span that this thread is in, as a line shows them.
pub(super) fn current() -> Option<(String, String)> {
    Context::map_current(|context| {
        let span = context.span();
        let ids = span.span_context();
        ids.is_valid().then(|| (ids.trace_id().to_string(), ids.span_id().to_string()))
    })
}

/// Says that spans are lost, and then nothing for a while.
#[derive(Debug, Default)]
struct Complaint {
    last: Mutex<Option<Instant>>,
    /// Since the process began.
    lost: AtomicU64,
}

impl Complaint {
    fn failed(&self, spans: usize, error: &dyn fmt::Display) {
        let total = self.lost.fetch_add(spans as u64, Ordering::Relaxed) + spans as u64;
        let mut said = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_some_and(|at| at.elapsed() < SILENCE) {
            return;
        }
        *said = Some(Instant::now());
        drop(said);
        tracing::warn!(
            event = "traces.failed",
            error = %error,
            spans = (total > 0).then_some(total),
            "traces cannot be sent and are lost; nothing else is; this is said once an hour at most"
        );
    }
}

/// A worker that looked for jobs and found none: it does so all day long, and nothing happens within.
fn is_idle(span: &SpanData) -> bool {
    span.name == spans::CLAIM
        && span.attributes.iter().any(|pair| pair.key.as_str() == "jobs" && pair.value == opentelemetry::Value::I64(0))
}

/// An exporter whose failures are told.
#[derive(Debug)]
struct Told<E> {
    exporter: E,
    complaint: Arc<Complaint>,
}

impl<E: SpanExporter> SpanExporter for Told<E> {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        batch.retain(|span| !is_idle(span));
        if batch.is_empty() {
            return Ok(());
        }
        let spans = batch.len();
        let sent = self.exporter.export(batch).await;
        if let Err(error) = &sent {
            self.complaint.failed(spans, error);
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        thread,
    };

    use futures_util::FutureExt as _;
    use opentelemetry_sdk::error::OTelSdkError;
    use serde_json::Value as Json;
    use tracing::Span;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::super::{Log, Style, filter};
    use super::*;

    /// Lines of the log.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Written {
        fn lines(&self) -> Vec<Json> {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    /// Keeps what it is to export, or fails.
    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>, bool);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            if self.1 { Err(OTelSdkError::InternalFailure("nobody is there".to_owned())) } else { Ok(()) }
        }
    }

    /// A purge as the executor would have it, with a line within and one without.
    fn purge() {
        let batch = async {
            tracing::info!(event = "batch.deleted", account_id = "canary", "within");
            tracing::trace!("of no event");
            spans::deleted(3);
            Ok::<_, ()>(Span::current().is_disabled())
        };
        let purge = spans::purge(("mps", "queue"), 1, spans::batch(("mps", "queue"), &[17], batch));
        let disabled = purge.now_or_never().unwrap().unwrap();
        tracing::info!(event = "poll.completed", disabled, "without");
    }

    #[test]
    fn without_a_receiver_no_span_of_ours_is_enabled_at_any_level_and_lends_no_field() {
        for level in ["trace", "info", "retentiond=trace", "retentiond::spans=trace"] {
            let written = Written::default();
            let log = tracing_subscriber::registry().with(filter(level).unwrap()).with(Log::new(Style::Json, written.clone()));
            tracing::subscriber::with_default(log, purge);
            for line in written.lines() {
                assert!(line.get("feature").is_none() && line.get("trace_id").is_none(), "{line}");
                assert!(line["event"] != "poll.completed" || line["disabled"] == true, "{level}: {line}");
            }
        }
    }

    #[test]
    fn with_one_lines_name_the_span_they_were_said_in_and_nothing_but_spans_of_ours_is_sent() {
        for level in ["info", "trace"] {
            let (written, kept) = (Written::default(), Kept::default());
            let sender = Sender::of(kept.clone(), "retentiond");
            let log = Log { traced: true, ..Log::new(Style::Json, written.clone()) };
            let layers = tracing_subscriber::registry().with(log.with_filter(filter(level).unwrap())).with(sender.layer());
            tracing::subscriber::with_default(layers, || {
                let others = tracing::error_span!("another", account_id = "canary");
                others.in_scope(purge);
                // Its own last words.
                sender.finish();
            });
            let spans = kept.0.lock().unwrap().clone();
            let names: Vec<&str> = spans.iter().map(|span| span.name.as_ref()).collect();
            assert_eq!(names, ["executor.batch", "executor.purge"], "inside first");
            let (batch, purge) = (&spans[0], &spans[1]);
            assert_eq!(batch.parent_span_id, purge.span_context.span_id());
            let told = format!("{spans:?}");
            assert!(!told.contains("canary") && batch.events.events.is_empty(), "{told}");
            let known: Vec<String> = batch.attributes.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect();
            for pair in ["feature=mps", "data_class=queue", "jobs=1", "job_id=17", "records=3"] {
                assert!(known.iter().any(|known| known == pair), "{pair}: {known:?}");
            }
            let lines = written.lines();
            let within = lines.iter().find(|line| line["event"] == "batch.deleted").unwrap();
            assert_eq!(within["trace_id"], batch.span_context.trace_id().to_string());
            assert_eq!(within["span_id"], batch.span_context.span_id().to_string());
            assert!(within.get("feature").is_none(), "a span for traces lends no field: {within}");
            let without = lines.iter().find(|line| line["event"] == "poll.completed").unwrap();
            assert_eq!((without.get("trace_id"), &without["disabled"]), (None, &Json::from(false)));
        }
    }

    #[test]
    fn a_claim_that_found_nothing_is_not_sent_and_one_that_failed_or_found_something_is() {
        let kept = Kept::default();
        let sender = Sender::of(kept.clone(), "retentiond");
        tracing::subscriber::with_default(tracing_subscriber::registry().with(sender.layer()), || {
            for claimed in [Ok(vec![]), Err(()), Ok(vec![1])] {
                let _claimed = spans::claim(("mps", "queue"), std::future::ready(claimed)).now_or_never().unwrap();
            }
            sender.finish();
        });
        let spans = kept.0.lock().unwrap();
        let jobs = |span: &SpanData| span.attributes.iter().find(|pair| pair.key.as_str() == "jobs").map(|pair| pair.value.to_string());
        assert_eq!(spans.iter().map(jobs).collect::<Vec<_>>(), [None, Some("1".to_owned())]);
        assert!(matches!(spans[0].status, opentelemetry::trace::Status::Error { .. }), "{:?}", spans[0].status);
    }

    #[test]
    fn that_traces_are_lost_is_said_once_with_how_many() {
        let written = Written::default();
        let log = tracing_subscriber::registry().with(filter("info").unwrap()).with(Log::new(Style::Json, written.clone()));
        let told = Told { exporter: Kept(Arc::default(), true), complaint: Arc::default() };
        let span = || {
            let kept = Kept::default();
            let sender = Sender::of(kept.clone(), "retentiond");
            let layers = tracing_subscriber::registry().with(sender.layer());
            tracing::subscriber::with_default(layers, || spans::number(async { Ok::<_, ()>(0) }).now_or_never().unwrap().unwrap());
            sender.finish();
            kept.0.lock().unwrap().clone()
        };
        tracing::subscriber::with_default(log, || {
            for _ in 0..3 {
                assert!(told.export([span(), span()].concat()).now_or_never().unwrap().is_err());
            }
        });
        let lines = written.lines();
        assert_eq!((lines.len(), &lines[0]["event"], &lines[0]["spans"]), (1, &Json::from("traces.failed"), &Json::from(2)));
        assert!(lines[0]["error"].as_str().unwrap().contains("nobody is there"), "{}", lines[0]);
        assert_eq!(told.complaint.lost.load(Ordering::Relaxed), 6);
        let an_hour_ago = Instant::now().checked_sub(SILENCE).expect("the machine is up for longer");
        *told.complaint.last.lock().unwrap() = Some(an_hour_ago);
        let again = Written::default();
        let log = tracing_subscriber::registry().with(Log::new(Style::Json, again.clone()));
        tracing::subscriber::with_default(log, || told.complaint.failed(1, &"x"));
        assert_eq!((again.lines().len(), &again.lines()[0]["spans"]), (1, &Json::from(7)));
    }

    #[test]
    fn whoever_works_never_waits_for_a_receiver_that_hangs() {
        #[derive(Debug)]
        struct Hangs;
        impl SpanExporter for Hangs {
            async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
                loop {
                    thread::park();
                }
            }
        }
        let sender = Sender::of(Hangs, "retentiond");
        let began = Instant::now();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(sender.layer()), || {
            for _ in 0..QUEUE * 2 {
                spans::number(async { Ok::<_, ()>(0) }).now_or_never().unwrap().unwrap();
            }
            sender.finish();
        });
        // Either the farewell was not answered in time, or there was no room for it.
        assert!(began.elapsed() < FLUSH + Duration::from_secs(5), "{:?}", began.elapsed());
    }
}

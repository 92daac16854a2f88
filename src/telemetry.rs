//! What the process says: one event, one line, flat JSON for machines or text for people (contract §6, R35); and, where that is configured, its traces.
//! Decides nothing; knows events only to count them. A line that cannot be written is lost, never a reason to stop or panic.

use std::{
    error::Error,
    fs::File,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    panic,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    thread,
};

use tracing::{Event, Subscriber, level_filters::LevelFilter, span, subscriber::SetGlobalDefaultError};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    layer::{Context, SubscriberExt as _},
    registry::LookupSpan,
    reload,
};

use crate::{
    config::{self, Config, LogFormat},
    metrics, spans, terminal,
};

pub mod events;
mod fields;
mod line;
mod pseudonym;
#[cfg(feature = "otlp")]
mod traces;
#[cfg(test)]
mod tests;

use fields::{Fields, Value};
use line::{Line, Style};
use pseudonym::Pseudonyms;

/// The filter of the whole process, which a reload replaces.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Which stream carries the log: stdout for the daemon, stderr for one-shot verbs, whose stdout is data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("log.level = {level:?}: {why}; use error, warn, info, debug, trace or off, or target=level")]
    Level {
        /// As configured.
        level: String,
        /// What is wrong with it.
        why: String,
    },
    /// The stream cannot be opened a second time.
    #[error("cannot open the stream for the log")]
    Stream(#[source] io::Error),
    /// Traces are configured and cannot be sent at all.
    #[error("telemetry.otlp_endpoint: {0}")]
    Traces(String),
    /// There is nothing to change the level of.
    #[error("the log is not set up")]
    Missing,
    /// A second call.
    #[error("the log is already set up")]
    Installed(#[from] SetGlobalDefaultError),
}

/// Sets up the log for the whole process, panics included when they would otherwise spoil it (R35). Once per process.
///
/// # Errors
/// When the level is no filter, or the log is already set up.
pub fn init(log: &config::Log, to: Stream) -> Result<(), TelemetryError> {
    install(log, to, &Traces::default())
}

/// [`init`] for the daemon: the log on stdout, and its traces where they are configured. Must not be called inside the runtime.
///
/// # Errors
/// Those of [`init`]; that traces cannot be sent at all, not that nobody takes them now.
pub fn begin(config: &Config) -> Result<Traces, TelemetryError> {
    #[cfg(feature = "otlp")]
    let traces = Traces(config.traces.as_ref().map(traces::Sender::new).transpose()?);
    #[cfg(not(feature = "otlp"))]
    let traces = Traces::default();
    install(&config.log, Stream::Stdout, &traces)?;
    Ok(traces)
}

/// The traces of this process, if it has any.
#[derive(Debug, Default)]
#[must_use = "without `finish` the last spans are lost"]
pub struct Traces(#[cfg(feature = "otlp")] Option<traces::Sender>);

impl Traces {
    /// Sends what is left, within two seconds. Blocks; must not be called inside the runtime.
    pub fn finish(self) {
        #[cfg(feature = "otlp")]
        if let Some(sender) = &self.0 {
            sender.finish();
        }
    }
}

fn install(log: &config::Log, to: Stream, traces: &Traces) -> Result<(), TelemetryError> {
    let (filter, handle) = reload::Layer::new(filter(&log.level)?);
    // A descriptor of its own: std's stdout keeps what it could not write and tries again in the middle of a later line.
    let stream = match to {
        Stream::Stdout => io::stdout().as_fd().try_clone_to_owned(),
        Stream::Stderr => io::stderr().as_fd().try_clone_to_owned(),
    };
    let stream = File::from(stream.map_err(TelemetryError::Stream)?);
    let style = match log.format {
        LogFormat::Auto if !stream.is_terminal() => Style::Json,
        LogFormat::Json => Style::Json,
        LogFormat::Auto | LogFormat::Text => Style::Text { colour: terminal::coloured(&stream) },
    };
    let log = Log { pseudonyms: log.account_key.clone().map(Pseudonyms::new), ..Log::new(style, stream) };
    set(filter, log.clone(), traces)?;
    let _ = FILTER.set(handle);
    // For people the text of a panic is better as it is, unless it may name an account.
    if style == Style::Json || log.pseudonyms.is_some() {
        panic::set_hook(Box::new(move |panic| log.panicked(panic)));
    }
    Ok(())
}

/// Without traces the filter holds for everything, so that a span of ours is as good as not there; with them for the log alone.
#[cfg_attr(not(feature = "otlp"), expect(unused_variables, reason = "there are none"))]
fn set(filter: reload::Layer<EnvFilter, Registry>, log: Log, traces: &Traces) -> Result<(), SetGlobalDefaultError> {
    #[cfg(feature = "otlp")]
    if let Some(sender) = &traces.0 {
        let log = Log { traced: true, ..log };
        return tracing::subscriber::set_global_default(tracing_subscriber::registry().with(log.with_filter(filter)).with(sender.layer()));
    }
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(filter).with(log))
}

/// Changes the level of the log that [`init`] set up.
///
/// # Errors
/// When it is no filter, or there is no log.
pub fn set_level(level: &str) -> Result<(), TelemetryError> {
    let filter = filter(level)?;
    FILTER.get().and_then(|handle| handle.reload(filter).ok()).ok_or(TelemetryError::Missing)
}

/// Shows the counters of warnings and errors that are zero: a rate needs a beginning.
pub fn show_counters() {
    for event in events::EVENTS {
        for level in event.levels.split(' ').filter(|level| matches!(*level, "warn" | "error")) {
            metrics::may_be_logged(event.name, level);
        }
    }
}

/// What the log calls the account under this key.
#[must_use]
pub fn pseudonym(key: &secrecy::SecretString, account: &str) -> String {
    Pseudonyms::new(key.clone()).of(account)
}

/// Reads `log.level`: a level, or `target=level` pairs. A bare word that is no level is refused: it would be taken for a
/// target, and a typo would silence everything.
///
/// # Errors
/// When it is neither.
pub fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let refused = |why: String| TelemetryError::Level { level: level.to_owned(), why };
    for part in level.split(',').map(str::trim) {
        let word = !part.contains(['=', '[']);
        if part.is_empty() || word && part.parse::<LevelFilter>().is_err() {
            return Err(refused(format!("{part:?} is no level")));
        }
    }
    // One driver repeats the server's notices at info, another calls each absent queue an error; whoever wants them can say so.
    // Spans for traces lend the log no fields, whatever its level.
    EnvFilter::try_new(format!("sqlx=warn,lapin=off,{level},{}=off", spans::TARGET)).map_err(|error| refused(chain(&error)))
}

/// An error with all its causes as one sentence: `cannot claim jobs: connection refused`. A cause that its outer text
/// already tells is not told again.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

/// The end of the line for every event: formats it and writes it out.
#[derive(Clone)]
struct Log {
    style: Style,
    pseudonyms: Option<Pseudonyms>,
    /// Each line says which span it was said in.
    #[cfg(feature = "otlp")]
    traced: bool,
    out: Arc<Mutex<Out>>,
}

struct Out {
    to: Box<dyn Write + Send>,
    /// The last line was cut off in its middle, by a full disk for example.
    torn: bool,
}

impl Log {
    fn new(style: Style, to: impl Write + Send + 'static) -> Self {
        Self {
            style,
            pseudonyms: None,
            #[cfg(feature = "otlp")]
            traced: false,
            out: Arc::new(Mutex::new(Out { to: Box::new(to), torn: false })),
        }
    }

    fn write(&self, line: &Line<'_>) {
        let mut text = String::with_capacity(512);
        line.render(self.style, &mut text);
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        terminal::beside_progress(|| out.write(&text));
    }

    /// Hides, writes, counts.
    fn tell(&self, level: tracing::Level, target: &str, mut fields: Fields) {
        let ours = target == "retentiond" || target.starts_with("retentiond::");
        if let Some(pseudonyms) = &self.pseudonyms {
            pseudonyms.hide(&mut fields, ours);
        }
        #[cfg(feature = "otlp")]
        if self.traced
            && let Some((trace, span)) = traces::current()
        {
            fields.set("trace_id", Value::text(trace));
            fields.set("span_id", Value::text(span));
        }
        self.write(&Line { level, target, fields: &fields });
        metrics::logged(events::named(fields.text("event")).name, line::level(level));
    }

    /// Goes past `tracing`, which drops what is said while another event is being recorded.
    fn panicked(&self, panic: &panic::PanicHookInfo<'_>) {
        let mut fields = Fields::default();
        fields.set("event", Value::text("daemon.panicked"));
        // A slice that went wrong quotes what it was a slice of.
        let text = match self.pseudonyms {
            None => panic.payload_as_str().unwrap_or("panic without a text"),
            Some(_) => "panicked; the text is withheld: it may name an account",
        };
        fields.set("message", Value::text(text));
        if let Some(location) = panic.location() {
            fields.set("location", Value::text(location.to_string()));
        }
        if let Some(name) = thread::current().name() {
            fields.set("thread", Value::text(name));
        }
        self.tell(tracing::Level::ERROR, module_path!(), fields);
    }
}

impl Out {
    /// One write for one line. A line that was torn is closed first, so that it spoils only itself.
    fn write(&mut self, line: &str) {
        if self.torn && self.to.write_all(b"\n").is_err() {
            return;
        }
        self.torn = false;
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            match self.to.write(rest) {
                Ok(written @ 1..) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => {
                    self.torn = rest.len() < line.len();
                    return;
                }
            }
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Log {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        if let Some(span) = ctx.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        if let Some(span) = ctx.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        // From the innermost span outwards: what is nearer to the event wins.
        for span in ctx.event_scope(event).into_iter().flatten() {
            if let Some(around) = span.extensions().get::<Fields>() {
                fields.inherit(around);
            }
        }
        let data = event.metadata();
        self.tell(*data.level(), data.target(), fields);
    }
}

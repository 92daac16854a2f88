//! Sends what waits: each endpoint for itself, a few at once, outside of every transaction. Killed between the answer and its mark, it sends again under the same id.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use serde_json::json;
use tokio_util::sync::CancellationToken;

#[cfg(feature = "notices")]
use super::client::{Answer, Client};
use super::{
    NoticeError,
    event::{Event, TEST},
    outbox::{self, Claimed, Owner},
};
use crate::{
    config::{Config, Endpoint},
    database::{Database, DatabaseError, Purpose},
    metrics,
    model::Mode,
};

/// Notices that are sent at once to one endpoint.
const AT_ONCE: i64 = 16;
/// How long a claimed notice is ours: longer than a request may take.
const LEASE: Duration = Duration::from_mins(1);
/// The first pause of a notice that was not taken; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);
/// The longest pause of an endpoint that takes nothing.
const LONGEST_REST: Duration = Duration::from_mins(1);
/// How often it is said that an endpoint does not take what it is sent.
const SAID_AGAIN: Duration = Duration::from_hours(1);

/// What came of one turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Notices that arrived.
    pub sent: usize,
    /// Notices that did not.
    pub failed: usize,
}

/// Sends.
#[derive(Debug, Clone)]
pub struct Notices {
    database: Database,
    config: Arc<Config>,
    lines: Arc<Vec<Line>>,
    /// However many endpoints there are, they take one connection from the purges.
    one_at_a_time: Arc<tokio::sync::Mutex<()>>,
}

/// The way to one endpoint.
#[derive(Debug)]
struct Line {
    endpoint: Endpoint,
    #[cfg(feature = "notices")]
    client: Result<Client, String>,
    /// When it was last said that it takes nothing.
    said: Mutex<Option<Instant>>,
    /// When it was last said that it is another daemon's.
    said_taken: Mutex<Option<Instant>>,
}

impl Notices {
    /// To the endpoints of this configuration. Opens nothing.
    #[must_use]
    pub fn new(database: Database, config: Arc<Config>) -> Self {
        let lines = config.notices.iter().map(|endpoint| Line {
            endpoint: endpoint.clone(),
            #[cfg(feature = "notices")]
            client: Client::new(endpoint),
            said: Mutex::default(),
            said_taken: Mutex::default(),
        });
        let lines = Arc::new(lines.collect());
        Self { database, config, lines, one_at_a_time: Arc::default() }
    }

    /// Looks and sends until told to stop; nobody waits for it, and no endpoint for another.
    pub async fn run(&self, stop: &CancellationToken) {
        let looking = async {
            while !stop.is_cancelled() {
                if let Err(error) = self.look().await {
                    tracing::debug!(event = "notice.delayed", error = %error, "what is soon due was not looked at");
                }
                rest(self.config.poll.interval, stop).await;
            }
        };
        let sending = futures_util::future::join_all(self.lines.iter().map(|line| self.send_until(line, stop)));
        tokio::join!(looking, sending);
    }

    async fn send_until(&self, line: &Line, stop: &CancellationToken) {
        let mut pause = self.config.poll.interval;
        while !stop.is_cancelled() {
            match self.turn(line).await {
                Ok(Delivered { sent: 1.., .. }) => {
                    pause = self.config.poll.interval;
                    continue;
                }
                Ok(Delivered { sent: 0, failed: 0 }) => pause = self.config.poll.interval,
                // An endpoint that takes nothing is not asked for everything that waits.
                Ok(_) => pause = (pause * 2).min(LONGEST_REST),
                Err(error) => {
                    tracing::debug!(event = "notice.delayed", endpoint = line.endpoint.name, error = %error, "will be tried again");
                    pause = (pause * 2).min(LONGEST_REST);
                }
            }
            rest(pause, stop).await;
        }
    }

    /// Looks, then sends what there is, each endpoint as long as it takes something; not for longer than `at_most`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn once(&self, at_most: Duration) -> Result<(), NoticeError> {
        self.look().await?;
        let began = Instant::now();
        let all = self.lines.iter().map(|line| async move {
            while self.turn(line).await?.sent > 0 && began.elapsed() < at_most {}
            Ok(())
        });
        futures_util::future::try_join_all(all).await.map(drop)
    }

    /// Writes warnings of what is soon due.
    ///
    /// # Errors
    /// Those of the database; what was written before stays.
    pub async fn look(&self) -> Result<(), DatabaseError> {
        if self.config.mode == Mode::Observe {
            return Ok(());
        }
        for endpoint in self.lines.iter().map(|line| &line.endpoint) {
            let nearer = endpoint.due_soon.iter().copied().skip(1).chain([Duration::ZERO]);
            for span in endpoint.due_soon.iter().copied().zip(nearer) {
                let mut after = None;
                loop {
                    let _one = self.one_at_a_time.lock().await;
                    let mut tx = self.database.begin(Purpose::Bulk).await?;
                    if outbox::owner(&mut tx, endpoint, &self.config).await? != Owner::Us {
                        break;
                    }
                    after = outbox::look(&mut tx, &endpoint.name, span, after).await?;
                    Database::commit(tx).await?;
                    if after.is_none() {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends a few notices to each endpoint.
    ///
    /// # Errors
    /// Those of the database; what was sent before its mark is sent again.
    pub async fn deliver(&self) -> Result<Delivered, NoticeError> {
        let turns = futures_util::future::try_join_all(self.lines.iter().map(|line| self.turn(line))).await?;
        Ok(turns.iter().fold(Delivered::default(), |all, one| Delivered { sent: all.sent + one.sent, failed: all.failed + one.failed }))
    }

    /// A few notices to one endpoint.
    async fn turn(&self, line: &Line) -> Result<Delivered, NoticeError> {
        let claimed = {
            let _one = self.one_at_a_time.lock().await;
            // By index and in its order, however much waits.
            let mut tx = self.database.begin(Purpose::Work).await?;
            match outbox::owner(&mut tx, &line.endpoint, &self.config).await? {
                Owner::Us => {}
                Owner::Nobody => return Ok(Delivered::default()),
                Owner::Another => {
                    line.tell_taken();
                    return Ok(Delivered::default());
                }
            }
            outbox::keep_trying(&mut tx, &line.endpoint).await?;
            let claimed = outbox::claim(&mut tx, &line.endpoint, AT_ONCE, LEASE).await?;
            Database::commit(tx).await?;
            claimed
        };
        let mut tries: FuturesUnordered<_> = claimed.iter().map(|notice| async move { (notice, line.try_one(notice).await) }).collect();
        let (mut delivered, mut marked) = (Delivered::default(), Ok(()));
        while let Some(first) = tries.next().await {
            // What has been answered by now is marked together; nobody waits for the slowest.
            let mut answered = vec![first];
            while let Some(Some(next)) = tries.next().now_or_never() {
                answered.push(next);
            }
            crate::crash::point("notices.sent");
            let sent = answered.iter().filter(|(_, answer)| *answer == Answer::Taken).count();
            delivered.sent += sent;
            delivered.failed += answered.len() - sent;
            // One whose mark failed is sent again; the others need not be.
            marked = marked.and(self.mark(line, &answered).await);
        }
        marked.map(|()| delivered)
    }

    /// Writes down how tries ended, and says so.
    async fn mark(&self, line: &Line, answered: &[(&Claimed, Answer)]) -> Result<(), NoticeError> {
        let _one = self.one_at_a_time.lock().await;
        let mut tx = self.database.begin(Purpose::Work).await?;
        let taken = answered.iter().filter(|(_, answer)| *answer == Answer::Taken).map(|(notice, _)| notice.id);
        outbox::sent(&mut tx, &taken.collect::<Vec<_>>()).await?;
        let mut disabled = false;
        for (notice, answer) in answered {
            match answer {
                Answer::Taken => {}
                Answer::Gone => {
                    disabled |= outbox::disable(&mut tx, &line.endpoint).await?;
                    outbox::failed(&mut tx, notice, "status 410", Some(Duration::ZERO)).await?;
                }
                Answer::Failed(why) => {
                    let pause = (!notice.last).then(|| pause(notice.attempts));
                    outbox::failed(&mut tx, notice, why, pause).await?;
                }
            }
        }
        Database::commit(tx).await?;
        for (notice, answer) in answered {
            line.tell(notice, answer);
        }
        if disabled {
            tracing::error!(
                event = "notice.endpoint_disabled",
                endpoint = line.endpoint.name,
                host = line.endpoint.host,
                "it answered 410, gone for good: nothing is sent to it until its configuration changes or `retentiond notices enable`"
            );
        }
        Ok(())
    }

    /// Sends a test to the endpoint of this name; how it was not taken. `None` is that there is no such endpoint.
    pub async fn test(&self, name: &str, id: &str, source: &str, now: DateTime<Utc>) -> Option<Result<(), String>> {
        let line = self.lines.iter().find(|line| line.endpoint.name == name)?;
        let data = json!({"endpoint": name});
        let event = Event { id, source, kind: TEST, account: None, at: now, data: &data };
        Some(match line.send(&event, now).await {
            Answer::Taken => Ok(()),
            Answer::Gone => Err("status 410".to_owned()),
            Answer::Failed(why) => Err(why),
        })
    }
}

impl Line {
    async fn try_one(&self, notice: &Claimed) -> Answer {
        let event = Event {
            id: &notice.event_id,
            source: &notice.source,
            kind: &notice.kind,
            account: notice.account_id.as_deref(),
            at: notice.at,
            data: &notice.data,
        };
        self.send(&event, notice.now).await
    }

    #[cfg(feature = "notices")]
    async fn send(&self, event: &Event<'_>, now: DateTime<Utc>) -> Answer {
        match &self.client {
            Ok(client) => client.send(&self.endpoint, event.id, now.timestamp(), event.body()).await,
            Err(why) => Answer::Failed(why.clone()),
        }
    }

    #[cfg(not(feature = "notices"))]
    #[expect(clippy::unused_async, reason = "as it is with the feature")]
    async fn send(&self, _: &Event<'_>, _: DateTime<Utc>) -> Answer {
        Answer::Failed("this program was built without the feature `notices`".to_owned())
    }

    fn tell_taken(&self) {
        if hourly(&self.said_taken) {
            tracing::error!(
                event = "notice.endpoint_taken",
                endpoint = self.endpoint.name,
                host = self.endpoint.host,
                "a daemon of other regions has an endpoint of this name: nothing is written for ours or sent to it; give it another name"
            );
        }
    }

    fn tell(&self, notice: &Claimed, answer: &Answer) {
        let (endpoint, host) = (&self.endpoint.name, &self.endpoint.host);
        let (id, kind, account_id, attempts) = (&notice.event_id, &notice.kind, &notice.account_id, notice.attempts);
        let error = match answer {
            Answer::Taken => {
                metrics::notice(endpoint, "sent");
                tracing::debug!(event = "notice.sent", endpoint, notice_id = id, r#type = kind, account_id, attempts, "it arrived");
                return;
            }
            Answer::Gone => return metrics::notice(endpoint, "failed"),
            Answer::Failed(error) => error,
        };
        metrics::notice(endpoint, "failed");
        if notice.last {
            metrics::notice(endpoint, "given_up");
            tracing::error!(
                event = "notice.given_up",
                endpoint,
                host,
                notice_id = id,
                r#type = kind,
                account_id,
                attempts,
                error,
                "it did not arrive in its time and is not tried again; `retentiond notices replay` does"
            );
        }
        if hourly(&self.said) && !notice.last {
            tracing::warn!(
                event = "notice.failed",
                endpoint,
                host,
                notice_id = id,
                r#type = kind,
                account_id,
                attempts,
                error,
                "it did not arrive and is tried again"
            );
        }
    }
}

/// Whether it is to be said again.
fn hourly(said: &Mutex<Option<Instant>>) -> bool {
    said.lock().is_ok_and(|mut said| {
        let due = said.is_none_or(|said| said.elapsed() >= SAID_AGAIN);
        if due {
            *said = Some(Instant::now());
        }
        due
    })
}

/// How a request ended, where none can be made.
#[cfg(not(feature = "notices"))]
#[derive(Debug, PartialEq, Eq)]
#[expect(dead_code, reason = "as it is with the feature")]
enum Answer {
    Taken,
    Gone,
    Failed(String),
}

fn pause(attempts: i32) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(16);
    (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE)
}

async fn rest(pause: Duration, stop: &CancellationToken) {
    let _stopped = tokio::time::timeout(pause, stop.cancelled()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour() {
        assert_eq!([1, 2, 3, 10].map(pause).map(|pause| pause.as_secs()), [5, 10, 20, 2_560]);
        assert_eq!([11, 40, i32::MAX].map(pause), [LONGEST_PAUSE; 3]);
    }
}

//! Queues and topics of TDMQ for CMQ that are named after accounts, in every region of the store.
//!
//! A queue goes in steps, each of which finds out what is left to do: rewind off, for it keeps what was consumed; its dead letters unbound, for they would
//! go where nobody looks; cleared; and, once its figures were zero twice, a minute apart, deleted, and then its dead-letter queue likewise. A topic goes
//! after its subscriptions. Gone is what was not there twice, a minute apart: lists and figures lag.

mod api;
mod seen;
mod tc3;

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, time::Instant};

use self::{
    api::{Api, Failed},
    seen::Memory,
};
use super::{Answer, Gone, Store, StoreError, Until};
use crate::config::{self, Named, Place};

/// A call waits so long for its turn.
const TURN: Duration = Duration::from_secs(1);
/// And asks for nothing more after so long, so that what is under way ends in time.
const AT_MOST: Duration = Duration::from_millis(2_500);
/// Regions that are asked at once, for one account or several: who has his turn has all that may be asked for, instead of everybody a part.
const AT_ONCE: usize = 16;
/// Entries of one list.
const PAGE: u64 = 50;
/// An account that nobody has, to ask whether something would be allowed.
const NOBODY: &str = "no-such-account";

/// Queues and topics behind one key.
#[derive(Debug)]
pub(super) struct Queues {
    api: Api,
    regions: Vec<String>,
    memory: Memory,
    looks_apart: Duration,
    turns: Semaphore,
}

/// The names of one account, or what is asked about those of all.
#[derive(Debug)]
enum Names {
    Queue(String, Option<String>),
    Topic(String),
}

/// What a queue says about itself.
#[derive(Debug)]
struct Queue {
    /// Seconds for which consumed messages can be brought back.
    rewind: i64,
    dead_letters_to: Option<String>,
    /// The queues whose dead letters come here.
    sources: Vec<String>,
    records: i64,
    empty: bool,
}

/// What became of a queue or topic.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Gone,
    /// Another look in so long.
    Later(Duration),
    /// It should be gone by now.
    Stays,
}

/// One region, for the time of one call.
#[derive(Clone, Copy)]
struct Region<'a> {
    api: &'a Api,
    name: &'a str,
    by: Instant,
}

impl Region<'_> {
    async fn ask(&self, action: &'static str, body: Value) -> Result<Value, Failed> {
        self.api.ask(self.name, action, &body, self.by, None).await
    }

    /// Asks for a change, unless it is too late for one. What is not there needs none.
    async fn change(&self, action: &'static str, body: Value, until: Until) -> Result<(), Failed> {
        match self.api.ask(self.name, action, &body, self.by, Some(until)).await {
            Ok(_) | Err(Failed::NotThere) => Ok(()),
            Err(failed) => Err(failed),
        }
    }

    fn refused(&self, why: &str) -> Failed {
        StoreError::Refused(format!("{}: {why}", self.name)).into()
    }

    fn key(&self, kind: &str, name: &str) -> String {
        format!("{}/{kind}/{name}", self.name)
    }

    /// The queue of exactly this name. That there is none is said by two answers.
    async fn queue(&self, name: &str) -> Result<Option<Queue>, Failed> {
        match self.ask("DescribeCmqQueueDetail", json!({ "QueueName": name })).await {
            Ok(answer) => {
                let queue = &answer["QueueDescribe"];
                self.is_named(&queue["QueueName"], name)?;
                return Ok(Some(described(queue)));
            }
            Err(Failed::NotThere) => {}
            Err(failed) => return Err(failed),
        }
        let answer = match self.ask("DescribeCmqQueues", json!({ "QueueNameList": [name], "Offset": 0, "Limit": PAGE })).await {
            Err(Failed::NotThere) => return Ok(None),
            answer => answer?,
        };
        let listed: Vec<&Value> = answer["QueueList"].as_array().into_iter().flatten().collect();
        if let Some(queue) = listed.iter().find(|queue| queue["QueueName"].as_str().is_some_and(|other| other.eq_ignore_ascii_case(name))) {
            self.is_named(&queue["QueueName"], name)?;
            return Ok(Some(described(queue)));
        }
        // A list that was not narrowed to the name, or is not whole, proves nothing.
        if answer["TotalCount"].as_u64() == Some(listed.len() as u64) {
            Ok(None)
        } else {
            Err(self.refused("the list of queues does not say how many of that name there are"))
        }
    }

    /// Records of the topic of exactly this name.
    async fn topic(&self, name: &str) -> Result<Option<i64>, Failed> {
        let answer = match self.ask("DescribeCmqTopicDetail", json!({ "TopicName": name })).await {
            Err(Failed::NotThere) => return Ok(None),
            answer => answer?,
        };
        let topic = &answer["TopicDescribe"];
        self.is_named(&topic["TopicName"], name)?;
        Ok(Some(number(topic, "MsgCount")))
    }

    /// The service does not tell upper case from lower, so that what it answers may be about another account.
    fn is_named(&self, said: &Value, name: &str) -> Result<(), Failed> {
        match said.as_str() {
            Some(said) if said == name => Ok(()),
            Some(said) if said.eq_ignore_ascii_case(name) => Err(self
                .refused("one is there whose name differs in upper and lower case, which the service does not tell apart: whose is it?")),
            _ => Err(self.refused("the answer is about something else")),
        }
    }
}

impl Queues {
    /// Opens no connection.
    pub(super) fn new(cmq: &config::Cmq) -> Result<Self, StoreError> {
        Ok(Self {
            api: Api::new(cmq)?,
            regions: cmq.regions.clone(),
            memory: Memory::new(cmq.looks_apart),
            looks_apart: cmq.looks_apart,
            turns: Semaphore::new(AT_ONCE.max(cmq.regions.len())),
        })
    }

    /// Asks every region at once.
    async fn everywhere<'a, T, F>(&'a self, ask: impl Fn(Region<'a>) -> F) -> Result<Vec<Result<T, StoreError>>, StoreError>
    where
        F: Future<Output = Result<T, Failed>>,
    {
        let regions = u32::try_from(self.regions.len()).unwrap_or(u32::MAX);
        let Ok(Ok(_turn)) = tokio::time::timeout(TURN, self.turns.acquire_many(regions)).await else {
            return Err(StoreError::Busy { what: "others have their turn".to_owned(), pause: TURN });
        };
        let by = Instant::now() + AT_MOST;
        let answers = join_all(self.regions.iter().map(|name| ask(Region { api: &self.api, name, by }))).await;
        Ok(answers.into_iter().map(|answer| answer.map_err(StoreError::from)).collect())
    }

    async fn purge(&self, place: &Place, account: &str, until: Until) -> Result<Gone, StoreError> {
        let names = &names(place, account)?;
        let states = self.everywhere(|region| self.purge_in(region, names, until)).await?;
        let (mut pause, mut failed, mut stays) = (None, None, false);
        for state in states {
            match state {
                Ok(State::Later(wait)) | Err(StoreError::Later { pause: wait, .. }) => pause = pause.max(Some(wait)),
                // What stays in another region is the news.
                Err(StoreError::Busy { pause: wait, .. }) if !stays => pause = pause.max(Some(wait)),
                Ok(State::Stays) => stays = true,
                Ok(State::Gone) | Err(StoreError::Busy { .. }) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        // What is gone in one region is told with the next success: an error has no figures.
        if let Some(error) = failed {
            return Err(error);
        }
        let owed: i64 = self.regions.iter().flat_map(|region| names.keys(region)).map(|key| self.memory.take_owed(&key)).sum();
        match pause {
            Some(pause) if owed == 0 => Err(later(pause)),
            pause => Ok(Gone { records: owed, more: pause.is_some() }),
        }
    }

    async fn purge_in(&self, region: Region<'_>, names: &Names, until: Until) -> Result<State, Failed> {
        match names {
            Names::Topic(name) => self.purge_topic(region, name, until).await,
            Names::Queue(name, None) => self.purge_queue(region, name, (None, None), until).await,
            // The binding is known from the queue, so that goes first.
            Names::Queue(name, Some(dead)) => match self.purge_queue(region, name, (Some(dead), None), until).await? {
                State::Gone => self.purge_queue(region, dead, (None, Some(name)), until).await,
                state @ (State::Later(_) | State::Stays) => Ok(state),
            },
        }
    }

    /// Goes on with a queue from wherever it is: `dead` is where its dead letters may go, `source` whose it may hold.
    async fn purge_queue(
        &self,
        region: Region<'_>,
        name: &str,
        (dead, source): (Option<&str>, Option<&str>),
        until: Until,
    ) -> Result<State, Failed> {
        let (key, called) = (region.key("queue", name), json!({ "QueueName": name }));
        let Some(queue) = region.queue(name).await? else { return Ok(self.absent(&key)) };
        let same = |one: &str, other: Option<&str>| other.is_some_and(|other| other.eq_ignore_ascii_case(one));
        if let Some(to) = queue.dead_letters_to.as_deref().filter(|to| !same(to, dead)) {
            let why = format!("its dead letters go to {to:?}: name that queue as dead_letter_queue of the target, or unbind it");
            return Err(region.refused(&why));
        }
        if let Some(from) = queue.sources.iter().find(|from| !same(from, source)) {
            return Err(region.refused(&format!("{from:?} sends its dead letters to {name:?}: unbind it, for they may be those of others")));
        }
        if queue.rewind > 0 {
            region.change("ModifyCmqQueueAttribute", json!({ "QueueName": name, "RewindSeconds": 0 }), until).await?;
        }
        if queue.dead_letters_to.is_some() {
            region.change("UnbindCmqDeadLetter", json!({ "SourceQueueName": name }), until).await?;
        }
        for source in &queue.sources {
            region.change("UnbindCmqDeadLetter", json!({ "SourceQueueName": source }), until).await?;
        }
        self.memory.there(&key, queue.records, queue.empty);
        if !queue.empty || !self.memory.was_cleared(&key) {
            region.change("ClearCmqQueue", called.clone(), until).await?;
        }
        let lag = self.memory.cleared(&key);
        let Some(queue) = region.queue(name).await? else { return Ok(self.absent(&key)) };
        let wait = self.memory.there(&key, queue.records, queue.empty);
        if queue.rewind > 0 || queue.dead_letters_to.is_some() || !queue.sources.is_empty() {
            let why = "its rewind or its dead letters are as they were, although the service said that it changed them";
            return lag.map_or_else(|| Err(region.refused(why)), |lag| Ok(State::Later(lag.min(self.looks_apart))));
        }
        if let Some(wait) = wait {
            return Ok(State::Later(wait.min(self.looks_apart)));
        }
        let deleted = region.change("DeleteCmqQueue", called, until).await;
        self.after_delete(&key, deleted, region.queue(name).await?.is_some())
    }

    /// Subscriptions first: a topic that has some stays. A page of them with each call.
    async fn purge_topic(&self, region: Region<'_>, name: &str, until: Until) -> Result<State, Failed> {
        let (key, called) = (region.key("topic", name), json!({ "TopicName": name }));
        let Some(records) = region.topic(name).await? else { return Ok(self.absent(&key)) };
        self.memory.there(&key, records, true);
        let page = json!({ "TopicName": name, "Offset": 0, "Limit": PAGE });
        let answer = match region.ask("DescribeCmqSubscriptionDetail", page).await {
            Err(Failed::NotThere) => Value::Null,
            answer => answer?,
        };
        let subscriptions: Vec<&str> =
            answer["SubscriptionSet"].as_array().into_iter().flatten().filter_map(|one| one["SubscriptionName"].as_str()).collect();
        for subscription in &subscriptions {
            region.change("DeleteCmqSubscribe", json!({ "TopicName": name, "SubscriptionName": subscription }), until).await?;
        }
        if answer["TotalCount"].as_u64().unwrap_or(0) > subscriptions.len() as u64 {
            return Ok(State::Later(Duration::ZERO));
        }
        let deleted = region.change("DeleteCmqTopic", called, until).await;
        self.after_delete(&key, deleted, region.topic(name).await?.is_some())
    }

    fn absent(&self, key: &str) -> State {
        self.memory.gone(key).map_or(State::Gone, State::Later)
    }

    fn after_delete(&self, key: &str, deleted: Result<(), Failed>, there: bool) -> Result<State, Failed> {
        match deleted {
            Ok(()) | Err(Failed::InUse(_)) if !there => Ok(self.absent(key)),
            Ok(()) | Err(Failed::InUse(_)) => match (self.memory.deleted(key), deleted) {
                (Some(lag), _) => Ok(State::Later(lag.min(self.looks_apart))),
                (None, deleted) => deleted.map(|()| State::Stays),
            },
            Err(failed) => Err(failed),
        }
    }

    async fn left(&self, place: &Place, account: &str) -> Result<bool, StoreError> {
        let names = &names(place, account)?;
        let looks = self.everywhere(|region| async move {
            let mut pause = None;
            for (kind, name) in names.all() {
                let there = if kind == "topic" { region.topic(name).await?.is_some() } else { region.queue(name).await?.is_some() };
                if there {
                    return Ok(State::Stays);
                }
                pause = pause.max(self.memory.gone(&region.key(kind, name)));
            }
            Ok::<State, Failed>(pause.map_or(State::Gone, State::Later))
        });
        let looks = looks.await?;
        // One that is there says enough; after that an error does.
        if looks.contains(&Ok(State::Stays)) {
            return Ok(true);
        }
        let (mut pause, mut busy) = (None, None);
        for look in looks {
            match look {
                Ok(State::Later(wait)) => pause = pause.max(Some(wait)),
                Ok(_) => {}
                Err(error @ StoreError::Busy { .. }) => busy = Some(error),
                Err(error) => return Err(error),
            }
        }
        if let Some(busy) = busy {
            return Err(busy);
        }
        pause.map_or(Ok(false), |pause| Err(later(pause)))
    }

    async fn count(&self, place: &Place, account: &str) -> Result<i64, StoreError> {
        let names = &names(place, account)?;
        let counts = self.everywhere(|region| async move {
            let mut records = 0;
            for (kind, name) in names.all() {
                records += match kind {
                    "topic" => region.topic(name).await?.unwrap_or(0),
                    _ => region.queue(name).await?.map_or(0, |queue| queue.records),
                };
            }
            Ok::<i64, Failed>(records)
        });
        counts.await?.into_iter().sum()
    }

    async fn check(&self, place: &Place) -> Result<Vec<String>, StoreError> {
        let problems = self.everywhere(|region| async move {
            let Place::Cmq { topic, name, dead_letter_queue } = place else { return Err(region.refused("is neither a queue nor a topic")) };
            let mut problems = if *topic { topics(region, name).await? } else { queues(region, name, dead_letter_queue.as_ref()).await? };
            problems.extend(forbidden(region, *topic, name).await?);
            Ok::<Vec<String>, Failed>(problems)
        });
        let problems: Vec<Vec<String>> = problems.await?.into_iter().collect::<Result<_, _>>()?;
        Ok(problems.into_iter().flatten().collect())
    }
}

impl Store for Queues {
    /// A queue or topic goes as a whole: how many records at once is not for us to say.
    fn purge<'a>(&'a self, place: &'a Place, account: &'a str, _: u32, until: Until) -> Answer<'a, Gone> {
        Box::pin(self.purge(place, account, until))
    }

    fn left<'a>(&'a self, place: &'a Place, account: &'a str) -> Answer<'a, bool> {
        Box::pin(self.left(place, account))
    }

    fn count<'a>(&'a self, place: &'a Place, account: &'a str) -> Answer<'a, i64> {
        Box::pin(self.count(place, account))
    }

    fn check<'a>(&'a self, place: &'a Place) -> Answer<'a, Vec<String>> {
        Box::pin(self.check(place))
    }
}

impl Names {
    /// With the kind of each.
    fn all(&self) -> Vec<(&'static str, &str)> {
        match self {
            Self::Topic(name) => vec![("topic", name)],
            Self::Queue(name, dead) => std::iter::once(name).chain(dead).map(|name| ("queue", name.as_str())).collect(),
        }
    }

    fn keys(&self, region: &str) -> Vec<String> {
        self.all().into_iter().map(|(kind, name)| format!("{region}/{kind}/{name}")).collect()
    }
}

/// The account's id taken literally, or not at all (R8).
fn names(place: &Place, account: &str) -> Result<Names, StoreError> {
    let Place::Cmq { topic, name, dead_letter_queue } = place else {
        return Err(StoreError::Refused("is neither a queue nor a topic".to_owned()));
    };
    let of = |name: &Named| name.of(account).map_err(StoreError::Refused);
    let name = of(name)?;
    if *topic { Ok(Names::Topic(name)) } else { Ok(Names::Queue(name, dead_letter_queue.as_ref().map(of).transpose()?)) }
}

fn later(pause: Duration) -> StoreError {
    StoreError::Later { what: "it takes two looks, and the second is not due yet".to_owned(), pause }
}

fn described(queue: &Value) -> Queue {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let records = ["ActiveMsgNum", "InactiveMsgNum", "DelayMsgNum", "RewindMsgNum"].iter().map(|figure| number(queue, figure)).sum();
    Queue {
        rewind: number(queue, "RewindSeconds"),
        dead_letters_to: text(&queue["DeadLetterPolicy"]["DeadLetterQueue"]),
        sources: queue["DeadLetterSource"].as_array().into_iter().flatten().filter_map(|source| text(&source["QueueName"])).collect(),
        records,
        empty: records == 0 && number(queue, "MinMsgTime") == 0,
    }
}

/// A figure; one that is not told is none.
fn number(of: &Value, figure: &str) -> i64 {
    of[figure].as_i64().unwrap_or(0).max(0)
}

/// What is unwise about the queues of the first page.
async fn queues(region: Region<'_>, name: &Named, dead: Option<&Named>) -> Result<Vec<String>, Failed> {
    let answer = region.ask("DescribeCmqQueues", listing("QueueName", name)).await?;
    let queues: Vec<(&str, Queue)> = answer["QueueList"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|queue| Some((queue["QueueName"].as_str().filter(|called| name.covers(called))?, described(queue))))
        .collect();
    let mut problems = Vec::new();
    let rewinds: Vec<&str> = queues.iter().filter(|(_, queue)| queue.rewind > 0).map(|(called, _)| *called).collect();
    if !rewinds.is_empty() {
        let rewinds = some(&rewinds);
        problems.push(format!("in {} keeps what was consumed, until a purge switches rewind off: {rewinds}", region.name));
    }
    for (called, queue) in &queues {
        if let Some(to) = queue.dead_letters_to.as_ref().filter(|to| !dead.is_some_and(|dead| dead.covers(to))) {
            problems.push(format!(
                "in {} sends dead letters of {called:?} to {to:?}, which the target does not name as dead_letter_queue: it cannot be purged",
                region.name
            ));
        }
        if let Some(from) = queue.sources.first() {
            problems.push(format!("in {} holds dead letters of {from:?} in {called:?}: it cannot be purged while that is so", region.name));
        }
    }
    problems.truncate(10);
    Ok(problems)
}

/// Whether topics can be looked at.
async fn topics(region: Region<'_>, name: &Named) -> Result<Vec<String>, Failed> {
    region.ask("DescribeCmqTopics", listing("TopicName", name)).await.map(|_| Vec::new())
}

/// What the key is not allowed to do, asked about a name that nobody has.
async fn forbidden(region: Region<'_>, topic: bool, name: &Named) -> Result<Vec<String>, Failed> {
    let Ok(name) = name.of(NOBODY) else { return Ok(Vec::new()) };
    let queue = json!({ "QueueName": name });
    let asked = if topic {
        vec![
            ("DescribeCmqTopicDetail", json!({ "TopicName": name })),
            ("DescribeCmqSubscriptionDetail", json!({ "TopicName": name, "Offset": 0, "Limit": 1 })),
            ("DeleteCmqSubscribe", json!({ "TopicName": name, "SubscriptionName": NOBODY })),
            ("DeleteCmqTopic", json!({ "TopicName": name })),
        ]
    } else {
        vec![
            ("DescribeCmqQueueDetail", queue.clone()),
            ("ModifyCmqQueueAttribute", json!({ "QueueName": name, "RewindSeconds": 0 })),
            ("UnbindCmqDeadLetter", json!({ "SourceQueueName": name })),
            ("ClearCmqQueue", queue.clone()),
            ("DeleteCmqQueue", queue),
        ]
    };
    let mut problems = Vec::new();
    for answer in join_all(asked.into_iter().map(|(action, body)| region.ask(action, body))).await {
        match answer {
            // Whatever else it says about a name that is not there, it would have let us.
            Ok(_) | Err(Failed::NotThere | Failed::InUse(_) | Failed::Error(StoreError::Refused(_))) => {}
            Err(Failed::Forbidden(what)) => problems.push(format!("cannot be purged: {what}")),
            Err(failed) => return Err(failed),
        }
    }
    Ok(problems)
}

fn listing(key: &str, name: &Named) -> Value {
    let page = json!({ "Offset": 0, "Limit": PAGE });
    match (page, name.before()) {
        (Value::Object(mut page), before) if !before.is_empty() => {
            page.insert(key.to_owned(), before.into());
            Value::Object(page)
        }
        (page, _) => page,
    }
}

/// The first few.
fn some(names: &[&str]) -> String {
    let more = if names.len() > 5 { format!(" and {} more", names.len() - 5) } else { String::new() };
    format!("{}{more}", names.iter().take(5).copied().collect::<Vec<_>>().join(", "))
}

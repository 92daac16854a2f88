//! Asks a store with care: never longer than [`CALL`], and while it is away not at all, so that nobody waits for it who has something else to do. How
//! it does is in the metrics.

use std::{
    collections::hash_map::RandomState,
    fmt::Display,
    hash::BuildHasher,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Answer, Gone, Store, StoreError, Until};
use crate::{config::Place, metrics};

/// A call that took longer is given up; what it asked for may have happened.
pub const CALL: Duration = Duration::from_secs(5);
/// How long a store is left alone after it was away once; twice as long each further time.
const FIRST_REST: Duration = Duration::from_secs(1);
/// And never longer.
const LONGEST_REST: Duration = Duration::from_mins(1);

/// A store that is asked with care.
#[derive(Debug)]
pub struct Careful {
    name: String,
    store: Box<dyn Store>,
    circuit: Mutex<Circuit>,
}

/// Whether it is worth asking.
#[derive(Debug, Default)]
struct Circuit {
    /// Answers in a row that were none.
    failures: u32,
    /// Left alone until then, and why.
    rests: Option<(Instant, String)>,
}

impl Careful {
    /// Asks this store, which is called `name`, with care.
    #[must_use]
    pub fn new(name: &str, store: Box<dyn Store>) -> Self {
        metrics::store_available(name, true);
        Self { name: name.to_owned(), store, circuit: Mutex::default() }
    }

    /// See [`Store::purge`].
    ///
    /// # Errors
    /// Those of the store; that it is left alone for now.
    pub async fn purge(&self, place: &Place, account: &str, at_most: u32, until: Until) -> Result<Gone, StoreError> {
        self.ask(Some(account), self.store.purge(place, account, at_most, until)).await
    }

    /// See [`Store::left`].
    ///
    /// # Errors
    /// Those of the store; that it is left alone for now.
    pub async fn left(&self, place: &Place, account: &str) -> Result<bool, StoreError> {
        self.ask(Some(account), self.store.left(place, account)).await
    }

    /// See [`Store::count`].
    ///
    /// # Errors
    /// Those of the store; that it is left alone for now.
    pub async fn count(&self, place: &Place, account: &str) -> Result<i64, StoreError> {
        self.ask(Some(account), self.store.count(place, account)).await
    }

    /// See [`Store::check`].
    ///
    /// # Errors
    /// Those of the store; that it is left alone for now.
    pub async fn check(&self, place: &Place) -> Result<Vec<String>, StoreError> {
        self.ask(None, self.store.check(place)).await
    }

    async fn ask<T>(&self, account: Option<&str>, answer: Answer<'_, T>) -> Result<T, StoreError> {
        if let Some((until, why)) = &self.circuit().rests
            && Instant::now() < *until
        {
            return Err(StoreError::Away(format!("{} is left alone for a moment: “{why}”", self.name)));
        }
        let late = || StoreError::Away(format!("no answer within {} s", CALL.as_secs()));
        let answer = tokio::time::timeout(CALL, answer).await.unwrap_or_else(|_| Err(late()));
        match &answer {
            // It was not asked.
            Err(StoreError::Late | StoreError::Busy { .. }) => {}
            // It is there, whatever it says.
            Ok(_) | Err(StoreError::Refused(_) | StoreError::Later { .. }) => self.answered(),
            Err(StoreError::Away(_)) => self.failed(account, None, &answer),
            Err(StoreError::Throttled { pause, .. }) => self.failed(account, *pause, &answer),
        }
        answer
    }

    fn answered(&self) {
        let mut circuit = self.circuit();
        if circuit.failures > 0 {
            metrics::store_available(&self.name, true);
            tracing::info!(event = "store.back", store = self.name, "the store answers again");
        }
        *circuit = Circuit::default();
    }

    fn failed<T>(&self, account_id: Option<&str>, pause: Option<Duration>, answer: &Result<T, impl Display>) {
        let why = answer.as_ref().err().map_or_else(String::new, ToString::to_string);
        metrics::store_failed(&self.name);
        let mut circuit = self.circuit();
        if circuit.failures == 0 {
            metrics::store_available(&self.name, false);
            tracing::warn!(
                event = "store.away",
                store = self.name,
                account_id,
                error = why,
                "the store is left alone for a moment; its jobs wait, all others go on"
            );
        }
        // Not all at once: others may have been refused at the same instant.
        let scatter = u32::try_from(RandomState::new().hash_one(&self.name) % 50).unwrap_or(0);
        let rest = FIRST_REST.saturating_mul(1 << circuit.failures.min(10)).min(LONGEST_REST) * (75 + scatter) / 100;
        circuit.failures = circuit.failures.saturating_add(1);
        circuit.rests = Some((Instant::now() + pause.unwrap_or(rest), why));
    }

    fn circuit(&self) -> std::sync::MutexGuard<'_, Circuit> {
        // Whoever panicked held nothing but a few figures.
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;
    use crate::model::RetentionPeriod;

    /// Answers each call with what it was told, and counts them.
    #[derive(Debug)]
    struct Told(Arc<AtomicU32>, Mutex<Result<bool, StoreError>>);

    impl Store for Told {
        fn purge<'a>(&'a self, _: &'a Place, _: &'a str, _: u32, _: Until) -> Answer<'a, Gone> {
            Box::pin(async { Ok(Gone { records: 0, more: false }) })
        }

        fn left<'a>(&'a self, _: &'a Place, _: &'a str) -> Answer<'a, bool> {
            Box::pin(async {
                self.0.fetch_add(1, Ordering::Relaxed);
                self.1.lock().unwrap().clone()
            })
        }

        fn count<'a>(&'a self, _: &'a Place, _: &'a str) -> Answer<'a, i64> {
            Box::pin(std::future::pending())
        }

        fn check<'a>(&'a self, _: &'a Place) -> Answer<'a, Vec<String>> {
            Box::pin(async { Ok(Vec::new()) })
        }
    }

    const PLACE: Place = Place::Copies { expires_after: RetentionPeriod::Seconds(1) };

    async fn asked_after(answer: StoreError, waits: &[u64]) -> Vec<u32> {
        let calls = Arc::new(AtomicU32::new(0));
        let store = Careful::new("s", Box::new(Told(Arc::clone(&calls), Mutex::new(Err(answer)))));
        let mut asked = Vec::new();
        for wait in waits {
            tokio::time::advance(Duration::from_millis(*wait)).await;
            assert!(store.left(&PLACE, "a").await.is_err());
            asked.push(calls.load(Ordering::Relaxed));
        }
        asked
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_away_is_left_alone_longer_each_time_and_nothing_else_makes_it_so() {
        let away = || StoreError::Away("x".to_owned());
        // At once, within the first rest, after it; within the second, after it.
        assert_eq!(asked_after(away(), &[0, 700, 600, 1_400, 1_200]).await, [1, 1, 2, 2, 3]);
        let patience = StoreError::Throttled { what: "x".to_owned(), pause: Some(Duration::from_secs(9)) };
        assert_eq!(asked_after(patience, &[0, 8_900, 200]).await, [1, 1, 2], "it said for how long");
        let busy = StoreError::Busy { what: "x".to_owned(), pause: Duration::from_secs(9) };
        for answer in [StoreError::Refused("x".to_owned()), StoreError::Late, busy] {
            assert_eq!(asked_after(answer, &[0, 0, 0]).await, [1, 2, 3], "it was there, or was not asked");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_not_answered_ends() {
        let store = Careful::new("s", Box::new(Told(Arc::default(), Mutex::new(Ok(false)))));
        let began = Instant::now();
        assert!(matches!(store.count(&PLACE, "a").await, Err(StoreError::Away(_))));
        assert_eq!(began.elapsed(), CALL);
    }
}

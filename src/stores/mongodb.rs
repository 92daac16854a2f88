//! Collections of MongoDB or TencentDB for MongoDB. Documents are found by the account's id as a string, byte for byte, and deleted by their `_id` beside it.
//! Reads are those of the primary, at what a majority holds; so are deletes.

use std::{str::FromStr, time::Duration};

use ::mongodb::{
    Client, Collection, Database,
    bson::{Binary, Bson, Document, RawDocumentBuf, doc, oid::ObjectId, spec::BinarySubtype},
    error::{Error, ErrorKind, WriteFailure},
    options::{Acknowledgment, ClientOptions, Collation, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern},
};
use futures_util::{StreamExt, TryStreamExt};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::OnceCell;

use super::{Answer, CALL, Gone, Store, StoreError, Until};
use crate::config::Place;

/// Ids of one call in bytes; a message of the protocol holds three times as much.
const IDS: usize = 8 << 20;

/// A database of MongoDB.
#[derive(Debug)]
pub(super) struct Mongodb {
    url: SecretString,
    /// The driver looks for the servers by itself from the first call on.
    client: OnceCell<Client>,
}

/// The documents of a collection that may be the account's.
struct Documents {
    database: Database,
    collection: Collection<RawDocumentBuf>,
    /// A document is the account's alone: the string is there, in no array.
    alone: Document,
    /// It may be the account's: also what names it beside others, or names it by a number or a binary id.
    any: Document,
}

impl Mongodb {
    /// A store behind this address. Opens no connection.
    pub(super) fn new(url: &SecretString) -> Result<Self, StoreError> {
        if let Err(error) = ::mongodb::options::ConnectionString::parse(url.expose_secret()) {
            // What the parser says may repeat the address; not so about a parameter.
            let said = error.to_string();
            let parameter = said.split(": ").find(|part| part.contains("is an invalid option"));
            return Err(StoreError::Refused(format!(
                "its address is no address of MongoDB{}",
                parameter.map(|of| format!(": {of}")).unwrap_or_default()
            )));
        }
        Ok(Self { url: url.clone(), client: OnceCell::new() })
    }

    async fn database(&self) -> Result<Database, StoreError> {
        let open = async {
            let mut options = ClientOptions::parse(self.url.expose_secret()).await?;
            // A little less than a call may take, so that the driver can say what is wrong.
            let patience = CALL.saturating_sub(Duration::from_secs(1));
            options.server_selection_timeout = Some(patience);
            options.connect_timeout = Some(patience);
            options.app_name.get_or_insert_with(|| "retentiond".to_owned());
            options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
            options.read_concern = Some(ReadConcern::majority());
            options.write_concern = Some(WriteConcern::builder().w(Acknowledgment::Majority).journal(true).w_timeout(patience).build());
            Client::with_options(options)
        };
        let client = self.client.get_or_try_init(|| open).await.map_err(|error| sorted(&error))?;
        client.default_database().ok_or_else(|| StoreError::Refused("its address names no database".to_owned()))
    }

    /// The documents of an account; refuses what must not be deleted from.
    async fn documents(&self, place: &Place, account: &str) -> Result<Documents, StoreError> {
        let Place::Collection { collection, account_field } = place else { return Err(StoreError::Refused("is no collection".to_owned())) };
        let database = self.database().await?;
        // A server that was named by itself is asked whatever it is.
        let hello = database.run_command(doc! { "hello": 1 }).await.map_err(|error| sorted(&error))?;
        if !hello.get_bool("isWritablePrimary").unwrap_or(false) {
            return Err(StoreError::Away("is on a server that is no primary now, and may be behind".to_owned()));
        }
        let list = doc! { "listCollections": 1, "filter": { "name": collection }, "nameOnly": true, "authorizedCollections": true };
        let mut found = database.run_cursor_command(list).await.map_err(|error| sorted(&error))?;
        let found = found.next().await.transpose().map_err(|error| sorted(&error))?;
        match found.as_ref().map(|found| found.get_str("type").unwrap_or("collection")) {
            Some("collection") => {}
            Some(other) => return Err(StoreError::Refused(format!("is a {other}, and no collection of its own"))),
            None => return Err(StoreError::Refused("is not there, or not for this user".to_owned())),
        }
        let mut alone = vec![doc! { account_field: account }];
        // `items.owner` is also the owner of one item among those of others.
        let parts = account_field.match_indices('.').map(|(at, _)| at).chain([account_field.len()]);
        alone.extend(parts.filter_map(|end| account_field.get(..end)).map(|part| doc! { part: { "$not": { "$type": "array" } } }));
        Ok(Documents {
            collection: database.collection(collection),
            database,
            alone: doc! { "$and": alone },
            any: doc! { account_field: { "$in": readings(account) } },
        })
    }

    async fn purge(&self, place: &Place, account: &str, at_most: u32, until: Until) -> Result<Gone, StoreError> {
        let documents = self.documents(place, account).await?;
        let ids = documents.ids(at_most).await.map_err(|error| sorted(&error))?;
        let Some(full) = ids.as_ref().map(|(_, full)| *full) else {
            if documents.count(Some(1)).await.map_err(|error| sorted(&error))? > 0 {
                let how =
                    "names the account in an array, by a number or by a binary id, which nothing is deleted by; a string names it exactly";
                return Err(StoreError::Refused(how.to_owned()));
            }
            return Ok(Gone { records: 0, more: false });
        };
        let filter = doc! { "$and": [{ "_id": { "$in": ids.map(|(ids, _)| ids).unwrap_or_default() } }, documents.alone] };
        until.still()?;
        let deleted = documents.collection.delete_many(filter).collation(exactly()).await.map_err(|error| sorted(&error))?;
        Ok(Gone { records: i64::try_from(deleted.deleted_count).unwrap_or(i64::MAX), more: full })
    }

    async fn check(&self, place: &Place) -> Result<Vec<String>, StoreError> {
        let Place::Collection { collection, account_field } = place else { return Err(StoreError::Refused("is no collection".to_owned())) };
        let documents = self.documents(place, "").await?;
        let mut problems = Vec::new();
        let nothing = doc! { "$and": [{ "_id": { "$in": Vec::<Bson>::new() } }] };
        if let Err(error) = documents.collection.delete_many(nothing).collation(exactly()).await {
            problems.push(format!("cannot be deleted from: {}", sorted(&error)));
        }
        let list = doc! { "listCollections": 1, "filter": { "name": collection } };
        if let Ok(mut found) = documents.database.run_cursor_command(list).await
            && let Some(Ok(found)) = found.next().await
            && found.get_document("options").is_ok_and(|options| options.get_bool("capped").unwrap_or(false))
        {
            problems.push("is capped: servers before 5.0 delete nothing from it".to_owned());
        }
        let indexes = documents.collection.list_indexes().await.map_err(|error| sorted(&error))?;
        let indexes: Vec<_> = indexes.try_collect().await.map_err(|error| sorted(&error))?;
        let serves = |index: &::mongodb::IndexModel| {
            let options = index.options.as_ref();
            let exact = options.and_then(|options| options.collation.as_ref()).is_none_or(|collation| collation.locale == "simple");
            let whole = options.is_none_or(|options| options.partial_filter_expression.is_none() && options.hidden != Some(true));
            index.keys.keys().next() == Some(account_field) && exact && whole
        };
        if !indexes.iter().any(serves) {
            problems.push(format!(
                "has no index that leads with {account_field:?} and compares byte by byte: each purge reads the whole collection"
            ));
        }
        let numbers = doc! { account_field: { "$type": ["number", "objectId", "binData", "array"] } };
        // A look at the whole collection where there is no index: worth a moment.
        if let Ok(Some(_)) = documents.collection.find_one(numbers).max_time(CALL / 5).await {
            problems.push(format!("holds documents whose {account_field:?} is no string: none of them is ever deleted"));
        }
        Ok(problems)
    }
}

impl Documents {
    /// The ids of at most so many documents, and whether there may be more; nothing if there are none.
    async fn ids(&self, at_most: u32) -> Result<Option<(Vec<Bson>, bool)>, Error> {
        let found = self.collection.find(self.alone.clone()).projection(doc! { "_id": 1 }).limit(i64::from(at_most)).collation(exactly());
        let mut found = found.max_time(CALL).await?;
        let (mut ids, mut bytes) = (Vec::new(), 0);
        while let Some(one) = found.try_next().await? {
            bytes += one.as_bytes().len();
            ids.extend(Document::try_from(&one).map_err(|_| Error::custom("a document without a readable _id"))?.remove("_id"));
            if bytes > IDS {
                return Ok(Some((ids, true)));
            }
        }
        let full = u32::try_from(ids.len()).unwrap_or(u32::MAX) >= at_most;
        Ok((!ids.is_empty()).then_some((ids, full)))
    }

    /// How many documents may be the account's; no more than are asked for.
    async fn count(&self, limit: Option<u64>) -> Result<u64, Error> {
        let counting = self.collection.count_documents(self.any.clone()).collation(exactly()).max_time(CALL);
        match limit {
            Some(limit) => counting.limit(limit).await,
            None => counting.await,
        }
    }
}

impl Store for Mongodb {
    fn purge<'a>(&'a self, place: &'a Place, account: &'a str, at_most: u32, until: Until) -> Answer<'a, Gone> {
        Box::pin(self.purge(place, account, at_most, until))
    }

    fn left<'a>(&'a self, place: &'a Place, account: &'a str) -> Answer<'a, bool> {
        Box::pin(async {
            let documents = self.documents(place, account).await?;
            Ok(documents.count(Some(1)).await.map_err(|error| sorted(&error))? > 0)
        })
    }

    fn count<'a>(&'a self, place: &'a Place, account: &'a str) -> Answer<'a, i64> {
        Box::pin(async {
            let documents = self.documents(place, account).await?;
            let count = documents.count(None).await.map_err(|error| sorted(&error))?;
            Ok(i64::try_from(count).unwrap_or(i64::MAX))
        })
    }

    fn check<'a>(&'a self, place: &'a Place) -> Answer<'a, Vec<String>> {
        Box::pin(self.check(place))
    }
}

/// Byte for byte, whatever the collection has been told: it may take `Zoe` for `zoé`.
fn exactly() -> Collation {
    Collation::builder().locale("simple".to_owned()).build()
}

/// Everything in a document that could mean the account.
fn readings(account: &str) -> Vec<Bson> {
    let number = account.parse::<i64>().ok().filter(|number| number.to_string() == account).map(Bson::Int64);
    let object = ObjectId::from_str(account).ok().map(Bson::ObjectId);
    let hex = account.replace('-', "");
    let bytes = hex::decode(hex).ok().filter(|bytes| bytes.len() == 16 && account.len() == 36);
    let uuid = bytes.map(|bytes| Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes }));
    [Bson::String(account.to_owned())].into_iter().chain(number).chain(object).chain(uuid).collect()
}

/// Sorts an error by what to do about it. Of a message that can quote a document only its number is kept.
#[expect(clippy::wildcard_enum_match_arm, reason = "the driver adds kinds of errors as it likes")]
fn sorted(error: &Error) -> StoreError {
    let (code, what) = match error.kind.as_ref() {
        ErrorKind::Command(said) => (said.code, format!("{} (error {})", said.message, said.code)),
        ErrorKind::Write(WriteFailure::WriteConcernError(said)) => {
            return StoreError::Away(format!("not confirmed by a majority: {} (error {})", said.message, said.code));
        }
        ErrorKind::Write(WriteFailure::WriteError(said)) => (said.code, format!("error {}", said.code)),
        ErrorKind::Authentication { message, .. }
        | ErrorKind::InvalidTlsConfig { message, .. }
        | ErrorKind::IncompatibleServer { message, .. } => return StoreError::Refused(message.clone()),
        ErrorKind::InvalidArgument { .. } => return StoreError::Refused("its address says what this driver cannot do".to_owned()),
        ErrorKind::Bson(_) => return StoreError::Refused("an answer that is no BSON".to_owned()),
        ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. } | ErrorKind::DnsResolve { .. } | ErrorKind::ServerSelection { .. } => {
            return StoreError::Away(error.to_string());
        }
        // Who knows what it quotes.
        _ => return StoreError::Away("an answer that the driver cannot make out".to_owned()),
    };
    if error.contains_label("SystemOverloadedError") || code == 16500 {
        return StoreError::Throttled { what, pause: error.base_backoff() };
    }
    match code {
        // Bad values and options, rights and credentials, what is not there or is not what it should be.
        2 | 8 | 9 | 13 | 14 | 18 | 20 | 26 | 59 | 72 | 73 | 115 | 166 | 263 | 8000 => StoreError::Refused(what),
        _ => StoreError::Away(what),
    }
}

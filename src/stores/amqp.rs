//! Queues of a broker that speaks AMQP 0-9-1, such as RabbitMQ: one for each account, which a purge deletes as a whole. Emptying it would leave what
//! a consumer has fetched and not acknowledged.

use std::{fmt, fs};

use lapin::{
    Channel, Connection, ConnectionProperties, ErrorKind,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError},
    tcp::OwnedTLSConfig,
    types::{FieldTable, ShortString},
    uri::AMQPUri,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use super::{Answer, Gone, Store, StoreError, Until, literal};
use crate::config::Place;

/// A broker that is silent for twice as many seconds is gone, unless the address says otherwise.
const HEARTBEAT: u16 = 10;
/// No account's: no queue of an account has a slash from its id (R8).
const NOBODY: &str = "/nobody/";

/// A broker, and the connection to it that all calls share.
pub(super) struct Amqp {
    uri: AMQPUri,
    /// Certificates of authorities beside the well-known ones.
    authorities: Option<String>,
    connection: Mutex<Option<Connection>>,
}

impl fmt::Debug for Amqp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Amqp").field("host", &self.uri.authority.host).finish_non_exhaustive()
    }
}

impl Amqp {
    /// A store behind this address. Opens no connection.
    pub(super) fn new(url: &SecretString) -> Result<Self, StoreError> {
        let url = url.expose_secret();
        // What the parser says repeats the address.
        let mut uri: AMQPUri = url.parse().map_err(|_| StoreError::Refused("its address is no address of a broker".to_owned()))?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
        let file = parameters.split('&').find_map(|one| one.strip_prefix("cacertfile="));
        let read = |file| fs::read_to_string(file).map_err(|error| StoreError::Refused(format!("{file:?} cannot be read: {error}")));
        Ok(Self { uri, authorities: file.map(read).transpose()?, connection: Mutex::default() })
    }

    /// A channel of its own for each call, because an error ends the channel.
    async fn channel(&self) -> Result<Channel, StoreError> {
        let mut kept = self.connection.lock().await;
        // Whoever gives up waiting leaves none: a connection that does not answer is not asked again.
        let connection = match kept.take().filter(|connection| connection.status().connected()) {
            Some(connection) => connection,
            None => self.connect().await.map_err(|error| sorted(&error))?,
        };
        let channel = connection.create_channel().await.map_err(|error| sorted(&error))?;
        *kept = Some(connection);
        Ok(channel)
    }

    async fn connect(&self) -> Result<Connection, lapin::Error> {
        let named = ConnectionProperties::default().with_connection_name("retentiond".into());
        let tls = OwnedTLSConfig { identity: None, cert_chain: self.authorities.clone() };
        Connection::connect_uri_with_config(self.uri.clone(), named, tls, lapin::runtime::default_runtime()?).await
    }

    async fn purge(&self, place: &Place, account: &str, until: Until) -> Result<Gone, StoreError> {
        let queue = queue(place, account)?;
        let channel = self.channel().await?;
        until.still()?;
        let deleted = channel.queue_delete(queue, QueueDeleteOptions::default()).await;
        match deleted {
            Ok(messages) => Ok(Gone { records: i64::from(messages), more: false }),
            Err(error) if is_gone(&error) => Ok(Gone { records: 0, more: false }),
            Err(error) => Err(sorted(&error)),
        }
    }

    /// How many messages wait in the account's queue; none when there is no queue.
    async fn look(&self, place: &Place, account: &str) -> Result<Option<u32>, StoreError> {
        let queue = queue(place, account)?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        match self.channel().await?.queue_declare(queue, passive, FieldTable::default()).await {
            Ok(found) => Ok(Some(found.message_count())),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(sorted(&error)),
        }
    }

    async fn check(&self, place: &Place) -> Result<Vec<String>, StoreError> {
        let Place::Queue { queue } = place else { return Err(StoreError::Refused("is no queue".to_owned())) };
        let nobodys = ShortString::try_new(queue.replacen(crate::config::ACCOUNT, NOBODY, 1));
        let nobodys = nobodys.map_err(|error| StoreError::Refused(error.to_string()))?;
        // The broker judges the right before it looks for the queue.
        let unless = QueueDeleteOptions { if_unused: true, if_empty: true, nowait: false };
        match self.channel().await?.queue_delete(nobodys, unless).await {
            Ok(_) => Ok(Vec::new()),
            Err(error) if is_gone(&error) => Ok(Vec::new()),
            Err(error) => {
                let StoreError::Refused(why) = sorted(&error) else { return Err(sorted(&error)) };
                Ok(vec![format!("cannot be deleted: {why}; the user needs the permission configure on its name")])
            }
        }
    }
}

impl Store for Amqp {
    /// A queue goes as a whole: it is one unit, however many messages are in it.
    fn purge<'a>(&'a self, place: &'a Place, account: &'a str, _: u32, until: Until) -> Answer<'a, Gone> {
        Box::pin(self.purge(place, account, until))
    }

    /// An empty queue is left too: a message that is fetched and not acknowledged is in it, and in no count.
    fn left<'a>(&'a self, place: &'a Place, account: &'a str) -> Answer<'a, bool> {
        Box::pin(async { Ok(self.look(place, account).await?.is_some()) })
    }

    fn count<'a>(&'a self, place: &'a Place, account: &'a str) -> Answer<'a, i64> {
        Box::pin(async { Ok(self.look(place, account).await?.map_or(0, i64::from)) })
    }

    fn check<'a>(&'a self, place: &'a Place) -> Answer<'a, Vec<String>> {
        Box::pin(self.check(place))
    }
}

fn queue(place: &Place, account: &str) -> Result<ShortString, StoreError> {
    let Place::Queue { queue } = place else { return Err(StoreError::Refused("is no queue".to_owned())) };
    let name = ShortString::try_new(literal::name(queue, account)?);
    name.map_err(|_| StoreError::Refused("the account's id makes the name of its queue longer than 255 bytes".to_owned()))
}

fn said(error: &lapin::Error) -> Option<&AMQPError> {
    if let ErrorKind::ProtocolError(said) = error.kind() { Some(said) } else { None }
}

/// Whether the broker says that there is no such queue. It also says `NOT_FOUND` of a queue that is there, on a node that is down (I6).
fn is_gone(error: &lapin::Error) -> bool {
    said(error).is_some_and(|said| {
        *said.kind() == AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) && said.get_message().as_str().starts_with("NOT_FOUND - no queue '")
    })
}

/// Sorts an error by what to do about it. No message of a broker holds contents or a password.
fn sorted(error: &lapin::Error) -> StoreError {
    let what = said(error).map_or_else(|| error.to_string(), |said| said.get_message().to_string());
    let Some(said) = said(error) else { return StoreError::Away(what) };
    match said.kind() {
        // Permissions, credentials; a queue that another connection has for itself; a vhost that is not there.
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED | AMQPSoftError::RESOURCELOCKED | AMQPSoftError::PRECONDITIONFAILED)
        | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED | AMQPHardError::NOTIMPLEMENTED | AMQPHardError::INVALIDPATH) => {
            StoreError::Refused(what)
        }
        AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_) => StoreError::Away(what),
    }
}

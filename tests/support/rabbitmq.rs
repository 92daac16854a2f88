//! Somebody else who uses RabbitMQ.

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer,
    options::{BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};

/// A connection of somebody else's.
pub(crate) struct Visitor {
    connection: Connection,
    channel: Channel,
}

impl Visitor {
    pub(crate) async fn new(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { connection, channel }
    }

    /// Declares a queue, for this connection alone if asked to, and puts so many messages there.
    pub(crate) async fn put(&self, queue: &str, messages: i64, exclusive: bool) {
        let options = QueueDeclareOptions { durable: true, exclusive, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
        for _ in 0..messages {
            let properties = BasicProperties::default().with_delivery_mode(2);
            let sent =
                self.channel.basic_publish("".into(), queue.into(), BasicPublishOptions::default(), b"not to be logged", properties).await;
            sent.unwrap().await.unwrap();
        }
    }

    /// Deletes a queue.
    pub(crate) async fn delete(&self, queue: &str) {
        self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    }

    /// Messages that wait, if there is such a queue.
    pub(crate) async fn look(&self, queue: &str) -> Option<i64> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let channel = self.connection.create_channel().await.unwrap();
        match channel.queue_declare(queue.into(), passive, FieldTable::default()).await {
            Ok(found) => Some(found.message_count().into()),
            Err(error) => {
                assert!(error.to_string().contains("NOT_FOUND - no queue"), "{error}");
                None
            }
        }
    }

    /// Fetches one message at a time and acknowledges none.
    pub(crate) async fn hold_one(&self, queue: &str) -> Consumer {
        self.channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
        self.channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await.unwrap()
    }

    pub(crate) async fn leave(self) {
        // A channel that is closing too makes this an error, and the connection closes all the same.
        let _gone = self.connection.close(200, "".into()).await;
    }
}

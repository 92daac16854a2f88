//! What only collections of documents have.

use std::sync::{Arc, Mutex};

use mongodb::{
    IndexModel,
    bson::{Bson, doc, oid::ObjectId},
    options::{Collation, CollationStrength, IndexOptions},
};
use retentiond::{
    config,
    planner::Look,
    stores::{self, Careful, StoreError, Until},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::TaskTracker;

use super::{Kind, Place, world};
use crate::{
    secantus::{self, Documents},
    world::{World, left_out},
};

/// A world with a collection, where the server is installed.
async fn collection() -> Option<(World, Place)> {
    if secantus::installed().is_none() {
        left_out("what only collections have: SecantusDB is not installed");
        return None;
    }
    Some(world(Kind::Mongodb).await)
}

fn documents(place: &Place) -> &Documents {
    &place.documents.as_ref().unwrap().1
}

/// The store, and a collection in it.
fn ask(world: &World, collection: &str, account_field: &str) -> (Arc<Careful>, config::Place) {
    let place = config::Place::Collection { collection: collection.to_owned(), account_field: account_field.to_owned() };
    (Arc::clone(&stores::open(&world.config())["elsewhere"]), place)
}

fn soon() -> Until {
    Until::in_time(stores::CALL)
}

#[tokio::test]
async fn i6_a_look_that_fails_is_no_look_whatever_fails() {
    let Some((world, place)) = collection().await else { return };
    place.put("a", 3).await;
    for (commands, with, words) in [
        (["hello", "find", "aggregate"].as_slice(), doc! { "errorCode": 2 }, "error 2"),
        (&["listCollections"], doc! { "errorCode": 13 }, "error 13"),
        (&["find", "aggregate"], doc! { "errorCode": 50 }, "error 50"),
        (&["find", "aggregate"], doc! { "closeConnection": true }, "I/O error"),
        (&["aggregate", "find"], doc! { "blockConnection": true, "blockTimeMS": 6_000 }, "no answer within 5 s"),
    ] {
        documents(&place).fail(commands, with).await;
        // Each with a store of its own, that has had no failure yet.
        let (store, target) = ask(&world, "Records", "owner");
        let looked = store.left(&target, "a").await;
        let (store, _) = ask(&world, "Records", "owner");
        let purged = store.purge(&target, "a", 9, soon()).await;
        for said in [looked.map(|_| ()), purged.map(|_| ())] {
            let said = said.expect_err(words).to_string();
            assert!(said.contains(words) && !said.contains("not to be logged"), "{words}: {said}");
        }
        assert_eq!(place.count("a").await, 3, "{words}");
    }
}

#[tokio::test]
async fn i10_a_delete_that_no_majority_has_confirmed_completes_nothing() {
    let Some((world, place)) = collection().await else { return };
    world.account("a", "null", "now() - interval '8 days'", "null").await;
    place.put("a", 3).await;
    let unconfirmed = doc! { "code": 64, "codeName": "WriteConcernTimeout", "errmsg": "waiting for replication timed out" };
    documents(&place).fail(&["delete"], doc! { "writeConcernError": unconfirmed }).await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let mut worker = app.executor().worker("one".to_owned());
    while world.job("a", "queue").await.last_error.is_none() {
        worker.step().await.unwrap();
    }
    let job = world.job("a", "queue").await;
    let error = job.last_error.unwrap();
    assert!(job.state == "scheduled" && error.starts_with("elsewhere/Records: not confirmed by a majority"), "{error}");
    assert_eq!(place.count("a").await, 0, "and yet it has deleted");
    documents(&place).fail(&[], doc! {}).await;
    while world.job("a", "queue").await.state != "completed" {
        worker.step().await.unwrap();
    }
    let job = world.job("a", "queue").await;
    assert!(!job.count_exact && job.records_deleted.0["elsewhere/Records"] <= 3, "{:?}", job.records_deleted.0);
}

/// Leads to a server, and keeps what was asked of it: one message after the other.
async fn overhear(upstream: u16) -> (u16, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, heard) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
    let hearing = Arc::clone(&heard);
    let tasks = TaskTracker::new();
    let within = tasks.clone();
    tasks.spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (mut asks, mut told) = client.into_split();
            let (mut answers, mut tells) = TcpStream::connect(("127.0.0.1", upstream)).await.unwrap().into_split();
            within.spawn(async move { tokio::io::copy(&mut answers, &mut told).await });
            let hearing = Arc::clone(&hearing);
            within.spawn(async move {
                while let Ok(length) = asks.read_u32_le().await {
                    let mut message = length.to_le_bytes().to_vec();
                    message.resize(length as usize, 0);
                    asks.read_exact(&mut message[4..]).await.unwrap();
                    tells.write_all(&message).await.unwrap();
                    hearing.lock().unwrap().push(message);
                }
            });
        }
    });
    (port, heard)
}

/// The stand-in does not know the collation of a collection, so what is asked of it is looked at: that each question overrides one.
#[tokio::test]
async fn r7_every_question_is_one_of_bytes_and_of_what_a_majority_holds() {
    let Some((mut world, place)) = collection().await else { return };
    let (port, heard) = overhear(place.port).await;
    world.rules = world.rules.replace(&format!(":{}/", place.port), &format!(":{port}/"));
    let (store, target) = ask(&world, "Records", "owner");
    for owner in ["Zoe", "zoe", "Zoé", "ZOE "] {
        place.put(owner, 1).await;
    }
    assert_eq!((store.count(&target, "Zoe").await, store.purge(&target, "Zoe", 9, soon()).await.unwrap().records), (Ok(1), 1));
    assert_eq!((store.left(&target, "Zoe").await, store.left(&target, "zoe").await), (Ok(false), Ok(true)));
    let heard = heard.lock().unwrap().clone();
    let holds = |message: &[u8], part: &[u8]| message.windows(part.len()).any(|window| window == part);
    let mut asked = [0; 3];
    for (name, asked) in [&b"\x02find\0"[..], b"\x02aggregate\0", b"\x02delete\0"].iter().zip(&mut asked) {
        for message in heard.iter().filter(|message| holds(message, name)) {
            *asked += 1;
            assert!(holds(message, b"\x02locale\0\x07\0\0\0simple\0"), "{}", String::from_utf8_lossy(message));
            assert!(holds(message, b"\x09\0\0\0majority\0"), "{}", String::from_utf8_lossy(message));
        }
    }
    assert_eq!(asked, [1, 3, 1]);
    // The index of a collection that takes one for the other is as blind as it is.
    let blind = Collation::builder().locale("en".to_owned()).strength(CollationStrength::Primary).build();
    let options = IndexOptions::builder().collation(blind).build();
    documents(&place).0.create_index(IndexModel::builder().keys(doc! { "tenant": 1 }).options(options).build()).await.unwrap();
    let (store, other) = ask(&world, "Records", "tenant");
    let problems = store.check(&other).await.unwrap();
    assert!(problems[0].contains("has no index that leads with \"tenant\""), "{problems:?}");
}

#[tokio::test]
async fn what_may_be_the_accounts_and_is_named_by_no_string_keeps_the_job_open() {
    let Some((world, place)) = collection().await else { return };
    let (store, target) = ask(&world, "Records", "owner");
    let object = ObjectId::new();
    let uuid = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let binary = mongodb::bson::Binary {
        subtype: mongodb::bson::spec::BinarySubtype::Uuid,
        bytes: uuid.bytes().filter(|b| *b != b'-').collect::<Vec<_>>().chunks(2).map(hex).collect(),
    };
    for (account, owner) in [
        ("7", Bson::Int32(7)),
        ("8", Bson::Double(8.0)),
        ("a", Bson::Array(vec!["a".into(), "b".into()])),
        (object.to_hex().as_str(), Bson::ObjectId(object)),
        (uuid, Bson::Binary(binary)),
    ] {
        documents(&place).0.insert_one(doc! { "owner": owner.clone() }).await.unwrap();
        place.put(account, 2).await;
        assert_eq!(store.count(&target, account).await, Ok(3), "{owner}");
        assert_eq!(store.purge(&target, account, 9, soon()).await.unwrap().records, 2);
        assert_eq!(store.left(&target, account).await, Ok(true), "{owner}");
        let answer = store.purge(&target, account, 9, soon()).await;
        assert!(matches!(&answer, Err(StoreError::Refused(why)) if why.contains("which nothing is deleted by")), "{owner}: {answer:?}");
        assert_eq!(documents(&place).0.count_documents(doc! { "owner": owner }).await.unwrap(), 1);
    }
    assert_eq!(store.left(&target, "07").await, Ok(false), "another account");
    let problems = store.check(&target).await.unwrap();
    assert!(problems.len() == 1 && problems[0].contains("is no string"), "{problems:?}");

    // One document of several accounts, below a list.
    let (store, nested) = ask(&world, "Records", "items.owner");
    documents(&place).0.insert_one(doc! { "items": [{ "owner": "x" }, { "owner": "y" }] }).await.unwrap();
    documents(&place).0.insert_one(doc! { "items": { "owner": "x" } }).await.unwrap();
    assert_eq!(store.purge(&nested, "x", 9, soon()).await.unwrap().records, 1);
    assert!(matches!(store.purge(&nested, "x", 9, soon()).await, Err(StoreError::Refused(_))));
    assert_eq!(store.left(&nested, "y").await, Ok(true));
}

fn hex(two: &[u8]) -> u8 {
    u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()
}

#[tokio::test]
async fn a_purge_is_bounded_and_goes_on_from_where_it_was() {
    let Some((world, place)) = collection().await else { return };
    let (store, target) = ask(&world, "Records", "owner");
    place.put("a", 7).await;
    let mut gone = Vec::new();
    while store.left(&target, "a").await.unwrap() {
        let purged = store.purge(&target, "a", 3, soon()).await.unwrap();
        gone.push((purged.records, purged.more));
    }
    assert_eq!(gone, [(3, true), (3, true), (1, false)]);
    assert_eq!(store.purge(&target, "a", 3, soon()).await.unwrap().records, 0);
    place.put("a", 1).await;
    let late = store.purge(&target, "a", 3, Until::in_time(std::time::Duration::ZERO)).await;
    assert!(late == Err(StoreError::Late) && place.count("a").await == 1, "{late:?}");
}

#[tokio::test]
async fn what_is_no_collection_of_its_own_is_refused_and_what_is_unwise_is_said() {
    let Some((world, place)) = collection().await else { return };
    place.put("a", 1).await;
    let database = documents(&place).0.client().database(&place.name);
    database.create_collection("Sight").view_on("Records").await.unwrap();
    for (name, words) in [("records", "is not there"), ("Sight", "is a view")] {
        let (store, target) = ask(&world, name, "owner");
        let answers = [
            store.purge(&target, "a", 1, soon()).await.map(|_| ()),
            store.left(&target, "a").await.map(|_| ()),
            store.count(&target, "a").await.map(|_| ()),
            store.check(&target).await.map(|_| ()),
        ];
        for answer in answers {
            assert!(matches!(&answer, Err(StoreError::Refused(why)) if why.contains(words)), "{name}: {answer:?}");
        }
    }
    assert_eq!(place.count("a").await, 1);
    let (store, target) = ask(&world, "Records", "owner");
    assert_eq!(store.check(&target).await, Ok(Vec::new()));
    let (store, other) = ask(&world, "Records", "tenant");
    assert!(store.check(&other).await.unwrap()[0].contains("has no index that leads with \"tenant\""));
    let partial = IndexOptions::builder().partial_filter_expression(doc! { "tenant": { "$gt": "b" } }).build();
    documents(&place).0.create_index(IndexModel::builder().keys(doc! { "tenant": 1 }).options(partial).build()).await.unwrap();
    assert_eq!(store.check(&other).await.unwrap().len(), 1, "a part of an index serves a part");
    documents(&place).fail(&["delete"], doc! { "errorCode": 13 }).await;
    assert!(store.check(&target).await.unwrap()[0].starts_with("cannot be deleted from: "));
}

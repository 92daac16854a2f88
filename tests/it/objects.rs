//! What only a store of objects has: versions, markers and unfinished uploads, answers that cannot be believed, links in a folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::symlink,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use retentiond::{
    config::{self, Needs, Place},
    planner::Look,
    stores::{self, Careful, Gone, StoreError, Until},
};

use tokio::sync::Notify;

use crate::{
    bucket::Bucket,
    moto,
    standin::{Asked, Said, StandIn},
    stores::{Kind, once, world},
    world::{RULES, left_out},
};

/// Where the keys of an account begin.
fn place() -> Place {
    Place::Prefix { prefix: "b/{account_id}/".to_owned() }
}

/// Until a call may begin to delete.
fn soon() -> Until {
    Until::in_time(Duration::from_mins(1))
}

/// The store that a configuration calls `elsewhere`, without a database.
fn store(keys: &str) -> Arc<Careful> {
    let queue = "[[data_classes.targets]]\nstore = \"platform\"\ntable = \"queue_messages\"\n";
    let target = format!("[[data_classes.targets]]\nstore = \"elsewhere\"\nprefix = \"b/{{account_id}}/\"\n\n{queue}");
    let rules = format!("{}\n[stores.elsewhere]\nkind = \"objects\"\n{keys}", RULES.replace(queue, &target));
    let environment = [("RETENTIOND__MODE", "enforce"), ("DATABASE_URL", "postgres://127.0.0.1/none")];
    let environment: BTreeMap<String, String> = environment.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let config = config::parse(&[("rules.toml", &rules)], &environment, Needs::Database).unwrap();
    Arc::clone(&stores::open(&config)["elsewhere"])
}

fn bucket(port: u16) -> Arc<Careful> {
    store(&format!(
        "service = \"s3\"\nendpoint = \"http://127.0.0.1:{port}\"\nregion = \"us-east-1\"\nbucket = \"bucket\"\naccess_key_id = \"id\"\nsecret_access_key = \"key\"\n"
    ))
}

#[tokio::test]
async fn versions_markers_and_unfinished_uploads_are_gone_and_the_neighbours_stay() {
    if moto::installed().is_none() {
        return left_out("versions of objects: moto is not installed");
    }
    let (mut world, bucket) = world(Kind::S3).await;
    world.set("EXECUTOR__MAX_ROWS_PER_BATCH", "4");
    world.account("a1", "null", "now() - interval '8 days'", "null").await;
    let neighbours = ["a", "a10", "a1 ", "A1", "a1-"];
    for account in neighbours {
        bucket.put(account, 2).await;
    }
    bucket.ask("POST", "/backups/a10/u?uploads", "").await;
    // Two versions of each key, then a marker; keys that are hard to name; an upload that nobody finished, and one in a folder below.
    let keys = ["1", "sub/2", "ä +%&<'\"x", "ends in a blank ", "a\u{1}b"];
    for key in keys {
        let key = moto::encoded(&format!("/backups/a1/{key}"));
        for _ in 0..2 {
            bucket.ask("PUT", &key, "not to be logged").await;
        }
        bucket.ask("DELETE", &key, "").await;
    }
    bucket.ask("POST", "/backups/a1/u?uploads", "").await;
    bucket.ask("POST", "/backups/a1/sub/u?uploads", "").await;
    once(&world).await;
    let job = world.job("a1", "queue").await;
    assert_eq!(job.state, "completed", "{:?}", job.last_error);
    assert_eq!((bucket.count("a1").await, job.records_deleted.0[&bucket.target()]), (0, 3 * 5 + 2));
    for account in neighbours {
        assert_eq!(bucket.count(account).await, if account == "a10" { 3 } else { 2 }, "{account}");
    }
}

#[tokio::test]
async fn i10_a_bucket_that_swallows_deletions_in_silence_completes_no_job() {
    if moto::installed().is_none() {
        return left_out("deletions that are swallowed: moto is not installed");
    }
    let (mut world, bucket) = world(Kind::S3).await;
    let honest = Arc::new(AtomicBool::new(false));
    let (port, honestly) = (bucket.port, Arc::clone(&honest));
    let front = StandIn::start(move |asked: Asked| {
        let swallowed = asked.method != "GET" && !honestly.load(Ordering::SeqCst);
        async move {
            if swallowed {
                return Said::xml("<DeleteResult/>");
            }
            let (status, text) = moto::ask_any(&asked.method, port, asked.path.trim_start_matches('/'), &asked.body).await;
            Said(status, ("content-type", "application/xml"), text)
        }
    });
    world.rules = world.rules.replace(&format!(":{port}/"), &format!(":{}/", front.port));
    world.account("a", "null", "now() - interval '8 days'", "null").await;
    bucket.put("a", 2).await;
    bucket.ask("POST", "/backups/a/u?uploads", "").await;
    let app = world.app().await.unwrap();
    app.planner().look(Look::Resync).await.unwrap();
    let mut worker = app.executor().worker("one".to_owned());
    while world.job("a", "queue").await.attempts < 3 {
        worker.step().await.unwrap();
    }
    let job = world.job("a", "queue").await;
    assert!(job.state != "completed" && job.completed_at.is_none());
    assert_eq!((bucket.count("a").await, job.records_deleted.0[&bucket.target()]), (3, 0), "nothing is counted that is still there");
    let error = job.last_error.unwrap();
    assert!(error.contains("says that it has deleted what is still there") && !error.contains("not to be logged"), "{error}");
    honest.store(true, Ordering::SeqCst);
    while world.job("a", "queue").await.state != "completed" {
        worker.step().await.unwrap();
    }
    assert_eq!((bucket.count("a").await, world.job("a", "queue").await.records_deleted.0[&bucket.target()]), (0, 3));
}

#[tokio::test]
async fn what_a_bucket_says_it_has_deleted_is_not_believed() {
    let (server, bucket) = Bucket { page: 1000, lies: true, ..Bucket::default() }.with("a", 4).start();
    let store = self::bucket(server.port);
    for _ in 0..3 {
        let refused = store.purge(&place(), "a", 100, soon()).await.unwrap_err();
        assert_eq!(refused, StoreError::Refused("says that it has deleted what is still there".to_owned()));
        assert!(store.left(&place(), "a").await.unwrap());
    }
    bucket.lock().unwrap().lies = false;
    assert_eq!(store.purge(&place(), "a", 100, soon()).await.unwrap(), Gone { records: 4, more: false });
    assert!(!store.left(&place(), "a").await.unwrap());
}

#[tokio::test]
async fn what_is_locked_is_told_by_its_code_and_passed_by() {
    let locked = BTreeSet::from(["b/a/00000".to_owned(), "b/a/00002".to_owned()]);
    let (server, bucket) = Bucket { page: 3, locked, ..Bucket::default() }.with("a", 9).start();
    let store = self::bucket(server.port);
    assert_eq!(store.purge(&place(), "a", 100, soon()).await.unwrap(), Gone { records: 5, more: true });
    assert_eq!(bucket.lock().unwrap().versions.len(), 4);
    let refused = store.purge(&place(), "a", 100, soon()).await.unwrap_err();
    assert_eq!(refused, StoreError::Refused("AccessDenied".to_owned()), "no key, no message");
    bucket.lock().unwrap().locked.clear();
    assert_eq!(store.purge(&place(), "a", 100, soon()).await.unwrap(), Gone { records: 4, more: false });
}

#[tokio::test]
async fn a_listing_in_parts_is_read_to_its_end_and_a_call_deletes_no_more_than_it_may() {
    let (server, bucket) = Bucket { page: 700, ..Bucket::default() }.with("a", 2300).with("a1", 5).start();
    let store = self::bucket(server.port);
    assert_eq!(store.count(&place(), "a").await.unwrap(), 2300);
    assert_eq!(store.purge(&place(), "a", 3, soon()).await.unwrap(), Gone { records: 3, more: true });
    let mut records = 3;
    while records < 2300 {
        let gone = store.purge(&place(), "a", 2000, soon()).await.unwrap();
        assert!((1..=2000).contains(&gone.records), "{gone:?}");
        records += gone.records;
    }
    assert!(!store.left(&place(), "a").await.unwrap());
    assert_eq!(store.purge(&place(), "a", 2000, soon()).await.unwrap(), Gone { records: 0, more: false });
    let bucket = bucket.lock().unwrap();
    assert!(bucket.requests.iter().all(|versions| *versions <= 1000) && bucket.requests.iter().sum::<usize>() == 2300);
    assert_eq!(bucket.versions.len(), 5, "the neighbour's");
}

#[tokio::test]
async fn an_empty_part_is_not_the_end_of_a_listing() {
    let server = StandIn::start(|asked: Asked| async move {
        let part = match (asked.path.contains("uploads="), asked.path.contains("key-marker=")) {
            (false, false) => "<IsTruncated>true</IsTruncated><NextKeyMarker>b/a/1</NextKeyMarker>",
            (false, true) => "<IsTruncated>false</IsTruncated><DeleteMarker><Key>b/a/2</Key><VersionId>1</VersionId></DeleteMarker>",
            (true, _) => "<IsTruncated>false</IsTruncated>",
        };
        let root = if asked.path.contains("uploads=") { "ListMultipartUploadsResult" } else { "ListVersionsResult" };
        Said::xml(&format!("<{root}>{part}</{root}>"))
    });
    let store = bucket(server.port);
    assert!(store.left(&place(), "a").await.unwrap());
    assert_eq!(store.count(&place(), "a").await.unwrap(), 1);
}

#[tokio::test]
async fn i6_an_answer_that_is_no_listing_says_nothing_about_what_is_left() {
    let answers = [
        (200, "<html>Welcome</html>", "that is none"),
        (200, "", "no answer that can be read"),
        (200, "<ListVersionsResult><IsTruncated>false</IsTruncated>", "no answer that can be read"),
        (200, "<ListVersionsResult/>", "does not say whether it is all"),
        (200, "<ListVersionsResult><IsTruncated>false</IsTruncated><Version><Key>b/b/1</Key></Version></ListVersionsResult>", "other keys"),
        (403, "<Error><Code>AccessDenied</Code><Message>not to be logged</Message></Error>", "AccessDenied (HTTP 403)"),
        (404, "<Error><Code>NoSuchBucket</Code></Error>", "NoSuchBucket (HTTP 404)"),
        (301, "", "HTTP 301: the bucket is elsewhere"),
    ];
    for (status, body, why) in answers {
        let server = StandIn::start(move |asked: Asked| async move {
            assert_eq!(asked.method, "GET", "nothing is deleted");
            Said(status, ("content-type", "text/html"), body.to_owned())
        });
        let store = bucket(server.port);
        let errors = [
            store.left(&place(), "a").await.unwrap_err(),
            store.purge(&place(), "a", 10, soon()).await.unwrap_err(),
            store.count(&place(), "a").await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(&error, StoreError::Refused(said) if said.contains(why) && !said.contains("logged")), "{body}: {error:?}");
        }
    }
}

#[tokio::test]
async fn a_call_that_is_given_up_or_has_no_time_left_leaves_nothing_half_done() {
    let bucket = Arc::new(Mutex::new(Bucket { page: 1000, ..Bucket::default() }.with("a", 6)));
    let (mine, deleted) = (Arc::clone(&bucket), Arc::new(Notify::new()));
    let tell = Arc::clone(&deleted);
    let server = StandIn::start(move |asked| {
        let (said, first) = {
            let mut bucket = mine.lock().unwrap();
            (bucket.answer(&asked), asked.method == "POST" && bucket.requests.len() == 1)
        };
        let tell = Arc::clone(&tell);
        async move {
            if first {
                // It has happened, and nobody will ever hear of it.
                tell.notify_one();
                std::future::pending::<()>().await;
            }
            said
        }
    });
    let store = self::bucket(server.port);
    let late = Until::in_time(Duration::ZERO);
    assert!(matches!(store.purge(&place(), "a", 4, late).await, Err(StoreError::Late)));
    assert_eq!(bucket.lock().unwrap().requests, [0; 0], "nothing is begun once its time is over");

    let store = self::bucket(server.port);
    let place = place();
    tokio::select! {
        done = store.purge(&place, "a", 4, soon()) => panic!("{done:?}"),
        () = deleted.notified() => {}
    }
    assert!(store.left(&place, "a").await.unwrap());
    assert_eq!(store.purge(&place, "a", 4, soon()).await.unwrap(), Gone { records: 2, more: false });
    assert!(!store.left(&place, "a").await.unwrap());
}

#[tokio::test]
async fn a_bucket_that_asks_for_patience_gets_what_it_asks_for() {
    let server = StandIn::start(|_| async { Said(503, ("retry-after", "7"), "<Error><Code>SlowDown</Code></Error>".to_owned()) });
    let store = bucket(server.port);
    let throttled = store.purge(&place(), "a", 10, soon()).await.unwrap_err();
    assert_eq!(throttled, StoreError::Throttled { what: "HTTP 503".to_owned(), pause: Some(Duration::from_secs(7)) });
    assert!(store.left(&place(), "a").await.unwrap_err().to_string().contains("left alone for a moment"));
}

#[tokio::test]
async fn whoever_does_not_prove_who_he_is_is_told_nothing() {
    let server = StandIn::start(|asked: Asked| async move { panic!("it was asked in the clear: {asked:?}") });
    let keys = "region = \"us-east-1\"\nbucket = \"bucket\"\naccess_key_id = \"id\"\nsecret_access_key = \"key\"\n";
    let store = store(&format!("service = \"s3\"\nendpoint = \"https://127.0.0.1:{}\"\n{keys}", server.port));
    let away = store.left(&place(), "a").await.unwrap_err();
    assert!(matches!(&away, StoreError::Away(why) if why.starts_with("no connection") && !why.contains("bucket")), "{away:?}");
}

#[tokio::test]
async fn r8_an_account_that_a_key_cannot_hold_literally_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = store(&format!("service = \"fs\"\nroot = \"{}\"\n", dir.path().display()));
    let (server, _) = Bucket { page: 1000, ..Bucket::default() }.start();
    for store in [folder, bucket(server.port)] {
        for account in ["a/b", "a\\b", "..", "a..b", ".", "", "a\n", "a\u{7f}", &"a".repeat(1100)] {
            for error in [store.purge(&place(), account, 1, soon()).await.map(drop), store.left(&place(), account).await.map(drop)] {
                assert!(matches!(error, Err(StoreError::Refused(_))), "{account:?}: {error:?}");
            }
        }
        for account in ["Zoë ", "a.b", "{account_id}", "-", "*", "%2f", "a&b<c>"] {
            assert_eq!(store.purge(&place(), account, 1, soon()).await.unwrap(), Gone { records: 0, more: false }, "{account:?}");
            assert!(!store.left(&place(), account).await.unwrap());
        }
    }
}

#[tokio::test]
async fn a_check_says_what_stands_in_the_way_and_names_the_buckets_that_keep_copies() {
    let server = StandIn::start(|asked: Asked| async move {
        let query = asked.path.split_once('?').unwrap().1.split(['=', '&']).next().unwrap().to_owned();
        Said::xml(match query.as_str() {
            _ if asked.path.contains("uploads=") => {
                "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>"
            }
            "versioning" => "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>",
            "object-lock" => "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>",
            "replication" => {
                "<ReplicationConfiguration><Rule><Destination><Bucket>arn:aws:s3:::elsewhere</Bucket></Destination></Rule>
                 <Rule><Destination><Bucket>arn:aws:s3:::bucket</Bucket></Destination></Rule></ReplicationConfiguration>"
            }
            "delete" => "<DeleteResult><Error><Key>x</Key><Code>AccessDenied</Code></Error></DeleteResult>",
            _ => "<ListVersionsResult><IsTruncated>false</IsTruncated></ListVersionsResult>",
        })
    });
    let problems = bucket(server.port).check(&place()).await.unwrap();
    assert_eq!(
        problems,
        [
            "keeps versions: each of them and each delete marker is deleted by its id, for good",
            "has object lock: what is locked stays until its date, and so do the jobs",
            "is copied to the bucket elsewhere, where nothing is deleted: name its prefix as a target of the same class",
            "cannot be deleted from: AccessDenied",
        ]
    );
    if moto::installed().is_none() {
        return left_out("the check of a bucket: moto is not installed");
    }
    for (kind, words) in [(Kind::S3, "keeps versions"), (Kind::Cos, "")] {
        let (world, bucket) = world(kind).await;
        let config = world.config();
        let target = config.data_classes.iter().flat_map(|class| &class.remote).next().unwrap();
        bucket.put("a", 1).await;
        let found = stores::open(&config)["elsewhere"].check(&target.place).await.unwrap();
        assert!(if words.is_empty() { found.is_empty() } else { found.len() == 1 && found[0].contains(words) }, "{kind:?}: {found:?}");
        assert_eq!((bucket.count("a").await, bucket.count("{account_id}").await), (1, 0), "a check deletes nothing and leaves nothing");
        bucket.ask("DELETE", &moto::encoded("/backups/a/1"), "").await;
    }
    let missing = bucket(crate::stores::s3().port).check(&place()).await.unwrap_err();
    assert_eq!(missing, StoreError::Refused("NoSuchBucket (HTTP 404)".to_owned()));
}

#[tokio::test]
async fn a_folder_is_emptied_to_its_bottom_and_no_link_leads_out_of_it() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = dir.path();
    let store = store(&format!("service = \"fs\"\nroot = \"{}\"\n", root.display()));
    fs::write(outside.path().join("kept"), "").unwrap();
    for file in ["b/a1/1", "b/a1/sub/deep/2", "b/a1/sub/3", "b/a10/1"] {
        fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
        fs::write(root.join(file), "").unwrap();
    }
    assert_eq!(store.count(&place(), "a1").await.unwrap(), 3);
    assert_eq!(store.purge(&place(), "a1", 2, soon()).await.unwrap(), Gone { records: 2, more: true });
    assert_eq!(store.purge(&place(), "a1", 2, soon()).await.unwrap(), Gone { records: 1, more: false });
    assert!(!store.left(&place(), "a1").await.unwrap() && !root.join("b/a1").exists());
    assert!(root.join("b/a10/1").exists());

    // In place of the account's folder, of one on the way to it, and in it.
    symlink(outside.path(), root.join("b/linked")).unwrap();
    fs::create_dir_all(root.join("b/holds")).unwrap();
    symlink(outside.path(), root.join("b/holds/link")).unwrap();
    for account in ["linked", "holds"] {
        let refused = store.purge(&place(), account, 9, soon()).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Refused(why) if why.contains("symbolic link")), "{account}: {refused:?}");
    }
    assert!(store.left(&place(), "linked").await.is_err() && store.left(&place(), "holds").await.unwrap());
    fs::rename(root.join("b"), outside.path().join("b")).unwrap();
    symlink(outside.path().join("b"), root.join("b")).unwrap();
    assert!(store.purge(&place(), "a10", 9, soon()).await.is_err());
    assert!(outside.path().join("kept").exists() && outside.path().join("b/a10/1").exists());

    fs::remove_file(root.join("b")).unwrap();
    assert!(!store.left(&place(), "a10").await.unwrap(), "nothing is there");
    drop(dir);
    assert!(store.left(&place(), "a10").await.unwrap_err().to_string().contains("is in a folder that is not there"));
}

//! Purging the objects of one account in a bucket with versions: what many of them cost in time, and that they cost nothing in memory. The bucket is a
//! stand-in in this process, so that the figure is about the program and not about somebody's network.

use crate::{
    Bench,
    bucket::Bucket,
    fill,
    lab::COPY,
    program::{take_memory, used_memory},
    report::{Goal, Runs, figure, mib, rate},
};

pub(crate) async fn objects(bench: &mut Bench) {
    let (lab, [few, many]) = (&bench.lab, bench.sizes.versions);
    lab.template("bucket", &fill::no_rows(0, 1)).await;
    let account: String = sqlx::query_scalar("select account_id from feature_subscriptions where terminated_at is not null")
        .fetch_one(&mut lab.connect("bucket").await)
        .await
        .expect("the due account");
    let mut so_far = take_memory();
    let (mut rates, mut with_few, mut with_many) = (Runs::default(), Runs::default(), Runs::default());
    let mut rounds = bench.rounds(60);
    while rounds.next() {
        for (versions, memory) in [(few, &mut with_few), (many, &mut with_many)] {
            let (server, bucket) = Bucket { page: 1_000, ..Bucket::default() }.with(&account, versions as usize).with("other", 10).start();
            let store = format!(
                "kind = \"objects\"\nservice = \"s3\"\nendpoint = \"http://127.0.0.1:{}\"\nregion = \"us-east-1\"\nbucket = \"bucket\"
                 access_key_id = \"id\"\nsecret_access_key = \"key\"",
                server.port
            );
            drop(lab.copy("bucket").await);
            let ran = lab.program(COPY, "enforce").elsewhere(&store, "prefix = \"b/{account_id}/\"").run();
            assert_eq!(ran.completed, 1);
            assert_eq!(bucket.lock().expect("the bucket").versions.len(), 10, "nobody else's");
            if versions == many {
                rates.add(rate(i64::from(many), ran.purge()));
            }
            let used = take_memory();
            memory.add(mib(used));
            so_far = so_far.max(used);
        }
    }
    used_memory(so_far);
    lab.drop("bucket").await;
    let what = format!("purge {} versions of objects of one account", figure(f64::from(many)));
    bench.table.limit(&what, "versions/s", &rates, Goal::None);
    let less = format!("{} versions", figure(f64::from(few)));
    bench.table.compare("– resident memory meanwhile", "MiB", &with_many, &less, &with_few, Goal::AtMost(1.25));
}

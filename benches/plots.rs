//! The curves of `docs/plots/`: throughput over the size of a batch, and what looks cost as the work grows.

use crate::{
    Bench,
    lab::COPY,
    plan::{self, Looks},
    report::{Runs, rate},
    svg::{Chart, Line},
};

/// The figures of a quick run belong in no document.
fn write(bench: &Bench, name: &str, chart: &Chart<'_>) {
    let folder = format!("{}/{}/plots", env!("CARGO_MANIFEST_DIR"), if bench.sizes.quick { "target" } else { "docs" });
    std::fs::create_dir_all(&folder).expect("the folder of plots");
    std::fs::write(format!("{folder}/{name}.svg"), chart.svg()).expect("the plot");
}

/// How fast the skewed queues go, by `executor.max_rows_per_batch`.
pub(crate) async fn batches(bench: &mut Bench) {
    const ROWS: [u32; 7] = [200, 500, 1_000, 2_000, 5_000, 10_000, 20_000];
    bench.skewed().await;
    let lab = &bench.lab;
    let rows = bench.skewed_rows().await;
    let mut by_size = ROWS.map(|_| Runs::default());
    for _ in 0..bench.sizes.plotted {
        for (size, runs) in ROWS.iter().zip(&mut by_size) {
            drop(lab.copy("skewed").await);
            let ran = lab.program(COPY, "enforce").set("EXECUTOR__MAX_ROWS_PER_BATCH", &size.to_string()).run();
            runs.add(rate(rows, ran.purge()));
        }
    }
    let points = ROWS.iter().zip(&by_size).map(|(size, runs)| (f64::from(*size), runs.median() / 1e3)).collect();
    let lines = vec![Line { name: "default workers".to_owned(), points }];
    let chart = Chart {
        title: "Rows deleted per second, by the bound of a batch",
        x: "executor.max_rows_per_batch (rows)",
        y: "thousand rows/s",
        log: false,
        lines,
    };
    write(bench, "batch-size", &chart);
}

/// What a poll and a comparison cost, by the number of subscriptions. The largest have been measured already.
pub(crate) async fn growth(bench: &Bench, largest: Option<Looks>) {
    let mut all = Vec::new();
    for size in bench.sizes.growth {
        if largest.as_ref().is_none_or(|l| l.subscriptions != *size) {
            all.push(plan::looks(&bench.lab, *size, bench.sizes.runs, 20).await);
        }
    }
    all.extend(largest);
    let line = |name: &str, of: fn(&Looks) -> f64| Line {
        name: name.to_owned(),
        points: all.iter().map(|l| (f64::from(l.subscriptions), of(l))).collect(),
    };
    let chart = Chart {
        title: "What a look costs as the work grows",
        x: "subscriptions, 1 % of them terminated",
        y: "milliseconds",
        log: true,
        lines: vec![
            line("poll", |l| l.poll.median()),
            line("full comparison", |l| l.whole.median()),
            line("select count(*)", |l| l.count.median()),
        ],
    };
    write(bench, "growth", &chart);
}

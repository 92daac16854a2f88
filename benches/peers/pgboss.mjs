// pg-boss on jobs that do nothing: as many as the argument says, fetched and completed 500 at a time, the next batch at once while batches are
// full. Prints {"jobs": …, "seconds": …} of the drain alone.
import pg from "pg";
import { PgBoss } from "pg-boss";

const jobs = Number(process.argv[2]);
const chunk = 5000;
const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
await client.connect();

const boss = new PgBoss({ connectionString: process.env.DATABASE_URL });
boss.on("error", (error) => console.error(error));
await boss.start();
await boss.createQueue("nothing");
for (let from = 0; from < jobs; from += chunk) {
  await boss.insert("nothing", Array.from({ length: Math.min(chunk, jobs - from) }, (_, i) => ({ data: { account: from + i } })));
}
await client.query("vacuum analyze");
await client.query("checkpoint");

let done = 0;
let finished;
const all = new Promise((resolve) => (finished = resolve));
const began = performance.now();
await boss.work("nothing", { batchSize: 500, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5 }, async (batch) => {
  done += batch.length;
  if (done >= jobs) finished();
});
await all;
const seconds = (performance.now() - began) / 1000;
console.log(JSON.stringify({ jobs: done, seconds }));
process.exit(0);

// graphile-worker on our work: one job for each account in the table `due`, whose task is one DELETE of the account's messages.
// Its vendor's fastest settings. Prints {"jobs": …, "seconds": …} of the drain alone.
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import pg from "pg";

const chunk = 5000;
const silent = new Logger(() => () => {});
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 26 });

const accounts = (await pool.query("select account_id from due")).rows.map((row) => row.account_id);
const utils = await makeWorkerUtils({ pgPool: pool, logger: silent });
await utils.migrate();
for (let from = 0; from < accounts.length; from += chunk) {
  await utils.addJobs(accounts.slice(from, from + chunk).map((account) => ({ identifier: "purge", payload: { account } })));
}
await utils.release();
await pool.query("vacuum analyze");
await pool.query("checkpoint");

let done = 0;
let finished;
const all = new Promise((resolve) => (finished = resolve));
const purge = async ({ account }, helpers) => {
  await helpers.query("delete from queue_messages where account_id = $1", [account]);
  if (++done === accounts.length) finished();
};
const began = performance.now();
const runner = await run({
  pgPool: pool,
  noHandleSignals: true,
  taskList: { purge },
  preset: { worker: { concurrentJobs: 24, localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0, logger: silent } },
});
await all;
const seconds = (performance.now() - began) / 1000;
await runner.stop();
console.log(JSON.stringify({ jobs: done, seconds }));
process.exit(0);

-- Large accounts take every other turn of a worker, beside what is due for the first time: neither waits for all of the other.

create index jobs_begun on retention.jobs ((feature || '/' || data_class), ready_at) where purge_began_at is not null;
comment on index retention.jobs_begun is 'Whose turn it is among the jobs that have been begun: accounts with more records than one batch takes. An expression for the reason of jobs_ready.';

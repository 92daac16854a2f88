-- In which region an account lived is told by its own row; when that is deleted, the daemon of its region still has to know that it is its own to purge.

create table retention.account_regions (
    account_id text primary key,
    region     text not null
);
comment on table  retention.account_regions is 'Where accounts live, as each daemon with regions saw it last: asked once an account has no row of its own any more.';
comment on column retention.account_regions.account_id is 'The account.';
comment on column retention.account_regions.region is 'Its region.';

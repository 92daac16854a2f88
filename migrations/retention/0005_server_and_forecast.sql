-- Which server the guard was made for, and what it sees coming.

alter table retention.guard
    add column server      bigint,
    add column timeline    bigint,
    add column forecast_at timestamptz,
    add column forecast    text,
    add check ((forecast_at is null) = (forecast is null));
comment on column retention.guard.server is 'System identifier of the server it was made for; on another nothing is purged. Null until the first look.';
comment on column retention.guard.timeline is 'The server''s timeline at the last look; a new one means that a standby was promoted.';
comment on column retention.guard.forecast_at is 'When what is scheduled would exceed a limit; null when nothing would.';
comment on column retention.guard.forecast is 'Which limit, with the figures.';

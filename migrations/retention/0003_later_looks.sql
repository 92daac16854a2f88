-- Purged subjects are looked at again, at growing intervals.

alter table retention.done_marks
    add column purged_at timestamptz not null default now(),
    add column look_at   timestamptz,
    add column looks     integer not null default 0,
    add column residue   boolean not null default false;
comment on column retention.done_marks.purged_at is 'When the purge was completed; looks go on for verifier.watch_for from here.';
comment on column retention.done_marks.look_at is 'When the verifier looks again; null when it looks no more.';
comment on column retention.done_marks.looks is 'Looks in a row that found nothing.';
comment on column retention.done_marks.residue is 'A look found records: the planner opens the class again if its starting point still stands.';

create index done_marks_look on retention.done_marks (feature, data_class, look_at) where look_at is not null;
create index done_marks_residue on retention.done_marks (feature, data_class) where residue;
comment on index retention.done_marks_look is 'What the verifier looks at next.';
comment on index retention.done_marks_residue is 'What the planner opens again.';

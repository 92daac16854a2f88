-- Accounts at every stage of life, with everything that media processing keeps of them. One transaction; the number of
-- accounts is the setting demo.accounts. All is reproducible except for now(), which every instant is counted from.

CREATE SCHEMA demo;
COMMENT ON SCHEMA demo IS 'What the demo knows about its sample accounts. No part of the platform.';

-- An account of a stage ended something between "from" and "to" days ago; null: it did not. The text says what becomes
-- of its records, for the table that the demo closes with.
CREATE TABLE demo.stages (
    stage           integer PRIMARY KEY,
    name            text NOT NULL,
    share           integer NOT NULL,
    deleted_from    double precision,
    deleted_to      double precision,
    terminated_from double precision,
    terminated_to   double precision,
    cmq_from        double precision,
    cmq_to          double precision,
    queue           boolean NOT NULL DEFAULT true,
    subscribed      boolean NOT NULL DEFAULT true,
    reason          text NOT NULL
);
COMMENT ON TABLE demo.stages IS 'The stages of life of a sample account; shares are of a hundred.';

INSERT INTO demo.stages (stage, name, share, deleted_from, deleted_to, terminated_from, terminated_to,
                         cmq_from, cmq_to, queue, subscribed, reason)
VALUES
    ( 1, 'in use', 32,
      NULL, NULL, NULL, NULL, NULL, NULL, true, true, 'nothing has ended: all kept'),
    ( 2, 'in use, queue never enabled', 8,
      NULL, NULL, NULL, NULL, NULL, NULL, false, true, 'nothing has ended: all kept'),
    ( 3, 'terminated once, in use again', 4,
      NULL, NULL, NULL, NULL, NULL, NULL, true, true, 'reactivation wins: all kept'),
    ( 4, 'will be terminated in 1 to 20 days', 3,
      NULL, NULL, -20, -1, NULL, NULL, true, true, 'nothing has ended yet: all kept'),
    ( 5, 'queue disabled 1 to 6 days ago', 5,
      NULL, NULL, NULL, NULL, 6, 1, true, true, 'queue: its 7 days have not passed; configuration: in use'),
    ( 6, 'queue disabled 8 to 60 days ago', 5,
      NULL, NULL, NULL, NULL, 60, 8, true, true, 'queue: 7 days have passed; configuration: in use'),
    ( 7, 'queue disabled, 7 days pass now', 4,
      NULL, NULL, NULL, NULL, 7 - 8 / 86400.0, 7 - 40 / 86400.0, true, true,
      'queue: 7 days pass while you watch; configuration: in use'),
    ( 8, 'terminated 1 to 6 days ago', 6,
      NULL, NULL, 6, 1, NULL, NULL, true, true, 'neither 7 nor 30 days have passed: all kept'),
    ( 9, 'terminated 8 to 29 days ago', 7,
      NULL, NULL, 29, 8, NULL, NULL, true, true, 'queue: 7 days have passed; configuration: its 30 have not'),
    (10, 'queue disabled 9, terminated 3 days ago', 2,
      NULL, NULL, 3, 3, 9, 9, true, true, 'queue: 7 days from the earlier of the two; configuration: its 30 have not passed'),
    (11, 'terminated, 30 days pass now', 5,
      NULL, NULL, 30 - 8 / 86400.0, 30 - 40 / 86400.0, NULL, NULL, true, true,
      'queue: 7 days have passed; configuration: 30 days pass while you watch'),
    (12, 'terminated 31 to 400 days ago', 7,
      NULL, NULL, 400, 31, NULL, NULL, true, true, '7 and 30 days have passed'),
    (13, 'account deleted 1 to 6 days ago', 4,
      6, 1, NULL, NULL, NULL, NULL, true, true, 'neither 7 nor 30 days have passed: all kept'),
    (14, 'account deleted 31 to 300 days ago', 5,
      300, 31, NULL, NULL, NULL, NULL, true, true, '7 and 30 days have passed'),
    (15, 'account deleted, no subscription left', 3,
      200, 40, NULL, NULL, NULL, NULL, true, false, 'a deleted account counts for every feature');

-- One row for each account to be. "along" is its place within its stage, from 0 to 1; "seed" varies the amounts.
CREATE TEMPORARY TABLE person ON COMMIT DROP AS
WITH numbered AS (
    SELECT n,
           '1000' || lpad((n * 48271 % 100000000)::text, 8, '0') AS account_id,
           '125' || lpad((n * 7919 % 10000000)::text, 7, '0') AS app_id,
           (n - 1) * 100 / current_setting('demo.accounts')::bigint AS hundredth
    FROM generate_series(1, current_setting('demo.accounts')::bigint) AS n
), staged AS (
    SELECT numbered.*, s.*,
           coalesce((row_number() OVER within - 1)::double precision / nullif(count(*) OVER within_all - 1, 0), 0) AS along,
           ('x' || left(md5(account_id), 7))::bit(28)::integer AS seed
    FROM numbered
    JOIN (SELECT *, sum(share) OVER (ORDER BY stage) AS upto FROM demo.stages) AS s
      ON hundredth >= upto - share AND hundredth < upto
    WINDOW within AS (PARTITION BY stage ORDER BY n), within_all AS (PARTITION BY stage)
), dated AS (
    SELECT *,
           now() - make_interval(secs => 86400 * (deleted_from + along * (deleted_to - deleted_from))) AS deleted_at,
           now() - make_interval(secs => 86400 * (terminated_from + along * (terminated_to - terminated_from))) AS terminated_at,
           now() - make_interval(secs => 86400 * (cmq_from + along * (cmq_to - cmq_from))) AS cmq_disabled_at
    FROM staged
), ended AS (
    SELECT *,
           least(now(), deleted_at, terminated_at) AS used_until,
           least(now(), deleted_at, terminated_at, cmq_disabled_at) AS queued_until
    FROM dated
)
SELECT n, account_id, app_id, stage, queue, subscribed, seed, deleted_at, terminated_at, cmq_disabled_at,
       used_until, queued_until,
       used_until - make_interval(secs => 86400 * (60 + seed % 700)) AS created_at,
       (ARRAY['ap-singapore', 'ap-guangzhou', 'ap-hongkong', 'eu-frankfurt', 'na-ashburn'])[1 + n % 5] AS region,
       (ARRAY['studio', 'news', 'school', 'sports', 'gallery', 'radio', 'clinic'])[1 + n % 7] || '-' || app_id AS bucket
FROM ended;

INSERT INTO public.accounts (account_id, region, created_at, deleted_at)
SELECT account_id, region, created_at, deleted_at FROM person;

INSERT INTO public.feature_subscriptions (account_id, feature, activated_at, terminated_at, cmq_enabled, cmq_disabled_at)
SELECT account_id, 'mps',
       CASE stage WHEN 3 THEN now() - make_interval(days => (1 + n % 20)::integer) ELSE created_at + interval '1 hour' END,
       terminated_at, queue AND cmq_disabled_at IS NULL, cmq_disabled_at
FROM person WHERE subscribed;

CREATE TABLE demo.accounts (
    account text PRIMARY KEY,
    stage   integer NOT NULL REFERENCES demo.stages
);
COMMENT ON TABLE demo.accounts IS 'Which stage of life a sample account stands for.';
INSERT INTO demo.accounts SELECT account_id, stage FROM person;

INSERT INTO public.template_configurations (account_id, template_type, parameters, created_at)
SELECT account_id, kind,
       CASE kind
           WHEN 'video' THEN jsonb_build_object(
               'Name', 'video-' || height || 'p-' || k, 'Container', 'mp4',
               'VideoTemplate', jsonb_build_object(
                   'Codec', (ARRAY['libx264', 'libx265', 'libsvtav1'])[1 + seed % 3],
                   'Fps', (ARRAY[24, 25, 30, 60])[1 + (seed + k) % 4], 'Bitrate', height * 2,
                   'Width', height * 16 / 9, 'Height', height, 'ResolutionAdaptive', 'open', 'Gop', 48, 'FillType', 'black'),
               'AudioTemplate', jsonb_build_object('Codec', 'aac', 'Bitrate', 128, 'SampleRate', 48000, 'AudioChannel', 2),
               'RemoveVideo', 0, 'RemoveAudio', 0)
           WHEN 'audio' THEN jsonb_build_object(
               'Name', 'audio-' || k, 'Container', 'mp3',
               'AudioTemplate', jsonb_build_object(
                   'Codec', 'libmp3lame', 'Bitrate', (ARRAY[64, 96, 128, 192])[1 + seed % 4], 'SampleRate', 44100, 'AudioChannel', 2),
               'RemoveVideo', 1, 'RemoveAudio', 0)
           ELSE jsonb_build_object(
               'Name', 'cover-' || k, 'Format', 'jpg', 'SampleType', 'Percent', 'SampleInterval', 10,
               'Width', height * 16 / 9, 'Height', height, 'ResolutionAdaptive', 'open', 'FillType', 'black')
       END,
       created_at + k * (used_until - created_at) / 8
FROM person
CROSS JOIN LATERAL generate_series(1, 2 + seed % 4) AS k
CROSS JOIN LATERAL (SELECT (ARRAY['video', 'audio', 'image'])[1 + (seed + k) % 3] AS kind,
                           (ARRAY[360, 720, 1080, 2160])[1 + (seed + k) % 4] AS height) AS shape;

CREATE TEMPORARY TABLE task ON COMMIT DROP AS
SELECT person.*, k, task_type, hash, file, started_at, seconds,
       app_id || '-' || replace(task_type, 'EditMediaTask', 'EditMedia') || '-' || hash AS task_id,
       '/input/' || to_char(started_at, 'YYYY/MM') || '/' || file || '.mp4' AS source,
       '/output/' || to_char(started_at, 'YYYY/MM') || '/' || file || '_' || tail AS output,
       started_at < queued_until AND queue AS notified
FROM person
CROSS JOIN LATERAL generate_series(1, 3 + seed % 18) AS k
CROSS JOIN LATERAL (
    SELECT CASE WHEN k % 10 < 7 THEN 'WorkflowTask' WHEN k % 10 < 9 THEN 'EditMediaTask' ELSE 'ScheduleTask' END AS task_type,
           CASE WHEN k % 10 < 7 THEN 'transcode_100010.mp4' WHEN k % 10 < 9 THEN 'edit.mp4' ELSE 'adaptive_10.m3u8' END AS tail,
           md5(account_id || '/' || k) AS hash,
           (ARRAY['interview', 'lesson', 'match', 'keynote', 'trailer', 'concert'])[1 + (seed + k) % 6]
               || '-' || left(md5(k || account_id), 8) AS file,
           created_at + k * (used_until - created_at) / 22 AS started_at,
           20 + (seed / 3 + 97 * k) % 5400 AS seconds
) AS work;

INSERT INTO public.task_configurations (task_id, account_id, task_type, source_media_path, output_path, created_at)
SELECT task_id, account_id, task_type, source, output, started_at FROM task;

-- The notification of a finished task, as the media processing service words it.
INSERT INTO public.queue_messages (account_id, event_type, workflow_task_event, edit_media_task_event, schedule_task_event,
                                   session_id, session_context, "timestamp", sign, request_id, created_at)
SELECT account_id, task_type,
       CASE task_type WHEN 'WorkflowTask' THEN head || jsonb_build_object(
           'InputInfo', input, 'MetaData', meta,
           'MediaProcessResultSet', jsonb_build_array(jsonb_build_object('Type', 'Transcode', 'TranscodeTask', transcode)),
           'AiContentReviewResultSet', '[]'::jsonb, 'AiAnalysisResultSet', '[]'::jsonb,
           'AiRecognitionResultSet', '[]'::jsonb) END,
       CASE task_type WHEN 'EditMediaTask' THEN head || jsonb_build_object(
           'Input', jsonb_build_object('FileInfoSet', jsonb_build_array(jsonb_build_object(
               'InputInfo', input, 'StartTimeOffset', 0.0, 'EndTimeOffset', seconds / 2.0, 'Id', left(hash, 12)))),
           'Output', jsonb_build_object('OutputStorage', storage, 'Path', output, 'MetaData', meta)) END,
       CASE task_type WHEN 'ScheduleTask' THEN head || jsonb_build_object(
           'InputInfo', input, 'MetaData', meta,
           'ActivityResultSet', jsonb_build_array(jsonb_build_object(
               'ActivityType', 'Transcode', 'ActivityResItem', jsonb_build_object('TranscodeTask', transcode)))) END,
       'session-' || left(hash, 16),
       jsonb_build_object('user', 'editor' || seed % 40 || '@' || bucket || '.example', 'ticket', 10000 + k)::text,
       expires, md5(expires || md5('notify-key-' || account_id)), md5('request-' || hash)::uuid, finished_at
FROM task
CROSS JOIN LATERAL (
    SELECT least(started_at + make_interval(secs => seconds), queued_until) AS finished_at,
           jsonb_build_object('TaskId', task_id, 'Status', 'FINISH', 'ErrCode', 0, 'Message', '') AS head,
           jsonb_build_object('Type', 'COS', 'CosInputInfo',
               jsonb_build_object('Bucket', bucket, 'Region', region, 'Object', source)) AS input,
           jsonb_build_object('Type', 'COS', 'CosOutputStorage',
               jsonb_build_object('Bucket', bucket, 'Region', region)) AS storage,
           jsonb_build_object('Size', seconds * 250000, 'Container', 'mov,mp4,m4a,3gp,3g2,mj2', 'Bitrate', 2000000,
               'Width', 1280, 'Height', 720, 'Duration', seconds, 'Rotate', 0) AS meta
) AS common
CROSS JOIN LATERAL (
    SELECT extract(epoch FROM finished_at)::bigint + 600 AS expires,
           jsonb_build_object('Status', 'SUCCESS', 'ErrCode', 0, 'ErrCodeExt', '', 'Message', 'Success', 'Progress', 100,
               'Input', jsonb_build_object('Definition', 100010, 'OutputStorage', storage),
               'Output', jsonb_build_object('OutputStorage', storage, 'Path', output, 'Definition', 100010,
                   'Bitrate', 1500000, 'Width', 1280, 'Height', 720, 'Size', seconds * 187500, 'Duration', seconds,
                   'Container', 'mp4', 'Md5', md5('file-' || hash))) AS transcode
) AS outcome
WHERE notified;

INSERT INTO public.media_objects (account_id, kind, storage_address, live_stream_address, created_at)
SELECT account_id, kind,
       'https://' || bucket || '.cos.' || region || '.myqcloud.com' || CASE kind WHEN 'source' THEN source ELSE output END,
       NULL, started_at
FROM task CROSS JOIN unnest(ARRAY['source', 'processed']) AS kind
UNION ALL
SELECT account_id, 'live', NULL, 'https://play.' || bucket || '.example/live/' || left(md5('live-' || account_id), 16) || '.m3u8',
       created_at
FROM person WHERE n % 4 = 0;

ANALYZE public.accounts, public.feature_subscriptions, public.template_configurations, public.task_configurations,
        public.queue_messages, public.media_objects;

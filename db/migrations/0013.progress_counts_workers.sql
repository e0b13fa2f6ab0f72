-- The view import_progress counts workers where it speaks of workers: one worker may have several chunks.
-- depends: 0012.import_jobs_by_status

CREATE OR REPLACE VIEW import_progress AS
SELECT
    job.id,
    job.resource,
    job.mode,
    job.status,
    job.outcome,
    reason.waiting_for,
    job.file_name,
    job.total_records,
    counts.processed AS processed_records,
    CASE job.total_records WHEN 0 THEN 100.0 ELSE round(100.0 * counts.processed / job.total_records, 1) END AS percent,
    counts.failed AS failed_records,
    counts.deferred AS deferred_records,
    round(speed.records_per_second) AS records_per_second,
    CASE
        WHEN job.finished_at IS NULL AND speed.records_per_second > 0
        THEN (job.total_records - counts.processed) / speed.records_per_second * interval '1 second'
    END AS time_left,
    -- of live jobs
    work.pending AS pending_chunks,
    work.resting AS resting_chunks,
    work.running AS running_chunks,
    work.done AS done_chunks,
    work.failed_chunks,
    work.attempts AS most_attempts,
    work.last_error,
    job.after_id,
    job.request_id,
    job.created_at,
    job.started_at,
    job.finished_at,
    -- their names before
    reason.waiting_for AS because,
    work.last_error AS last_accident
FROM import_jobs AS job
LEFT JOIN import_jobs AS earlier ON earlier.id = job.after_id
LEFT JOIN LATERAL (
    SELECT
        sum(created + updated + unchanged + skipped + failed)::bigint AS processed,
        sum(failed)::bigint AS failed,
        sum(deferred)::bigint AS deferred,
        count(*) FILTER (WHERE state = 'pending') AS pending,
        count(*) FILTER (WHERE state = 'pending' AND retry_at > clock_timestamp()) AS resting,
        count(*) FILTER (WHERE state = 'running') AS running,
        count(DISTINCT chunks.worker) FILTER (WHERE state = 'running') AS workers,
        count(*) FILTER (
            WHERE state = 'running' AND left(chunks.worker, 51) NOT IN (SELECT worker FROM worker_sessions)
        ) AS abandoned,
        count(*) FILTER (WHERE state = 'done') AS done,
        count(*) FILTER (WHERE state = 'failed') AS failed_chunks,
        coalesce(bool_or(kind = 'settle' AND state = 'running'), false) AS is_settling,
        max(attempt) AS attempts,
        min(retry_at) FILTER (WHERE state = 'pending') AS rests_until,
        (array_agg(last_error ORDER BY claimed_at DESC) FILTER (WHERE last_error IS NOT NULL))[1] AS last_error
    FROM chunks
    WHERE chunks.job_id = job.id
) AS work ON job.finished_at IS NULL
CROSS JOIN LATERAL (
    SELECT
        coalesce(work.processed, job.created + job.updated + job.unchanged + job.skipped + job.failed) AS processed,
        coalesce(work.failed, job.failed) AS failed,
        coalesce(work.deferred, 0) AS deferred
) AS counts
CROSS JOIN LATERAL (
    SELECT counts.processed
        / nullif(extract(epoch FROM coalesce(job.finished_at, clock_timestamp()) - job.started_at), 0) AS records_per_second
) AS speed
CROSS JOIN (
    SELECT
        (SELECT count(*) FROM worker_sessions) AS workers,
        (SELECT count(DISTINCT worker) FROM chunks WHERE state = 'running') AS busy
) AS connected
CROSS JOIN LATERAL (
    SELECT
        CASE
            WHEN job.status = 'completed' THEN NULL
            WHEN job.status = 'failed' THEN concat_ws(': ', job.problem ->> 'title', job.problem ->> 'detail')
            WHEN job.status = 'cancelled' THEN 'it was cancelled'
            WHEN job.status = 'uploading' THEN format(
                'its file is being received; the last sign of life was %s s ago',
                round(extract(epoch FROM clock_timestamp() - job.touched_at))
            )
            WHEN job.cancel_requested_at IS NOT NULL AND work.running > 0 THEN format(
                'it is being cancelled; %s chunks that were begun are still worked on', work.running
            )
            WHEN job.problem IS NOT NULL AND work.running > 0 THEN format(
                'it is being stopped (%s); %s chunks that were begun are still worked on', job.problem ->> 'title', work.running
            )
            WHEN work.running > 0 AND work.running = work.abandoned THEN format(
                'the workers of its %s running chunks are gone; others will take them over', work.running
            )
            WHEN work.is_settling THEN 'records that share a key are being decided on, which is the last step'
            WHEN work.running > 0 THEN format(
                CASE work.workers WHEN 1 THEN '%s worker is processing it' ELSE '%s workers are processing it' END, work.workers
            )
            WHEN job.cancel_requested_at IS NOT NULL OR job.problem IS NOT NULL OR work.pending = 0
                THEN 'nothing is left to do; its end is about to be written'
            WHEN earlier.status <> 'completed' THEN format('it waits for import %s, which is %s', earlier.id, earlier.status)
            WHEN connected.workers = 0 THEN 'no worker is connected'
            WHEN work.resting = work.pending THEN format(
                'its chunks were given back and rest until %s: %s',
                to_char(work.rests_until, 'YYYY-MM-DD HH24:MI:SS TZ'), work.last_error
            )
            ELSE format('it waits for its turn; %s of %s workers are busy', connected.busy, connected.workers)
        END AS waiting_for
) AS reason;

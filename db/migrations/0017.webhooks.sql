-- Webhooks: the deliveries of ends of jobs to the endpoints of WEBHOOKS.
-- depends: 0016.uuid_v7

CREATE TABLE webhook_deliveries (
    -- the header webhook-id, by which receivers recognise a repeated delivery
    id uuid PRIMARY KEY DEFAULT uuid_v7(),
    import_id uuid REFERENCES import_jobs ON DELETE CASCADE,
    export_id uuid REFERENCES export_jobs ON DELETE CASCADE,
    -- the name of one of WEBHOOKS
    endpoint text NOT NULL,
    event text NOT NULL,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'sending', 'delivered', 'failed')),
    -- grows with each claim; a result with an older number is not stored
    lease integer NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    attempted_at timestamptz,
    -- while it is sending, the time at which it is claimed again if there is no result
    next_attempt_at timestamptz DEFAULT clock_timestamp(),
    -- of the last attempt: the status of the response, and why it was not successful
    response_status integer,
    error text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    UNIQUE (import_id, endpoint),
    UNIQUE (export_id, endpoint),
    CONSTRAINT of_one_job CHECK ((import_id IS NULL) <> (export_id IS NULL)),
    CONSTRAINT finished_iff_final CHECK ((state IN ('delivered', 'failed')) = (finished_at IS NOT NULL)),
    CONSTRAINT next_unless_final CHECK ((state IN ('pending', 'sending')) = (next_attempt_at IS NOT NULL))
);

-- claim: the deliveries that are due
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint, next_attempt_at) WHERE state IN ('pending', 'sending');

CREATE VIEW webhook_health AS
SELECT
    endpoint,
    count(*) FILTER (WHERE state IN ('pending', 'sending')) AS waiting,
    clock_timestamp() - min(created_at) FILTER (WHERE state IN ('pending', 'sending')) AS oldest_waiting_for,
    min(next_attempt_at) AS next_attempt_at,
    count(*) FILTER (WHERE state = 'delivered') AS delivered,
    count(*) FILTER (WHERE state = 'failed') AS failed,
    max(finished_at) FILTER (WHERE state = 'delivered') AS last_delivered_at,
    (array_agg(error ORDER BY attempted_at DESC) FILTER (WHERE error IS NOT NULL))[1] AS last_error
FROM webhook_deliveries
GROUP BY endpoint;

COMMENT ON VIEW webhook_health IS 'Which endpoints of webhooks do not receive their events, and why';

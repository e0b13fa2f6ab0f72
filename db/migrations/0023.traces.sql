-- Traces: the spans of workers belong to the trace of the request, and have links to the first attempt at their chunk. Processes of the
-- previous version do not write these columns: jobs that they create, and attempts that they make, are not in a trace.
-- depends: 0022.undo

-- as in the header of W3C Trace Context; NULL: the job does not belong to a trace
ALTER TABLE import_jobs ADD traceparent text;
ALTER TABLE export_jobs ADD traceparent text;
-- 16 hexadecimal digits; NULL: no attempt was recorded. One span is that of all chunks that are claimed together.
ALTER TABLE chunks ADD first_span_id text;

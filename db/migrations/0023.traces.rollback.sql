ALTER TABLE chunks DROP first_span_id;
ALTER TABLE export_jobs DROP traceparent;
ALTER TABLE import_jobs DROP traceparent;

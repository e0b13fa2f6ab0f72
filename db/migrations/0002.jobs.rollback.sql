DROP FUNCTION import_names;
DROP FUNCTION import_line;
DROP TABLE import_deferred;
DROP TABLE import_errors;
DROP TABLE import_payloads;
DROP TABLE chunks;
DROP TABLE export_jobs;
DROP TABLE import_jobs;

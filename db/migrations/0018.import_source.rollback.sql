ALTER TABLE import_jobs DROP source;

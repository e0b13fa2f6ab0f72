DROP TABLE import_created, import_undos;
ALTER TABLE import_jobs DROP end_snapshot, DROP undoable;

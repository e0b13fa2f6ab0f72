ALTER TABLE comments RESET (autovacuum_vacuum_insert_scale_factor);
ALTER TABLE users RESET (autovacuum_vacuum_insert_scale_factor);
ALTER INDEX comments_created SET (autosummarize = on);
ALTER INDEX users_created SET (autosummarize = on);

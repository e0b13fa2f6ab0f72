-- The BRIN indexes are summarised by autovacuum's vacuum of their table, after every 2 percent of new rows. `autosummarize` made each
-- insert that fills a range of pages ask for it: with autovacuum's list of requests full, the server logs a line for each of them.
-- depends: 0013.progress_counts_workers

ALTER INDEX users_created RESET (autosummarize);
ALTER INDEX comments_created RESET (autosummarize);
ALTER TABLE users SET (autovacuum_vacuum_insert_scale_factor = 0.02);
ALTER TABLE comments SET (autovacuum_vacuum_insert_scale_factor = 0.02);

-- The object of a bucket that an import's file was read from.
-- depends: 0017.webhooks

-- an object with url, bytes, e_tag, last_modified, verified; NULL for a file that was sent
ALTER TABLE import_jobs ADD source jsonb;

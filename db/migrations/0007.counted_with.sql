-- Chunks that a worker has done in one transaction are counted together.
-- depends: 0006.views

-- the seq of the chunk whose counters are of this one too
ALTER TABLE chunks ADD counted_with integer;

COMMENT ON COLUMN chunks.counted_with IS 'seq of the chunk whose counters include this one''s, as both were done together';

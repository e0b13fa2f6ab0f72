ALTER TABLE comments ALTER id SET DEFAULT 'cm_' || gen_random_uuid();
ALTER TABLE articles ALTER id SET DEFAULT gen_random_uuid();
ALTER TABLE users ALTER id SET DEFAULT gen_random_uuid();
DROP FUNCTION uuid_v7;

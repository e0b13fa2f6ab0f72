-- Generated ids are UUIDs of version 7 (RFC 9562), which begin with the time in milliseconds: the index entries of an import lie side by
-- side instead of on pages all over the index. `uuid_v7` is for servers before PostgreSQL 18 too. The other bits are those of a random
-- UUID, whose version (bits 52 to 55) becomes 7 and whose variant is the same.
-- depends: 0015.server_of_a_claim

CREATE FUNCTION uuid_v7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN encode(
    set_bit(
        set_bit(
            overlay(
                uuid_send(gen_random_uuid())
                PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                FROM 1
            ),
            52, 1
        ),
        53, 1
    ),
    'hex'
)::uuid;

ALTER TABLE users ALTER id SET DEFAULT uuid_v7();
ALTER TABLE articles ALTER id SET DEFAULT uuid_v7();
ALTER TABLE comments ALTER id SET DEFAULT 'cm_' || uuid_v7();

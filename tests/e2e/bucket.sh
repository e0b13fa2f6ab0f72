#!/usr/bin/env bash
# Imports from a bucket: a presigned URL, an upload to it, the import, the same request again, sources that are refused.
# The service needs UPLOAD_DIR. HOST=http://127.0.0.1:8080 API_KEY=… tests/e2e/bucket.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

step "A URL for a packed CSV file"
is status "$(status upload.json --json '{"format": "csv", "compression": "gzip"}' "$API/uploads")" 201
SOURCE=$(json upload.json source)
has source upload.json .csv.gz

step "Import it before it is there"
printf '{"resource": "users", "source": "%s"}' "$SOURCE" > request.json
is status "$(status problem.json --json @request.json "$API/imports")" 400
is field "$(json problem.json errors.0.field)" source

step "Upload the file without a key, and import it"
printf 'email,name,role,active\nbucket-%s@example.org,B,reader,true\n' "$RUN" | gzip > users.csv.gz
curl -sS --fail-with-body -T users.csv.gz "$(json upload.json url)"
keyed=(-H "Idempotency-Key: bucket-$RUN" --json @request.json "$API/imports")
is status "$(status job.json "${keyed[@]}")" 202
final job.json
is created "$(json job.json counts.created)" 1
is source "$(json job.json source.url)" "$SOURCE"
is bytes "$(json job.json source.bytes)" "$(wc -c < users.csv.gz | tr -d ' ')"

step "The same request again"
is status "$(status again.json "${keyed[@]}")" 200
is id "$(json again.json id)" "$(json job.json id)"

step "A digest that the object does not have, and a bucket that is not allowed"
SHA256=$(printf '%64s' '' | tr ' ' 0)
printf '{"resource": "users", "source": "%s", "source_sha256": "%s"}' "$SOURCE" "$SHA256" > request.json
is status "$(status problem.json --json @request.json "$API/imports")" 400
is type "$(json problem.json type)" /problems/digest-mismatch
is status "$(status problem.json --json '{"resource": "users", "source": "s3://elsewhere/users.csv"}' "$API/imports")" 403
is type "$(json problem.json type)" /problems/source-not-allowed

printf '\nbucket: all as expected\n'

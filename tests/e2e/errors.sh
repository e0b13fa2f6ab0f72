#!/usr/bin/env bash
# Errors of each kind: what a client is told, with which status and type. And the routes for operators.
# HOST=http://127.0.0.1:8080 API_KEY=… tests/e2e/errors.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# refused STATUS TYPE CURL-ARGUMENTS…
refused() {
    local expected=$1 type=$2
    shift 2
    is status "$(status problem.json "$@")" "$expected"
    is type "$(json problem.json type)" "/problems/$type"
    is content-type "$(header content-type)" application/problem+json
}
UNKNOWN=00000000-0000-4000-8000-000000000000
printf 'email,name,role,active\nx-%s@example.org,X,reader,true\n' "$RUN" > users.csv

step "A parameter that does not exist is named"
refused 400 invalid-request -F resource=users -F shoe=42 -F file=@users.csv "$API/imports"
is field "$(json problem.json errors.0.field)" shoe
step "An invalid value, and a column that the resource does not have"
refused 400 invalid-request -F resource=users -F mode=replace -F file=@users.csv "$API/imports"
is field "$(json problem.json errors.0.field)" mode
printf 'email,shoe\n' > shoe.csv
refused 400 invalid-request -F resource=users -F file=@shoe.csv "$API/imports"
step "JSON that is not closed"
refused 400 invalid-request -H 'Content-Type: application/json' --data-binary '[{"email": ' "$API/imports?resource=users"
step "A body that is not what its digest says"
refused 400 digest-mismatch -H 'Content-Type: text/csv' -H "Content-Digest: sha-256=:$(printf '%43s' '' | tr ' ' A)=:" \
    --data-binary @users.csv "$API/imports?resource=users"
step "No such route, no such job, no such method"
refused 404 not-found "$API/nothing"
refused 404 not-found "$API/imports/$UNKNOWN"
refused 405 method-not-allowed -X PUT "$API/imports"
step "A content type that is not known, and a format that cannot be had"
refused 415 unsupported-format -H 'Content-Type: image/png' --data-binary @users.csv "$API/imports?resource=users"
refused 406 not-acceptable -H 'Accept: image/png' "$API/exports/users/stream"
step "A filter with a value that no record can have"
refused 400 invalid-request "$API/exports/users/stream?role=editor"
if [ -n "${API_KEY:-}" ]; then
    step "A wrong key"
    is status "$(curl -sS -o problem.json -w '%{http_code}' -H 'X-API-Key: wrong' "$API/imports")" 401
    is type "$(json problem.json type)" /problems/unauthorized
fi

step "What operators ask: probes, metrics, the description of the API"
is live "$(status live.json "$HOST/live")" 200
is ready "$(status ready.json "$HOST/ready")" 200
is health "$(status health.json "$HOST/health")" 200
is metrics "$(status metrics "$HOST/metrics")" 200
is openapi "$(status openapi.json "$HOST/schema/openapi.json")" 200
has version openapi.json '"openapi":"3.1'

printf '\nerrors: all as expected\n'

#!/usr/bin/env bash
# Exports: streams with filters and formats; an export written in the background, downloaded whole and in part; cancel, delete.
# HOST=http://127.0.0.1:8080 API_KEY=… tests/e2e/exports.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

step "Import three users to export"
printf 'email,name,role,active\n' > users.csv
for name in ada bea cy; do printf '%s-%s@example.org,%s,reader,true\n' "$name" "$RUN" "$name" >> users.csv; done
is status "$(status job.json -H 'Prefer: wait=30' -F resource=users -F file=@users.csv "$API/imports")" 200
is created "$(json job.json counts.created)" 3

step "Stream one of them, in each format"
one="email=bea-$RUN@example.org&fields=email,name"
is status "$(status stream.csv "$API/exports/users/stream?format=csv&$one")" 200
is "content-type" "$(header content-type)" "text/csv; charset=utf-8"
is csv "$(cat stream.csv)" "email,name
bea-$RUN@example.org,bea"
is status "$(status stream.ndjson -H 'Accept: application/x-ndjson' "$API/exports/users/stream?$one")" 200
is ndjson "$(json stream.ndjson name)" bea
is status "$(status stream.json -H 'Accept: application/json' "$API/exports/users/stream?$one")" 200
is json "$(json stream.json 0.name)" bea

step "Stream compressed: curl unpacks what it has asked for"
is status "$(status packed.csv --compressed "$API/exports/users/stream?format=csv&limit=2&fields=id")" 200
is lines "$(wc -l < packed.csv | tr -d ' ')" 3

step "Only what has changed since an export"
is status "$(status first.ndjson "$API/exports/users/stream?limit=1")" 200
MARK=$(header x-watermark)
printf 'email,name,role,active\nbea-%s@example.org,Beatrice,reader,true\n' "$RUN" > changed.csv
is status "$(status job.json -H 'Prefer: wait=30' -F resource=users -F mode=upsert -F file=@changed.csv "$API/imports")" 200
is status "$(status changed.ndjson "$API/exports/users/stream?changed_since=$MARK&$one")" 200
is changed "$(json changed.ndjson name)" Beatrice

step "What is exported imports again unchanged"
call "$API/exports/users/stream?format=csv&email=ada-$RUN@example.org,cy-$RUN@example.org" > again.csv
is status "$(status again.json -H 'Prefer: wait=30' -F resource=users -F mode=upsert -F file=@again.csv "$API/imports")" 200
is unchanged "$(json again.json counts.unchanged)" 2

step "Write an export in the background"
cat > request.json <<END
{"resource": "users", "format": "csv", "fields": ["email", "name"],
 "filters": {"email": ["ada-$RUN@example.org", "bea-$RUN@example.org", "cy-$RUN@example.org"]}}
END
is status "$(status export.json -H "Idempotency-Key: export-$RUN" --json @request.json "$API/exports")" 202
is location "$(header location)" "$(json export.json links.self)"
final export.json
is status "$(json export.json status)" completed
is records "$(json export.json file.records)" 3
EXPORT=$HOST$(json export.json links.self)

step "The same key again: the same export"
is status "$(status replayed.json -H "Idempotency-Key: export-$RUN" --json @request.json "$API/exports")" 200
is id "$(json replayed.json id)" "$(json export.json id)"

step "Download it: whole, then from a byte on"
is status "$(status file.csv -L "$EXPORT/download")" 200
is sha256 "$(python3 -c 'import hashlib; print(hashlib.sha256(open("file.csv", "rb").read()).hexdigest())')" "$(json export.json file.sha256)"
is status "$(status rest -L -r 6- "$EXPORT/download")" 206
is rest "$(cat rest)" "$(tail -c +7 file.csv)"
is "status, behind the end" "$(status range.json -L -r 1000000- "$EXPORT/download")" 416

step "Its events, the list, cancel of what is final, delete"
call -N "$EXPORT/events" > events
has event events "event: done"
is status "$(status list.json "$API/exports?status=completed&limit=1")" 200
is status "$(status cancelled.json -X POST "$EXPORT/cancel")" 409
is type "$(json cancelled.json type)" /problems/already-final
is status "$(status deleted -X DELETE "$EXPORT")" 204
is status "$(status gone.json "$EXPORT")" 404

printf '\nexports: all as expected\n'

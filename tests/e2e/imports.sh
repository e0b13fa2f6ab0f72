#!/usr/bin/env bash
# Imports: a file with faults, its errors, the mended file, retry, dry run and commit, the modes, cancel, replay, delete.
# HOST=http://127.0.0.1:8080 API_KEY=… tests/e2e/imports.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

step "Post a CSV file with faults: 202, then wait for the end of the job"
cat > users.csv <<END
email,name,role,active
grace-$RUN@example.org,Grace Hopper,author,true
linus-$RUN,Linus,boss,maybe
GRACE-$RUN@example.org,Grace again,reader,true
"alan-$RUN@example.org","Alan ""the"" Turing",reader,false
END
is status "$(status job.json -F resource=users -F file=@users.csv "$API/imports")" 202
is location "$(header location)" "$(json job.json links.self)"
final job.json
is status "$(json job.json status)" completed
is outcome "$(json job.json outcome)" partial
is created "$(json job.json counts.created)" 2
is failed "$(json job.json counts.failed)" 2
JOB=$HOST$(json job.json links.self)

step "An unchanged job is not sent again"
is status "$(status same.json "$JOB")" 200
is status "$(status same.json -H "If-None-Match: $(header etag)" "$JOB")" 304

step "Its errors, as JSON and as a file"
is status "$(status errors.json "$JOB/errors?code=duplicate_in_file")" 200
is total "$(json errors.json total)" 1
is line "$(json errors.json errors.0.line)" 4
is duplicate_of_line "$(json errors.json errors.0.duplicate_of_line)" 2
is status "$(status errors.csv "$JOB/errors?format=csv")" 200
has code errors.csv invalid_enum

step "Follow a job by server-sent events: of a final one there is the end alone"
call -N "$JOB/events" > events
has event events "event: done"

step "Download the refused records, mend them, and post them again"
is status "$(status refused.csv "$JOB/failed-records?annotate=true")" 200
is refused "$(wc -l < refused.csv | tr -d ' ')" 3
sed -e "s/linus-$RUN,Linus,boss,maybe/linus-$RUN@example.org,Linus,reader,true/" \
    -e "s/GRACE-$RUN@/grace-murray-$RUN@/" refused.csv > mended.csv
is status "$(status mended.json -H 'Prefer: wait=30' -F resource=users -F file=@mended.csv "$API/imports")" 200
is outcome "$(json mended.json outcome)" success
is created "$(json mended.json counts.created)" 2

step "Retry: articles whose author is imported only afterwards"
AUTHOR=$(python3 -c 'import uuid; print(uuid.uuid4())')
printf '{"slug":"first-%s","title":"First","body":"text","author_id":"%s","status":"draft"}\n' "$RUN" "$AUTHOR" > articles.ndjson
post_articles=(-H 'Content-Type: application/x-ndjson' --data-binary @articles.ndjson)
is status "$(status articles.json -H 'Prefer: wait=30' "${post_articles[@]}" "$API/imports?resource=articles")" 200
is code "$(json articles.json errors.0.code)" foreign_key_not_found
cat > author.json <<END
{"resource": "users", "records": [
  {"id": "$AUTHOR", "email": "author-$RUN@example.org", "name": "An Author", "role": "author", "active": true}
]}
END
is status "$(status posted.json -H 'Prefer: wait=30' --json @author.json "$API/imports")" 200
is status "$(status retried.json -X POST "$HOST$(json articles.json links.self)/retry")" 202
final retried.json
is outcome "$(json retried.json outcome)" success
is parent_id "$(json retried.json parent_id)" "$(json articles.json id)"
is "status, asked again" "$(status again.json -X POST "$HOST$(json articles.json links.self)/retry")" 200

step "A comment, packed with gzip, in a JSON array"
call "$API/exports/articles/stream?slug=first-$RUN&fields=id" > article.json
printf '[{"article_id":"%s","user_id":"%s","body":"Well said."}]' "$(json article.json id)" "$AUTHOR" | gzip > comments.json.gz
is status "$(status comment.json -H 'Prefer: wait=30' -F resource=comments -F file=@comments.json.gz "$API/imports")" 200
is created "$(json comment.json counts.created)" 1

step "Dry run, then commit of the same file without a second upload"
printf 'email,name,role,active\ndry-%s@example.org,Dry,reader,true\n' "$RUN" > dry.csv
is status "$(status dry.json -H 'Prefer: wait=30' -F resource=users -F dry_run=true -F file=@dry.csv "$API/imports")" 200
is created "$(json dry.json counts.created)" 1
call "$API/exports/users/stream?email=dry-$RUN@example.org" > stored
is "rows stored" "$(wc -l < stored | tr -d ' ')" 0
is status "$(status committed.json -X POST "$HOST$(json dry.json links.self)/commit")" 202
final committed.json
is created "$(json committed.json counts.created)" 1

step "Upsert: what is equal stays, what differs is updated"
printf 'email,name,role,active\ndry-%s@example.org,Dry,reader,true\ngrace-%s@example.org,Grace B. Hopper,admin,true\n' "$RUN" "$RUN" > upsert.csv
is status "$(status upsert.json -H 'Prefer: wait=30' -F resource=users -F mode=upsert -F file=@upsert.csv "$API/imports")" 200
is unchanged "$(json upsert.json counts.unchanged)" 1
is updated "$(json upsert.json counts.updated)" 1

step "What was done with each record, and what a later import has overwritten"
is status "$(status results.csv "$HOST$(json upsert.json links.self)/results?format=csv")" 200
is outcomes "$(cut -d, -f1,2,4 results.csv | tr '\n' ' ')" "line,record,outcome 2,1,unchanged 3,2,updated "
is status "$(status results.ndjson "$JOB/results")" 200
is "unknown" "$(grep -c unknown results.ndjson)" 1
is "status, dry run" "$(status problem.json "$HOST$(json dry.json links.self)/results")" 409
is type "$(json problem.json type)" /problems/dry-run

step "The same Idempotency-Key: one job, and the same response as often as it is asked for"
keyed=(-H "Idempotency-Key: e2e-$RUN" -F resource=users -F mode=skip -F file=@upsert.csv)
is status "$(status first.json "${keyed[@]}" "$API/imports")" 202
is status "$(status second.json "${keyed[@]}" "$API/imports")" 200
is idempotent-replayed "$(header idempotent-replayed)" true
is id "$(json second.json id)" "$(json first.json id)"
is "status, another file" "$(status other.json -H "Idempotency-Key: e2e-$RUN" -F resource=users -F mode=skip -F file=@dry.csv "$API/imports")" 422
is type "$(json other.json type)" /problems/idempotency-key-reused

step "Cancel an import that waits for another one, and download what was not processed"
python3 - > many.csv <<END
print("email,name,role,active")
for n in range(200_000):
    print(f"many-{n}-$RUN@example.org,Many,reader,true")
END
is status "$(status large.json -F resource=users -F dry_run=true -F file=@many.csv "$API/imports")" 202
is status "$(status waiting.json -F resource=users -F after="$(json large.json id)" -F file=@dry.csv "$API/imports")" 202
is status "$(status cancelled.json -X POST "$HOST$(json waiting.json links.self)/cancel")" 202
final cancelled.json
is status "$(json cancelled.json status)" cancelled
is status "$(status unprocessed.csv "$HOST$(json cancelled.json links.self)/unprocessed-records")" 200
is unprocessed "$(cat unprocessed.csv)" "$(cat dry.csv)"
status large.json -X POST "$HOST$(json large.json links.self)/cancel" > /dev/null
final large.json

step "Undo an import: the row that an article refers to is kept, and named"
OWNER=$(python3 -c 'import uuid; print(uuid.uuid4())')
printf 'id,email,name,role,active\n%s,owner-%s@example.org,Owner,author,true\n,undo-%s@example.org,Undo,reader,true\n' "$OWNER" "$RUN" "$RUN" > undo.csv
is status "$(status undoable.json -H 'Prefer: wait=30' -F resource=users -F undoable=true -F file=@undo.csv "$API/imports")" 200
printf '{"slug":"undo-%s","title":"Undo","body":"text","author_id":"%s","status":"draft"}\n' "$RUN" "$OWNER" > articles.ndjson
is status "$(status posted.json -H 'Prefer: wait=30' "${post_articles[@]}" "$API/imports?resource=articles")" 200
UNDOABLE=$HOST$(json undoable.json links.self)
is status "$(status undone.json -X POST "$UNDOABLE/undo")" 200
is removed "$(json undone.json undo.removed)" 1
is referred_to "$(json undone.json undo.kept.referred_to)" 1
is status "$(status kept.csv "$UNDOABLE/kept-records?format=csv")" 200
is kept "$(tr '\n' ' ' < kept.csv)" "line,record,id,reason 2,1,$OWNER,referred_to "
is "status, not undoable" "$(status problem.json -X POST "$JOB/undo")" 409
is type "$(json problem.json type)" /problems/not-undoable

step "List imports, then delete one"
is status "$(status list.json "$API/imports?resource=users&limit=1")" 200
is kind "$(json list.json imports.0.kind)" import
is status "$(status deleted -X DELETE "$HOST$(json cancelled.json links.self)")" 204
is status "$(status gone.json "$HOST$(json cancelled.json links.self)")" 404

printf '\nimports: all as expected\n'

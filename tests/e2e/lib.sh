# Read by the scripts beside it: `call` is curl with the API key, `json` reads a member of a file, `is` and `has` are the checks.
# HOST and API_KEY say which service. Records of each run have names of their own, so any service will do, also one with data.
set -euo pipefail

: "${HOST:=http://127.0.0.1:8080}"
API=$HOST/api/v1
RUN=$(date +%s)-$$

FOLDER=$(mktemp -d)
trap 'rm -rf "$FOLDER"' EXIT
cd "$FOLDER"

# in a file, because command lines can be read by every user of the machine
: > curlrc
chmod 600 curlrc
[ -z "${API_KEY:-}" ] || printf 'header = "Authorization: Bearer %s"\n' "$API_KEY" > curlrc

call() { curl -sS --max-time 120 -K curlrc "$@"; }

# status FILE CURL-ARGUMENTS…: the status of the response, whose body goes to FILE and whose headers go to `headers`
status() { local file=$1; shift; call -o "$file" -D headers -w '%{http_code}' "$@"; }

# header NAME: a header of the last response
header() { sed -n "s/^$1: //Ip" headers | tr -d '\r'; }

# json FILE a.b.0: a member of a JSON file; true, false and null as in JSON
json() {
    python3 -c '
import json, sys
value = json.load(open(sys.argv[1]))
for name in sys.argv[2].split("."):
    value = value[int(name)] if name.isdigit() else value[name]
print(value if isinstance(value, str) else json.dumps(value))' "$1" "$2"
}

step() { printf '\n%s\n' "$*"; }
fail() { printf '  FAILED %s\n' "$*" >&2; exit 1; }
is() { [ "$2" = "$3" ] || fail "$1: $2, expected $3"; printf '  %s: %s\n' "$1" "$2"; }
has() { grep -qF -- "$3" "$2" || fail "$1: \"$3\" is not in $2: $(head -c 500 "$2")"; printf '  %s: %s\n' "$1" "$3"; }

# final JOB.json: waits until the job is final; its state is then in JOB.json
final() {
    local self
    self=$(json "$1" links.self)
    for _ in $(seq 120); do
        is_final=$(call -o "$1" -w '%header{retry-after}' "$HOST$self")
        [ -n "$is_final" ] || return 0
        sleep 0.5
    done
    fail "$self is not final after a minute"
}

#!/bin/sh
# Sends every tunnel's decrypted requests to one logging server: a complete, scripted deployment.
#
#   sh examples/redirect.sh
#
# Starts a small HTTP server that logs its requests (standard library only), and certifier with --redirect to it and a
# throwaway CA, and runs curl through certifier: for a host that need not exist, since nobody dials it.
# Everything lives in a temporary directory, and is gone when the script ends.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${PYTHON:-}" ]; then
  PYTHON=$here/.venv/bin/python # what make run and make test set up
  [ -x "$PYTHON" ] || PYTHON=python3
fi
work=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null || true; wait; rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM # dash runs the line above only at an exit of its own
unset no_proxy NO_PROXY # or curl might not use the proxy
cd "$work"

# Waits until a line of the file matches the expression, and prints what its parentheses capture.
await() {
  tries=100
  while ! grep -q "$2" "$1" 2>/dev/null; do
    tries=$((tries - 1))
    if [ "$tries" -eq 0 ]; then echo "nothing like '$2' in $1:" >&2; cat "$1" >&2; exit 1; fi
    sleep 0.1
  done
  sed -n "s/.*$2.*/\1/p" "$1" | head -n 1
}

"$PYTHON" "$here/examples/logging_server.py" >server.log 2>&1 &
pids="$pids $!"
server=$(await server.log 'logging on \(.*\)')

"$PYTHON" "$here/certifier.py" --store=certs --max=100 --ca=ca --listen=127.0.0.1:0 --redirect="$server" 2>certifier.log &
pids="$pids $!"
proxy=$(await certifier.log 'listening on \(.*\)')

echo '$ curl -x http://PROXY --cacert ca/ca.crt -d secret=42 https://api.example.com/v1/orders'
curl -sS -x "http://$proxy" --cacert ca/ca.crt -d secret=42 https://api.example.com/v1/orders

echo
echo 'What the logging server saw, decrypted:'
await server.log '\(secret=42\)' >/dev/null
cat server.log
grep -q 'POST /v1/orders' server.log && grep -q 'Host: api.example.com' server.log

echo
echo "What certifier logged:"
await certifier.log '\(tunnel .*sni=api.example.com .*\)'

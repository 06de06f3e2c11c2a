#!/bin/sh
# Builds the image from the Dockerfile and really runs it: a request through the container, its health check, its
# stop, and a second container on the same volume. For Debian and its derivatives, as root, without a container
# engine: buildah builds and runs in a chroot, on a base made by debootstrap. Everything is in one temporary directory,
# and containers and origin run in a network namespace of their own, where port 8080 is free and nothing gets out.
set -eu
umask 022 # the base tree must be readable for those who are not root

SUITE=bookworm
PORT=8080 # the image's own, as its health check asks there
ORIGIN_PORT=8443
BODY="hello from the origin"

here=$(cd "$(dirname "$0")/.." && pwd)
log= # the file that tells most should the present step fail
jobs= # what runs beside us, and the container that does
job=

ok() { echo "ok: $*"; }

fail() {
    echo "image-test: FAILED: $*" >&2
    exit 1
}

descendants() { # of a process we started, itself last
    for child in $(pgrep -P "$1"); do
        descendants "$child"
    done
    echo "$1"
}

clean_up() {
    status=$?
    trap - EXIT INT TERM HUP
    set +e
    if [ "$status" -ne 0 ] && [ -n "$log" ] && [ -e "$log" ]; then
        echo "--- $(basename "$log")" >&2
        tail -n 200 "$log" >&2
    fi
    for running in $jobs $job; do
        for process in $(descendants "$running"); do
            kill -KILL "$process" 2>/dev/null
        done
    done
    wait
    # If debootstrap is killed half-way, it leaves /proc and /sys mounted in its tree.
    awk -v top="$tmp/" 'index($2, top) == 1 { print $2 }' /proc/mounts | sort -r | while read -r place; do
        umount -l "$place"
    done
    rm -rf --one-file-system "$tmp"
    exit "$status"
}

# Requirements

[ "$(id -u)" -eq 0 ] || fail "needs root: debootstrap, chroot and a network namespace do"
missing=
for need in buildah debootstrap curl openssl ip:iproute2 pgrep:procps python3; do
    command -v "${need%:*}" >/dev/null || missing="$missing ${need#*:}"
done
if [ -n "$missing" ]; then
    command -v apt-get >/dev/null || fail "missing, and no apt-get to install them:$missing"
    # shellcheck disable=SC2086 # one word per package
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } \
        >&2 || fail "missing, and apt-get can't install them:$missing"
fi

tmp=$(mktemp -d)
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir "$tmp/tmp"
printf '[storage]\ndriver = "vfs"\ngraphroot = "%s"\nrunroot = "%s"\n' "$tmp/storage" "$tmp/run" >"$tmp/storage.conf"
export TMPDIR="$tmp/tmp" CONTAINERS_STORAGE_CONF="$tmp/storage.conf" STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
# All images here are our own; without a containers configuration, the machine has no policy that accepts them.
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$tmp/policy.json"

build() { buildah bud --signature-policy "$tmp/policy.json" --format docker "$@" >>"$log" 2>&1; }

# The base

log=$tmp/debootstrap.log
# shellcheck disable=SC2016 # the $(...) are apt's
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $SUITE" 'Component: main' \
    2>/dev/null | grep -E -m 1 '^(https?|file):' || true)
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$SUITE" "$tmp/base" \
    ${mirror:+"$mirror"} >"$log" 2>&1 || fail "debootstrap $SUITE"
log=$tmp/build.log
printf 'FROM scratch\nADD . /\n' >"$tmp/base.Dockerfile"
build --tag localhost/base --file "$tmp/base.Dockerfile" "$tmp/base" || fail "the base image can't be built"
rm -rf --one-file-system "$tmp/base"
ok "a base image of Debian $SUITE with python3, python3-venv and ca-certificates"

# The image. pip in the build uses the package sources of this machine's pip (its configuration files and PIP_*).

python3 - "$tmp/pip.conf" >"$tmp/mounts" <<'PYTHON'
import ast
import configparser
import os
import subprocess
import sys
from urllib.parse import unquote

SOURCES = """cert client-cert constraint default-timeout extra-index-url find-links index-url no-index proxy retries
    timeout trusted-host""".split()

listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], stdout=subprocess.PIPE, text=True)
found = {}
for line in listed.stdout.splitlines():
    key, _, value = line.partition("=")
    section, _, name = key.partition(".")
    if name in SOURCES:
        found[section, name] = ast.literal_eval(value)
environment = {name: value for (section, name), value in found.items() if section == ":env:"}
config = configparser.RawConfigParser()
for (section, name), value in found.items():
    if section != ":env:" and name not in environment:
        config.read_dict({section: {name: value}})
config.read_dict({"global": environment})
with open(sys.argv[1], "w") as file:
    config.write(file)

mounts = set()
for section in config.sections():
    for value in config[section].values():
        for word in value.split():
            path = unquote(word.removeprefix("file://")).rstrip("/")
            if os.path.isabs(path) and os.path.exists(path):
                # The files of an index in a directory are usually next to it.
                beside = os.path.dirname(path) if word.startswith("file://") else "/"
                mounts.add(path if beside == "/" else beside)
if found:
    print(f"{sys.argv[1]}:/etc/pip.conf:ro")
for path in sorted(mounts):
    print(f"{path}:{path}:ro")
PYTHON
set --
while read -r mount; do
    set -- "$@" --volume "$mount"
done <"$tmp/mounts"
build --build-arg BASE=localhost/base "$@" --tag localhost/certifier --file "$here/Dockerfile" "$here" ||
    fail "the image can't be built"
ok "the image is built by the Dockerfile on that base"

# The image's metadata; lists have one word per line.

config() { buildah inspect --type image --format "$1" localhost/certifier; }

config '{{range .Docker.Config.Entrypoint}}{{println .}}{{end}}{{range .Docker.Config.Cmd}}{{println .}}{{end}}' |
    sed '/^$/d' >"$tmp/command"
config '{{range .Docker.Config.Healthcheck.Test}}{{println .}}{{end}}' | sed '/^$/d' >"$tmp/health"
# shellcheck disable=SC2016 # the $... are the template's
volume=$(config '{{range $path, $_ := .Docker.Config.Volumes}}{{$path}}{{end}}')
stop_signal=$(config '{{.Docker.Config.StopSignal}}')
program=$(head -n 1 "$tmp/command")
kind=$(head -n 1 "$tmp/health")
sed -i 1d "$tmp/health"
case $kind in
CMD) ;;
CMD-SHELL) sed -i '1i /bin/sh\n-c' "$tmp/health" ;;
*) fail "the image has no HEALTHCHECK" ;;
esac
[ -n "$volume" ] || fail "the image has no VOLUME"

first=$(buildah from --signature-policy "$tmp/policy.json" --pull-never localhost/certifier)
second=$(buildah from --signature-policy "$tmp/policy.json" --pull-never localhost/certifier)
tree=$(buildah mount "$first")
(cd "$here" && ls -- *.py page/* requirements.txt) | sort >"$tmp/ours"
(cd "$tree/opt/certifier" && find . -type f ! -path './__pycache__/*' | sed 's|^\./||') | sort >"$tmp/theirs"
log=$tmp/theirs
cmp -s "$tmp/ours" "$tmp/theirs" || fail "/opt/certifier does not hold just the program"
(cd "$tree/opt/certifier/__pycache__" && ls) | sed 's|\..*|.py|' | sort >"$tmp/compiled"
grep '\.py$' "$tmp/ours" | cmp -s - "$tmp/compiled" || fail "the program is not compiled"
ok "the program is in it, compiled, and nothing else of the repository"

# As with an engine, a new volume begins as a copy of the image's directory, with its owner and mode.
cp -a "$tree$volume" "$tmp/volume"
buildah umount "$first" >/dev/null

# The network, and an origin in it whose certificate only its own CA vouches for

log=$tmp/origin.log
unshare --net sleep 3600 &
network=$!
jobs="$jobs $network"
outside=$(readlink /proc/self/ns/net)
tries=50
until inside=$(readlink "/proc/$network/ns/net") && [ "$inside" != "$outside" ]; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || fail "no network namespace"
    sleep 0.1
done
set -- nsenter "--net=/proc/$network/ns/net"
enter="$*" # no blanks within a word
$enter ip link set lo up

mkdir "$tmp/origin"
echo "$BODY" >"$tmp/origin/hello.txt"
for name in ca leaf; do
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj "/CN=image-test $name" \
        -keyout "$tmp/origin/$name.key" -out "$tmp/origin/$name.csr" 2>>"$log"
done
echo "basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign
subjectKeyIdentifier=hash" >"$tmp/origin/ca.ext"
echo "subjectAltName=DNS:localhost
extendedKeyUsage=serverAuth
authorityKeyIdentifier=keyid" >"$tmp/origin/leaf.ext"
(
    cd "$tmp/origin"
    openssl x509 -req -in ca.csr -signkey ca.key -extfile ca.ext -days 2 -out ca.crt
    openssl x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile leaf.ext -days 2 -out leaf.crt
) 2>>"$log"
chmod 0644 "$tmp/origin/ca.crt"
(
    cd "$tmp/origin"
    exec $enter openssl s_server -accept "127.0.0.1:$ORIGIN_PORT" -cert leaf.crt -key leaf.key -WWW
) >>"$log" 2>&1 &
jobs="$jobs $!"

# The container

in_container() { # container, file with the words of a command, one per line; replaces the shell
    container=$1 words=$2
    set --
    while read -r word; do
        set -- "$@" "$word"
    done <"$words"
    exec $enter buildah run --volume "$tmp/volume:$volume" \
        --volume "$tmp/origin/ca.crt:/run/origin-ca.crt:ro" "$container" -- "$@"
}

echo "--upstream-ca=/run/origin-ca.crt" | cat "$tmp/command" - >"$tmp/start"

start() { # container, name of its log; returns once it listens, $process being the program in it
    log=$tmp/$2.log
    in_container "$1" "$tmp/start" >"$log" 2>&1 &
    job=$!
    tries=300
    until grep -q "^listening on 0.0.0.0:$PORT\$" "$log"; do
        kill -0 "$job" 2>/dev/null || fail "the container ended before it listened"
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "the container does not listen after 30 s"
        sleep 0.1
    done
    process=
    for candidate in $(descendants "$job"); do
        case $(tr '\0' '\n' <"/proc/$candidate/cmdline" | head -n 1) in
        "$program") process=$candidate ;;
        esac
    done
    [ -n "$process" ] || fail "$program is not among the container's processes"
}

stop() { # the container that was started last; leaves its exit status in $ended
    kill -s "${stop_signal#SIG}" "$process"
    ended=0
    wait "$job" || ended=$?
    job=
}

fetch_ca() { $enter curl -q -sS --fail --max-time 20 --noproxy '*' "http://127.0.0.1:$PORT/ca.crt" -o "$1"; }

through() { # what a client gets that trusts nothing but the CA in that file
    $enter curl -q -sS --fail --max-time 20 --noproxy '' -x "http://127.0.0.1:$PORT" --cacert "$1" \
        "https://localhost:$ORIGIN_PORT/hello.txt"
}

serial() { # of the certificate a client sees for the origin
    $enter openssl s_client -proxy "127.0.0.1:$PORT" -connect "localhost:$ORIGIN_PORT" -servername localhost \
        </dev/null 2>/dev/null | openssl x509 -noout -serial
}

start "$first" first-container
ok "the container listens, started by the image's ENTRYPOINT and CMD"

uids=$(awk '$1 == "Uid:" { print $2, $3, $4, $5 }' "/proc/$process/status")
for uid in $uids; do
    [ "$uid" -ne 0 ] || fail "the program runs as root (uids $uids)"
done
ok "it runs as uid ${uids%% *}, not as root"

(in_container "$first" "$tmp/health") >"$tmp/health.log" 2>&1 || {
    cat "$tmp/health.log" >&2
    fail "the health check fails although the proxy runs"
}
ok "the image's health check passes"

fetch_ca "$tmp/first.crt" || fail "/ca.crt can't be fetched"
openssl x509 -in "$tmp/first.crt" -noout || fail "/ca.crt is not a certificate"
ok "/ca.crt is its CA certificate"

$enter curl -q -sS --fail --max-time 20 --noproxy '*' -H 'Accept: text/html' "http://127.0.0.1:$PORT/" \
    "http://127.0.0.1:$PORT/page.js" >"$tmp/page" || fail "the page can't be fetched"
grep -q "<title>certifier</title>" "$tmp/page" || fail "/ is not the page"
ok "its page is there"

got=$(through "$tmp/first.crt") || fail "the request through the container"
[ "$got" = "$BODY" ] || fail "the body is: $got"
first_serial=$(serial) || fail "the leaf's serial number can't be read"
ok "an https request through it brings the origin's body, under a certificate of that CA ($first_serial)"

stop
[ "$ended" -eq 0 ] || fail "exit status $ended after $stop_signal"
ok "$stop_signal ends it with exit status 0"

if (in_container "$first" "$tmp/health") >"$tmp/health.log" 2>&1; then
    fail "the health check passes although the proxy is stopped"
fi
grep -q ConnectionRefusedError "$tmp/health.log" || {
    cat "$tmp/health.log" >&2
    fail "the health check fails, but not because nobody listens"
}
ok "the image's health check fails now that it is stopped"

start "$second" second-container
fetch_ca "$tmp/second.crt" || fail "/ca.crt can't be fetched from the second container"
cmp -s "$tmp/first.crt" "$tmp/second.crt" || fail "the second container has another CA"
ok "a second container on the same volume has the same CA certificate"

got=$(through "$tmp/first.crt") || fail "the request through the second container"
[ "$got" = "$BODY" ] || fail "the second container's body is: $got"
second_serial=$(serial) || fail "the leaf's serial number can't be read"
[ "$first_serial" = "$second_serial" ] || fail "the second container's leaf is another: $second_serial"
ok "and the same leaf ($second_serial)"

stop
[ "$ended" -eq 0 ] || fail "exit status $ended after $stop_signal, second container"
ok "$stop_signal ends it with exit status 0 too"

echo "image-test: all passed"

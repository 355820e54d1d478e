#!/usr/bin/env bash
# Whether docker-compose.yml does what it promises, tried for real: builds the images, starts everything, sends a
# teacher and a student through, kills the worker in the middle of one job and takes all down in the middle of the
# other, cuts the power, and compares every job, event, key and file (by SHA-256) before and after.
#
#   docker/verify.sh          as root on Debian 12, or anywhere with a running Docker and `docker compose`
#
# Without Docker it brings one of its own, from Debian's packages, into GKD_VERIFY_DIR (/var/tmp/gkd-verify). Where no
# image registry is reached, stand-ins for the base images are made of Debian. It ends with what it has not shown.
# Needs 15 GB of disk. GKD_VERIFY_KEEP=1 leaves images and folder, for a quicker second time.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
work=${GKD_VERIFY_DIR:-/var/tmp/gkd-verify}
port=${GKD_VERIFY_PORT:-18473}
bases=(python:3.11-slim-bookworm postgres:16-alpine redis:7-alpine)
compose=(docker compose -p gkd-verify --project-directory "$root" --profile cpu --env-file "$work/env"
    -f "$root/docker-compose.yml" -f "$here/verify/compose.yml")
own_docker=
stand_ins=()

main() {
    mkdir -p "$work"
    be_alone
    trap clean_up EXIT
    trap 'exit 130' INT TERM
    find_docker
    find_bases
    write_settings
    clear_away
    build
    start
    check_images
    check_containers
    check_doors
    check_jobs
    check_dead_workers_show
    check_nothing_is_lost
    say "all of it held"
    not_shown
}

# ---- after a run that was killed ---------------------------------------------------------------------------------

be_alone() {  # two runs would take each other's containers away
    command -v flock >/dev/null || return 0
    exec 9> "$work.lock"
    flock -n 9 || fail "another run is at work in $work"
}

clear_away() {  # its volumes hold a database with another password
    quietly clear "${compose[@]}" down --volumes --remove-orphans --timeout 5
    rm -rf "$work/drawn"
    mkdir -p "$work/drawn"
}

end_old_docker() {  # the one that it brought runs on, and holds its folders
    local old
    old=$(cat "$work/dockerd.pid" 2>/dev/null) || return 0
    if tr '\0' ' ' 2>/dev/null < "/proc/$old/cmdline" | grep -qF -- "--data-root $work/data "; then
        say "a run before this one was killed: ending its Docker"
        kill "$old" 2>/dev/null || true
        within 60 "Docker $old ends" docker_has_ended "$old"
    fi
    rm -f "$work/dockerd.pid"  # the number may be another process's by now, which Docker would take for its own
}

docker_has_ended() { [ ! -e "/proc/$1" ]; }

# ---- what it needs ---------------------------------------------------------------------------------------------

find_docker() {
    if docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then
        say "the Docker of this machine"
    else
        bring_docker
        compose+=(-f "$here/verify/bare.yml")
    fi
    command -v curl >/dev/null || fail "curl is missing: the API's port is asked with it"
    say "Docker $(docker version --format '{{.Server.Version}}'), compose $(docker compose version --short)"
}

bring_docker() {
    if [ "$(id -u)" -ne 0 ] || ! grep -q '^VERSION_CODENAME=bookworm' /etc/os-release; then
        fail "there is no running Docker with \`docker compose\`, and only as root on Debian 12 can this bring one"
    fi
    say "no Docker is running: one of Debian's packages, in $work"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # iptables: without a firewall of its own too, Docker sets rules inside each container, for its names
    apt-get install -y -qq --no-install-recommends ca-certificates curl debootstrap iptables runc tini > "$work/apt.log"
    # shellcheck source=docker/verify/debian.sh
    source "$here/verify/debian.sh"
    local packages=(docker.io docker-cli containerd docker-compose docker-buildx)
    [ -x "$work/debian/usr/sbin/dockerd" ] || fetch_from_trixie "$work/debian" "${packages[@]}"
    export PATH=$work/debian/usr/bin:$work/debian/usr/sbin:$PATH
    export DOCKER_HOST=unix://$work/docker.sock DOCKER_CONFIG=$work/config
    mkdir -p "$DOCKER_CONFIG/cli-plugins"
    ln -sf "$work"/debian/usr/libexec/docker/cli-plugins/* "$DOCKER_CONFIG/cli-plugins/"
    start_docker
}

start_docker() {
    end_old_docker
    setsid dockerd --host "$DOCKER_HOST" --data-root "$work/data" --exec-root "$work/exec" \
        --pidfile "$work/dockerd.pid" --init-path "$(command -v tini-static || command -v tini)" \
        --iptables=false --ip6tables=false --ip-forward=false --bridge=none \
        > "$work/dockerd.log" 2>&1 < /dev/null 9>&- &
    own_docker=$!
    within 60 "Docker answers (its log is $work/dockerd.log)" docker version
}

find_bases() {
    local image
    for image in "${bases[@]}"; do
        docker image inspect "$image" >/dev/null 2>&1 ||
            timeout 300 docker pull --quiet "$image" >/dev/null 2>&1 || make_base "$image"
        [ -z "$(docker image inspect --format '{{index .Config.Labels "gkd.stand-in"}}' "$image")" ] ||
            stand_ins+=("$image")
    done
}

make_base() {  # make_base IMAGE: from Debian, where no image registry answers
    local folder=$work/bases/${1%%:*}
    command -v debootstrap >/dev/null || fail "cannot pull $1, and without debootstrap nothing can stand in for it"
    make_debian
    mkdir -p "$work/bases"
    cp -r "$here/verify/bases/${1%%:*}" "$work/bases/"
    cp /etc/ssl/certs/ca-certificates.crt "$folder/"
    quietly "base-${1%%:*}" docker build --network host --tag "$1" "$folder"
    say "a stand-in for $1"
}

make_debian() {
    docker image inspect gkd-verify-debian:bookworm >/dev/null 2>&1 && return
    # shellcheck source=docker/verify/debian.sh
    source "$here/verify/debian.sh"
    quietly debootstrap debootstrap --variant=minbase --include=ca-certificates bookworm "$work/root" "$(debian_mirror)"
    rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
    tar -C "$work/root" -c . | docker import - gkd-verify-debian:bookworm >/dev/null
    rm -rf "$work/root"
}

write_settings() {
    export GKD_VERIFY_PIP_CONF=$work/pip.conf
    (umask 077 && pip_settings > "$GKD_VERIFY_PIP_CONF")
    cat > "$work/env" <<-END
		GKD_POSTGRES_PASSWORD=$(random)
		GKD_REDIS_PASSWORD=$(random)
		GKD_ADMIN_KEY=$(random)
		GKD_DATA=$work/drawn
		GKD_PORT=$port
	END
    mkdir -p "$work/drawn"
}

pip_settings() {  # where this machine's pip finds packages; folders are left out, builds would not see them
    echo "[global]"
    python3 -m pip config list 2>/dev/null |
        sed -nE "s/^(global|:env:)\.(index-url|extra-index-url|trusted-host)='(.*)'$/\2 = \3/p" |
        sed -E 's#file://[^ ]*##g' | awk 'NF > 2 && !seen[$1]++'
}

random() { od -An -tx1 -N24 /dev/urandom | tr -d ' \n'; }

# ---- building and starting -------------------------------------------------------------------------------------

build() {
    "${compose[@]}" config --quiet
    quietly build "${compose[@]}" --progress plain build
    say "built: $(sizes)"
    docker run --rm --network none --user "$(id -u):$(id -g)" --volume "$work/drawn:/drawn" gkd-verify-api python -c \
        "from pathlib import Path; from gkd_core.data.shapes import draw_shapes
draw_shapes(Path('/drawn/shapes'), train=64, val=16, size=64, seed=1)"
}

sizes() {
    docker image inspect --format '{{index .RepoTags 0}} {{.Size}}' gkd-verify-api gkd-verify-worker |
        awk '{printf "%s%s %.0f MB", (NR > 1 ? ", " : ""), $1, $2 / 1e6}'
}

start() {
    quietly up "${compose[@]}" up --detach --no-build --pull never --wait --wait-timeout 300
    say "up: every health check passes"
}

# ---- what is checked -------------------------------------------------------------------------------------------

check_images() {
    ! docker run --rm --network none gkd-verify-api python -c "import torch" 2>/dev/null || fail "torch is in the API's image"
    docker run --rm --network none gkd-verify-worker python -c "import torch, torchvision, timm, onnx, onnxruntime, s3fs"
    quietly compile docker run --rm --network none --read-only --tmpfs /tmp --tmpfs /var/lib/gkd:exec,uid=10001 \
        gkd-verify-worker python -c "import torch; torch.compile(lambda x: x.sin().sum())(torch.ones(8))"
    say "the API's image has no torch; the worker's has all that jobs can ask for, and compiles"
}

check_containers() {
    local service
    for service in postgres redis api worker-cpu; do
        inside "$service" sh -c '
            [ "$(id -u)" -ne 0 ] && [ "$(sed -n "s/^Uid:\t\([0-9]*\).*/\1/p" /proc/1/status)" -ne 0 ] &&
            ! (: > /usr/written) 2>/dev/null &&
            grep -q "^CapBnd:\s*0*$" /proc/1/status && grep -q "^NoNewPrivs:\s*1$" /proc/1/status
        ' || fail "$service runs as root, can write to its image, has capabilities, or may get new ones"
    done
    ! inside worker-cpu sh -c ': > /data/written' 2>/dev/null || fail "the worker can write to the data sets"
    local published
    published=$("${compose[@]}" ps --format '{{.Service}} {{.Ports}}' | grep -e '->' || true)
    [ "$published" = "api 127.0.0.1:$port->8000/tcp" ] || fail "published is: $published"
    say "nobody is root, roots are read-only, no capabilities, no new privileges; only the API's port is published"
}

check_doors() {
    [ "$(status /healthz)" = 200 ] || fail "the API does not answer on its port"
    [ "$(status /jobs)" = 401 ] || fail "the API lets in who has no key"
    inside redis env -u REDISCLI_AUTH redis-cli ping 2>&1 | grep -q NOAUTH || fail "Redis lets in who has no password"
    inside redis redis-cli config get appendonly | grep -q yes || fail "Redis keeps no append-only file"
    ! inside postgres env PGPASSWORD=wrong psql -h postgres -U gkd -c 'select 1' >/dev/null 2>&1 ||
        fail "PostgreSQL lets in who has a wrong password"
    say "without key or password nobody is let in"
}

status() { curl -sS --max-time 20 --output /dev/null --write-out '%{http_code}' "http://127.0.0.1:$port$1"; }

check_jobs() {
    local sent teacher student saved ended
    sent=$(probe send)
    teacher=$(field teacher <<< "$sent") student=$(field student <<< "$sent")
    say "sent: a teacher $teacher, and a student $student that waits for it"

    saved=$(probe until-saved "$teacher")
    say "kill -9 for the worker: $saved"
    stop_worker KILL
    ended=$(probe until-ended "$teacher")
    must_have_gone_on "$ended"
    [ "$(restarts)" -gt 0 ] || fail "the killed worker was not started again"
    say "it was started again, and the job went on: $ended"

    saved=$(probe until-saved "$student")
    say "down: $saved"
    quietly down "${compose[@]}" down
    start
    ended=$(probe until-ended "$student")
    must_have_gone_on "$ended"
    say "up again, and the job went on: $ended"
}

must_have_gone_on() {  # must_have_gone_on JOB: in a later attempt, from what was saved; the first word of a new run is step 8
    [ "$(field attempt <<< "$1")" -gt 1 ] && [ "$(field from_step <<< "$1")" -gt 8 ] || fail "it began anew: $1"
}

stop_worker() {  # stop_worker SIGNAL: to the worker itself, as a crash or a hang would; Docker starts it again
    inside worker-cpu sh -c "kill -$1 \$(cat /proc/1/task/1/children)"
}

restarts() { docker inspect --format '{{.RestartCount}}' "$("${compose[@]}" ps --all --quiet worker-cpu)"; }

check_dead_workers_show() {
    stop_worker STOP
    within 180 "the health check fails for a worker that hangs" worker_is unhealthy
    stop_worker CONT
    within 120 "and passes again once it goes on" worker_is healthy
    say "a worker that hangs is unhealthy, and healthy once it goes on"
}

worker_is() {
    [ "$(docker inspect --format '{{.State.Health.Status}}' "$("${compose[@]}" ps --all --quiet worker-cpu)")" = "$1" ]
}

check_nothing_is_lost() {
    probe inventory > "$work/before"
    quietly kill "${compose[@]}" kill
    start
    same_as_before "every container was killed at once"
    quietly down "${compose[@]}" down
    start
    same_as_before "all was taken down and up"
}

same_as_before() {
    probe inventory > "$work/after"
    cmp "$work/before" "$work/after" || fail "$work/before and $work/after differ"
    say "$1: the same jobs, events, keys and files ($(grep -oE '"[0-9a-f]{64}"' "$work/after" | sort -u | wc -l) hashes)"
}

# ---- what it does not show -------------------------------------------------------------------------------------

not_shown() {
    cat <<-END
		Not shown:
		- the gpu profile: device reservations, NVIDIA's container toolkit, CUDA, Triton, several GPUs. Jobs ran on a CPU.
		- other machines: a proxy with TLS, workers elsewhere, a folder or bucket that they share.
		- weeks of running: logs that rotate, volumes that fill, upgrades from an earlier release.
	END
    [ -z "$own_docker" ] || cat <<-END
		- Docker's own network rules: this Docker set no firewall rules on the machine and gave builds its network, so
		  that containers reach the internet by theirs, and that "inside" does not, was not seen.
	END
    [ ${#stand_ins[@]} -eq 0 ] || cat <<-END
		- the real base images: these were stand-ins made of Debian: ${stand_ins[*]}.
		  So: that these tags exist, Alpine's C library, the official entrypoints, the newest PostgreSQL 16, Redis 7 and
		  Python 3.11; sizes of images differ by those of the bases.
	END
}

# ---- small words -----------------------------------------------------------------------------------------------

say() { printf '[%4d s] %s\n' "$SECONDS" "$*"; }

fail() {
    say "FAILED: $*" >&2
    exit 1
}

quietly() {  # quietly NAME COMMAND...: its output goes to a log, the end of which is shown when it fails
    local log=$work/$1.log
    shift
    "$@" > "$log" 2>&1 || { tail -n 30 "$log" >&2; "${compose[@]}" logs --tail 20 >&2 || true; fail "$*"; }
}

within() {  # within SECONDS CLAIM COMMAND...: wait until it succeeds
    local until=$((SECONDS + $1)) claim=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $until ] || fail "not in time: $claim"
        sleep 0.5
    done
}

inside() { "${compose[@]}" exec -T "$@"; }

probe() { inside api python - "$@" < "$here/verify/probe.py"; }

field() { sed -E "s/.*\"$1\": \"?([^\",}]*).*/\1/"; }

clean_up() {
    local status=$?
    [ $status -eq 0 ] || "${compose[@]}" logs --no-color --tail 40 2>/dev/null || true
    "${compose[@]}" down --volumes --timeout 5 >/dev/null 2>&1 || true
    if [ -n "$own_docker" ]; then  # its images go with its folder
        kill "$own_docker"
        wait "$own_docker" || true
    elif [ -z "${GKD_VERIFY_KEEP:-}" ]; then
        docker image rm gkd-verify-api gkd-verify-worker gkd-verify-debian:bookworm "${stand_ins[@]}" >/dev/null 2>&1 || true
    fi
    [ -n "${GKD_VERIFY_KEEP:-}" ] || rm -rf "$work"
    say "cleaned up; exit code $status"
    exit $status
}

main

#!/usr/bin/env bash
# `make up`: the service in containers. The first time it writes .env, with passwords and a key drawn at random:
#
#   make up DATA=/srv/data        the folder of the data sets
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

main() {
    if ! docker compose version >/dev/null 2>&1; then
        stop "\`docker compose\` is not here. Install Docker with its compose plugin, or run the service without" \
            "containers: see \"Three ways to run it\" in README.md."
    fi
    [ -f .env ] || write_env "${1:-}"
    docker compose up --detach --build --wait
    tell
}

write_env() {
    local folder
    [ -n "$1" ] || stop "Name the folder of your data sets the first time: make up DATA=/srv/data"
    folder=$(cd "$1" 2>/dev/null && pwd) || stop "$1 is no folder that can be entered."
    (umask 077 && fill_in "$folder" < docker/example.env > .env.new)
    mv .env.new .env
    echo "wrote .env: the passwords, the key, and the folder $folder"
}

fill_in() {  # fill_in FOLDER: the example with its blanks filled
    local line
    tail -n +4 | while IFS= read -r line; do
        case $line in
            GKD_DATA=) echo "GKD_DATA='$1'" ;;
            COMPOSE_PROFILES=) echo "COMPOSE_PROFILES=$(profile)" ;;
            *=) echo "$line$(od -An -tx1 -N24 /dev/urandom | tr -d ' \n')" ;;
            *) echo "$line" ;;
        esac
    done
}

profile() { if nvidia-smi -L >/dev/null 2>&1; then echo gpu; else echo cpu; fi; }

tell() {
    local url
    url=http://$(docker compose port api 8000)
    echo "GKD answers at $url. Its key is GKD_ADMIN_KEY in .env:"
    echo "  export GKD_URL=$url GKD_API_KEY=\$(sed -n s/^GKD_ADMIN_KEY=//p .env)"
    echo "  gkd workers"
}

stop() {
    echo "make up: $*" >&2
    exit 1
}

main "$@"

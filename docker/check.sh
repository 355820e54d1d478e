#!/usr/bin/env bash
# Whether the files that make containers are well written: compose file and Dockerfiles, without Docker's daemon.
# COMPOSE names the command where it is not `docker compose`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=${1:-.venv/bin}  # where hadolint and check-jsonschema are
compose=${COMPOSE:-docker compose}

"$bin/check-jsonschema" --builtin-schema vendor.compose-spec docker-compose.yml
"$bin/hadolint" docker/*.Dockerfile docker/verify/bases/*/Dockerfile

if $compose version >/dev/null 2>&1; then
    GKD_POSTGRES_PASSWORD=p GKD_REDIS_PASSWORD=r GKD_ADMIN_KEY=k GKD_DATA=/data \
        $compose --env-file /dev/null --profile gpu --profile cpu config --quiet
    echo "$compose config: fine"
else
    echo "SKIPPED: \`docker compose config\`, since \`$compose\` is not here" >&2
fi

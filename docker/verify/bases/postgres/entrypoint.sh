#!/bin/sh
# What docker-compose.yml needs of the official image's entrypoint: the first start makes user and database.
set -eu

first_start() {
    printf '%s\n' "$POSTGRES_PASSWORD" > /tmp/password
    initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256
    rm /tmp/password
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    pg_ctl --options="-c listen_addresses=" --wait start
    createdb --username="$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl --mode=fast --wait stop
}

[ "$1" = postgres ] || exec "$@"
[ -s "$PGDATA/PG_VERSION" ] || first_start
exec postgres -c "listen_addresses=*"

#!/usr/bin/env bash
# Make what a deployment keeps secret, in a folder: deploy/secrets.sh FOLDER [DAYS]
#
#   ca.pem dask.pem dask-key.pem    an authority of its own, and the certificate that scheduler, workers and clients of
#                                   Dask show each other (valid for DAYS, 365 by default); the key of the authority is
#                                   not kept: new certificates come with a new authority
#   prefect-auth                    user:password of Prefect's server
#   postgres-password               of its database
#   s3-access-key s3-secret-key     of the object store
#   prefect-database-url            the database as Kubernetes' server takes it: put your own host in
#
# Nobody else may enter the folder; its files can be read, for a container that is given one runs as another user.
# What is there is kept: to make one anew, delete it first.
set -euo pipefail
umask 022

[ $# -ge 1 ] || { echo "usage: $0 FOLDER [DAYS]" >&2; exit 2; }
folder=$1
days=${2:-365}
[[ $days =~ ^[1-9][0-9]*$ ]] || { echo "secrets.sh: $days is no number of days: give one of 1 or more" >&2; exit 2; }
command -v openssl >/dev/null || { echo "secrets.sh: there is no openssl: install it" >&2; exit 2; }
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

password() { openssl rand -hex 24; }

keep() { # NAME VALUE
    [ -s "$1" ] || printf '%s' "$2" >"$1"
}

if ! [ -s ca.pem ] || ! [ -s dask.pem ] || ! [ -s dask-key.pem ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days "$days" -subj /CN=dgmm-dask-authority \
        -addext keyUsage=critical,keyCertSign -keyout "$work/ca-key.pem" -out "$work/ca.pem" 2>"$work/log" ||
        { cat "$work/log" >&2; exit 1; }
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=dgmm-dask \
        -keyout "$work/dask-key.pem" -out "$work/dask.csr" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
    printf 'extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=DNS:scheduler,DNS:localhost\n' >"$work/dask.ext"
    openssl x509 -req -in "$work/dask.csr" -CA "$work/ca.pem" -CAkey "$work/ca-key.pem" -CAcreateserial -days "$days" \
        -extfile "$work/dask.ext" -out "$work/dask.pem" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
    mv "$work/ca.pem" "$work/dask.pem" "$work/dask-key.pem" .
    chmod 644 dask-key.pem
fi
keep prefect-auth "dgmm:$(password)"
[ -s postgres-password ] || rm -f prefect-database-url # which holds it
keep postgres-password "$(password)"
keep s3-access-key "dgmm-$(openssl rand -hex 4)"
keep s3-secret-key "$(password)"
keep prefect-database-url "postgresql+asyncpg://prefect:$(cat postgres-password)@postgres:5432/prefect"
echo "$PWD: $(find . -maxdepth 1 -type f | wc -l) files; certificates until $(openssl x509 -in dask.pem -noout -enddate | cut -d= -f2)"

#!/usr/bin/env bash
# The tracking server: PostgreSQL behind it, artifacts in an S3-compatible store that it alone has the keys of, and a login.
#   POSTGRES_PASSWORD, MLFLOW_AUTH_ADMIN_PASSWORD, MLFLOW_FLASK_SERVER_SECRET_KEY, DMKD_ARTIFACTS (s3://bucket or a folder); optional:
#   POSTGRES_HOST (127.0.0.1), POSTGRES_PORT (5432), POSTGRES_USER, POSTGRES_DB (mlflow), MLFLOW_S3_ENDPOINT_URL, AWS_*,
#   DMKD_TRACKER_HOST (127.0.0.1), DMKD_TRACKER_PORT (5000), DMKD_TRACKER_NAMES (further names that clients may use)
# Passwords come by the environment; the database's address reaches MLflow by environment and by a file that only this user reads.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
for name in POSTGRES_PASSWORD MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY DMKD_ARTIFACTS; do
  [ -n "${!name:-}" ] || { echo "serve.sh: $name is not set" >&2; exit 2; }
done
host="${DMKD_TRACKER_HOST:-127.0.0.1}"
port="${DMKD_TRACKER_PORT:-5000}"
# Quoted, for a password may hold any character.
database="$(python - <<'PYTHON'
import os
import urllib.parse

user, name = os.environ.get("POSTGRES_USER", "mlflow"), os.environ.get("POSTGRES_DB", "mlflow")
password = urllib.parse.quote(os.environ["POSTGRES_PASSWORD"], safe="")
place = f"{os.environ.get('POSTGRES_HOST', '127.0.0.1')}:{os.environ.get('POSTGRES_PORT', '5432')}"
print(f"postgresql+psycopg2://{user}:{password}@{place}/{name}")
PYTHON
)"
folder="$(umask 077 && mktemp -d)"
# configparser takes % for its own.
(umask 077 && awk -v uri="${database//%/%%}" '{ at = index($0, "@DATABASE@"); print at ? substr($0, 1, at - 1) uri : $0 }' \
  "${MLFLOW_AUTH_CONFIG_PATH:-$here/auth.ini}" >"$folder/auth.ini")
export MLFLOW_AUTH_CONFIG_PATH="$folder/auth.ini" MLFLOW_BACKEND_STORE_URI="$database" MLFLOW_DISABLE_TELEMETRY=true
unset POSTGRES_PASSWORD

names=()
# A name that is not listed is refused (403): it keeps pages of other sites from calling the server through a browser.
if [ -n "${DMKD_TRACKER_NAMES:-}" ]; then names=(--allowed-hosts "localhost,localhost:*,127.0.0.1,127.0.0.1:*,$DMKD_TRACKER_NAMES"); fi
# MLflow does this itself for its own `basic-auth` alone: else a password that it refuses would end and restart its workers for ever.
python -c 'from mlflow.server import auth; auth.get_flask_server_secret_key(); auth.bootstrap_admin_user()'
# basic-auth with dmkd's route beside it (tracking/app.py), by which a leaderboard reads its runs at once.
exec mlflow server --host "$host" --port "$port" --app-name dmkd-basic-auth --artifacts-destination "$DMKD_ARTIFACTS" "${names[@]}"

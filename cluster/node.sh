#!/usr/bin/env bash
# One Ray node in the foreground, in the project's root with the environment active: what images, Slurm and VMs start.
#   cluster/node.sh head [arguments of ray start]
#   cluster/node.sh worker HEAD:PORT [arguments of ray start]
# Token authentication is on. The token comes from $RAY_AUTH_TOKEN, $RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token; nothing is started
# without one. Data lie under $DMKD_DATA; credentials come from this environment, and trials inherit it.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/ray ] && export PATH="$PWD/.venv/bin:$PATH"
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
fail() { echo "cluster/node.sh: $*" >&2; exit 2; }

command -v ray >/dev/null || fail "no ray on the PATH: activate the environment (source .venv/bin/activate), or run make install"
if [ -z "${RAY_AUTH_TOKEN:-}" ] && [ ! -s "${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}" ]; then
  fail "no token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or copy the head's ~/.ray/auth_token here"
fi
[ -n "${DMKD_DATA:-}" ] || echo "cluster/node.sh: note: DMKD_DATA is not set, so sweeps need --data-root" >&2
if [ -z "${DMKD_COMMIT:-}" ]; then
  if [ -s COMMIT ]; then DMKD_COMMIT="$(cat COMMIT)"; else DMKD_COMMIT="$(git rev-parse HEAD 2>/dev/null || true)"; fi
  export DMKD_COMMIT
fi

role="${1:-}"
[ $# -gt 0 ] && shift
case "$role" in
  head) exec ray start --head --block --disable-usage-stats --dashboard-host 127.0.0.1 "$@" ;;
  worker)
    [ $# -gt 0 ] || fail "worker needs the head's address: cluster/node.sh worker HEAD:6379"
    address="$1"
    shift
    exec ray start --address "$address" --block --disable-usage-stats "$@"
    ;;
  *) fail "usage: cluster/node.sh head | worker HEAD:PORT [arguments of ray start]" ;;
esac

#!/usr/bin/env bash
# A Ray head on this machine, from the project's root, with token authentication, on loopback: what `ray job submit` then talks to.
#   cluster/local.sh start [arguments of ray start]     cluster/local.sh stop
# Further machines join it with the address that it prints; see cluster/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
# A job's command runs in the head's folder with the head's PATH: so both are the project's.
[ -x .venv/bin/ray ] && export PATH="$PWD/.venv/bin:$PATH"
export RAY_AUTH_MODE=token
case "${1:-}" in
  start)
    shift
    ray get-auth-token --generate >/dev/null   # kept in ~/.ray/auth_token, readable by you alone; never printed here
    DMKD_COMMIT="$(git rev-parse HEAD 2>/dev/null || true)"
    export DMKD_COMMIT
    ray start --head --dashboard-host 127.0.0.1 --disable-usage-stats "$@"
    echo
    echo "Now, in this folder:  export RAY_AUTH_MODE=token;  ray job submit sweeps/cars_s2sd.py"
    ;;
  stop)
    ray stop
    ;;
  *)
    echo "usage: cluster/local.sh start [arguments of ray start] | stop" >&2
    exit 2
    ;;
esac

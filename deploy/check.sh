#!/usr/bin/env bash
# Check what deploys without deploying it: shell scripts, Dockerfiles, systemd units, compose file, Kubernetes manifests.
# A tool that is not installed is named and skipped; with AMGT_CHECK_ALL=1 that is an error. No Docker engine is needed.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
status=0

has() {
  command -v "$1" > /dev/null && return
  echo "skipped: $1 is not installed, so $2 not checked"
  [ -z "${AMGT_CHECK_ALL:-}" ] || status=1
  return 1
}

mapfile -t scripts < <(find deploy .ci -type f \( -name '*.sh' -o -path .ci/run \) 2> /dev/null | sort)
for script in "${scripts[@]}"; do bash -n "$script" || status=1; done
if has shellcheck "shell scripts are"; then shellcheck "${scripts[@]}" || status=1; fi

if has hadolint "Dockerfiles are"; then
  # DL3008, DL3013: versions are pinned by requirements.lock, not on the command line.
  hadolint --ignore DL3008 --ignore DL3013 deploy/Dockerfile.* || status=1
fi

if has systemd-analyze "units are"; then
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  for unit in deploy/systemd/*.service; do
    # A unit's program must exist for the check.
    sed -E 's#/opt/amgt-fed/bin/amgt-[a-z]+#/bin/true#' "$unit" > "$scratch/${unit##*/}"
    complaints=$(systemd-analyze verify "$scratch/${unit##*/}" 2>&1 | grep -F "${unit##*/}" || true)
    [ -z "$complaints" ] || { echo "$complaints"; status=1; }
  done
fi

python deploy/check_manifests.py || status=1
exit "$status"

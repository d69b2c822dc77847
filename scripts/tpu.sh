#!/usr/bin/env bash
# One pre-training run on a Cloud TPU slice, from creating the slice to deleting it (docs/tpu.md).
#
#     scripts/tpu.sh [--dry-run] STEP [ARGUMENT ...]
#
#     create       requests the slice and waits until it is ready
#     install      installs jaxpt from this checkout on every worker
#     check        fails unless JAX sees TPU chips on every worker
#     data FOLDER  copies a folder of images into the bucket
#     mount        mounts the bucket's images on every worker, below ~/data
#     start ARG…   runs jaxpt pretrain ARG… on every worker, detached from this terminal
#     watch        follows the log of worker 0; Ctrl-C leaves the run running
#     state        prints the state of the slice and of the run: running, or its exit status
#     stop         makes the run save and end
#     resume ARG…  starts again, on a new slice if the old one was preempted
#     keep ARG…    resumes as often as needed, until the run is finished or fails
#     delete       deletes the slice; the bucket stays
#
# Settings are environment variables. Required: TPU (a name for the slice), ZONE, TYPE (such as
# v5litepod-16) and BUCKET (without gs://). Optional: PROJECT (default: gcloud's), SPOT (yes),
# VERSION (by TYPE), EXTRAS (tpu,gcs), EVERY (60, seconds between checks).
set -euo pipefail
SCRIPT=$(realpath "$0")
DRY=no

fail() { echo "tpu.sh: $*" >&2; exit 2; }

usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$SCRIPT"; }

# --- On this machine ---

run() {  # runs a command, or prints it with --dry-run
    if [ "$DRY" = yes ]; then printf '%q ' "$@"; echo; else "$@"; fi
}

gcloud_tpu() { run gcloud compute tpus "$@" --zone="$ZONE" ${PROJECT:+--project="$PROJECT"}; }

on() {  # WORKER STEP ARG…: runs worker_STEP, defined below, on one worker or on all
    local worker=$1
    shift
    gcloud_tpu tpu-vm ssh "$TPU" --worker="$worker" --command="bash ~/tpu.sh worker$(printf ' %q' "$@")"
}

# Image that Google recommends for each TPU generation; all are Ubuntu 22.04.
version() {
    case "$TYPE" in
        v5litepod-*) echo v2-alpha-tpuv5-lite ;;
        v5p-*) echo v2-alpha-tpuv5 ;;
        v6e-*) echo v2-alpha-tpuv6e ;;
        *) echo tpu-ubuntu2204-base ;;
    esac
}

slice_state() { gcloud_tpu queued-resources describe "$TPU" --format='value(state.state)'; }

step_create() {
    local spot=() now
    if [ "${SPOT:-yes}" = yes ]; then spot=(--spot); fi
    gcloud_tpu queued-resources create "$TPU" --node-id="$TPU" --accelerator-type="$TYPE" \
        --runtime-version="${VERSION:-$(version)}" "${spot[@]}"
    while true; do
        now=$(slice_state)
        echo "$now"
        case "$now" in
            ACTIVE | gcloud*) return ;;
            FAILED | SUSPEND*) fail "the slice is $now: delete it and create another." ;;
        esac
        sleep "${EVERY:-60}"
    done
}

step_install() {
    local folder
    folder=$(dirname "$SCRIPT")/../build/wheels
    run rm -rf "$folder"
    run "${PYTHON:-python3}" -m pip wheel --quiet --no-deps --wheel-dir "$folder" "$folder/../.."
    gcloud_tpu tpu-vm scp "$SCRIPT" "$folder"/jaxpt-*.whl "$TPU": --worker=all
    on all install "${EXTRAS:-tpu,gcs}"
}

step_check() { on all check; }

step_data() {
    [ -d "${1:-}" ] || fail "data needs a folder, got '${1:-}'."
    run gcloud storage rsync --recursive "$1" "gs://$BUCKET/data/$(basename "$1")"
}

step_mount() { on all mount "$BUCKET"; }

step_start() {
    [ $# -gt 0 ] || fail "start needs the arguments of jaxpt pretrain."
    on all start "$@"
}

step_watch() { on 0 watch; }

step_state() {
    slice_state
    on 0 state
}

# One worker is enough: all processes then save the same step.
step_stop() { on 0 stop; }

step_resume() {
    [ $# -gt 0 ] || fail "resume needs the arguments of jaxpt pretrain."
    if [ "$DRY" = yes ] || [ "$(slice_state)" != ACTIVE ]; then
        step_delete || echo "no slice to delete"
        step_create
        step_install
        step_mount
        step_check
    fi
    step_start "$@"
}

step_keep() {
    local ended
    if [ "$DRY" = yes ]; then step_resume "$@"; return; fi
    while true; do
        ended=gone
        if [ "$(slice_state)" = ACTIVE ]; then ended=$(on 0 state); fi
        case "$ended" in
            running) ;;
            0) echo "the run is finished"; return ;;
            gone | none | 75) echo "the run: $ended; starting it"; step_resume "$@" ;;
            *) on 0 log; exit "$ended" ;;
        esac
        sleep "${EVERY:-60}"
    done
}

step_delete() { gcloud_tpu queued-resources delete "$TPU" --force --quiet; }

# --- On a worker ---

# Workers have Python 3.10, but jaxpt needs 3.11 or later: uv installs it.
worker_install() {
    python3 -m pip install --quiet --user uv
    ~/.local/bin/uv venv --quiet --clear --python 3.12 ~/venv
    ~/.local/bin/uv pip install --quiet --python ~/venv/bin/python "$(ls ~/jaxpt-*.whl)[$1]"
}

# Runs on all workers at once: the chips of a slice start together or not at all.
worker_check() {
    JAX_PLATFORMS=tpu ~/venv/bin/python -c \
        "import jax; d = jax.local_devices(); print(len(d), d[0].device_kind)"
}

worker_mount() {
    local key=/usr/share/keyrings/gcsfuse.asc from=https://packages.cloud.google.com/apt
    if ! command -v gcsfuse >/dev/null; then
        curl -fsS "$from/doc/apt-key.gpg" | sudo tee $key >/dev/null
        echo "deb [signed-by=$key] $from gcsfuse-$(lsb_release -cs) main" |
            sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
        sudo apt-get update -qq
        sudo apt-get install -y -qq gcsfuse
    fi
    mkdir -p ~/data
    mountpoint -q ~/data || gcsfuse --implicit-dirs --only-dir=data -o ro \
        --metadata-cache-ttl-secs=-1 --stat-cache-max-size-mb=-1 --type-cache-max-size-mb=-1 \
        "$1" ~/data
}

# Prints the log here if the run fails within seconds.
worker_start() {
    if [ "$(worker_state)" = running ] && kill -0 "$(cat ~/jaxpt.pid)" 2>/dev/null; then
        fail "a run is in progress: stop it first."
    fi
    echo running >~/jaxpt.status
    setsid nohup bash "$SCRIPT" worker run "$@" >~/jaxpt.log 2>&1 </dev/null &
    for _ in $(seq "${SETTLE:-20}"); do
        sleep 1
        [ "$(worker_state)" = running ] || break
    done
    case "$(worker_state)" in running | 0) ;; *) worker_log >&2; exit 1 ;; esac
}

worker_run() {
    local status=0
    ~/venv/bin/jaxpt pretrain "$@" &
    echo $! >~/jaxpt.pid
    wait $! || status=$?
    echo $status >~/jaxpt.status
}

worker_watch() { tail -n 100 -f ~/jaxpt.log; }

worker_log() { tail -n 20 ~/jaxpt.log; }

worker_state() { cat ~/jaxpt.status 2>/dev/null || echo none; }

worker_stop() { kill -TERM "$(cat ~/jaxpt.pid)"; }

# --- Dispatch ---

if [ "${1:-}" = worker ]; then
    step=$2
    shift 2
    "worker_$step" "$@"
    exit
fi
if [ "${1:-}" = --dry-run ]; then DRY=yes && shift; fi
step=${1:-}
case "$step" in
    create | install | check | data | mount | start | watch | state | stop | resume | keep | delete)
        for name in TPU ZONE TYPE BUCKET; do
            [ -n "${!name:-}" ] || fail "$name is not set: export TPU=look ZONE=us-west4-a \
TYPE=v5litepod-16 BUCKET=my-bucket, with your own values."
        done
        shift
        "step_$step" "$@" ;;
    -h | --help) usage ;;
    *) usage >&2; fail "no step '$step'." ;;
esac

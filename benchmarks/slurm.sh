#!/bin/bash
# The README's build on Slurm, by a Slurm of this one machine: jobs queue, are cancelled, reach
# their walltime, and the bank must be the one that a build without Dask makes.
#
# benchmarks/slurm.sh     as root, on Debian 12 or in a container of it; about five minutes
#
# Script and settings are taken from README.md; only the settings' values are changed. Debian's
# packages are installed where they are missing, and stay. All else lies in a temporary folder and
# is removed at the end: keys, Slurm's state, an environment with dask-jobqueue, the banks.

set -euo pipefail
cd "$(dirname "$0")/.."

PACKAGES=(slurm-wlm munge python3-venv)
CPUS=4 # as Slurm is told, however many there are: so many jobs run, and the others queue
PATIENCE_S=120

work=$(mktemp -d)
python=$work/venv/bin/python
export TMPDIR=$work SLURM_CONF=$work/slurm.conf DASK_CONFIG=$work/dask

main() {
    trap stop EXIT
    say "Slurm starts"
    dpkg -s "${PACKAGES[@]}" &>/dev/null || install_packages
    start_slurm
    make_environment
    print_versions

    say "without Dask"
    time build here -m jobs.build_bank --quiet

    say "on Slurm"
    from_readme yaml | for_this_machine | tee "$DASK_CONFIG/jobqueue.yaml"
    from_readme python >"$work/on_slurm.py"
    cancel_a_job slurm &
    cancelled=$!
    time PYTHONPATH=$PWD build slurm "$work/on_slurm.py"
    wait $cancelled
    list_jobs

    say "both are read again"
    for bank in here slurm; do
        "$python" -m jobs.verify_bank --quiet "$work/$bank" | tee "$work/$bank.txt"
    done
    diff <(grep digest "$work/here.txt") <(grep digest "$work/slurm.txt")
    say "the same bank"
}

install_packages() {
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${PACKAGES[@]}"
}

start_slurm() {
    mkdir "$work"/{state,spool}
    chmod 755 "$work" # munged wants its socket within reach of all users
    dd if=/dev/urandom of="$work/munge.key" bs=1K count=1 status=none
    chmod 400 "$work/munge.key"
    slurm_conf >"$SLURM_CONF"
    munged --force --foreground --key-file="$work/munge.key" --socket="$work/munge.socket" \
        --pid-file="$work/munged.pid" --seed-file="$work/munge.seed" 2>"$work/munged.log" &
    wait_until test -S "$work/munge.socket"
    slurmctld -D 2>/dev/null &
    slurmd -D 2>/dev/null &
    wait_until node_is_idle
    sinfo
}

# Without cgroups, which a container may lack; on ports of its own, beside a Slurm that is there;
# ended jobs are listed for an hour.
slurm_conf() {
    cat <<END
ClusterName=bank
SlurmctldHost=$(hostname -s)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthInfo=socket=$work/munge.socket
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
MinJobAge=3600
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
NodeName=$(hostname -s) CPUs=$CPUS $(slurmd -C | grep --only-matching 'RealMemory=[0-9]*')
PartitionName=all Nodes=ALL Default=YES State=UP
END
}

node_is_idle() { [ "$(sinfo --noheader --format=%T)" = idle ]; }

make_environment() {
    "${PYTHON:-python3}" -m venv "$work/venv"
    "$python" -m pip install --quiet --disable-pip-version-check -r requirements.lock dask-jobqueue
    mkdir "$DASK_CONFIG"
}

print_versions() {
    slurmd -V
    munged -V | head -1
    "$python" -V
    "$python" -m pip freeze | grep -E '^(dask|dask-jobqueue|distributed|torch)=='
}

build() { # NAME COMMAND...
    "$python" "${@:2}" --dataset toy --shard-photos 32 --data "$work/data" --out "$work/$1"
}

from_readme() { # LANGUAGE of the block
    sed -n "/^On Slurm/,/^On Kubernetes/ { /^\`\`\`$1/,/^\`\`\`\$/ { /^\`\`\`/! p } }" README.md
}

for_this_machine() {
    sed -E -e 's/(memory): .*/\1: 1GB/' -e 's/(walltime): .*/\1: "00:01:00"/' \
        -e 's/(interface): .*/\1: lo/' -e "s,(log-directory): .*,\1: $work/logs,"
}

cancel_a_job() { # of those that build the bank NAME, while they cut
    wait_until shards_are_cut "$work/$1" 10
    local job
    job=$(squeue --noheader --states=RUNNING --format=%i | head -1)
    scancel "$job"
    say "job $job is cancelled"
}

list_jobs() { # those that came to run on a node
    squeue --states=all --sort=i --format='%.5i %.10T %.19S %.6M %N' >"$work/jobs.txt"
    awk 'NF == 5' "$work/jobs.txt"
    say "$(($(wc -l <"$work/jobs.txt") - 1)) jobs were submitted"
}

shards_are_cut() { # BANK COUNT
    [ "$(find "$1/work/receipts" -type f 2>/dev/null | wc -l)" -ge "$2" ]
}

wait_until() { # COMMAND... that succeeds once it has come so far
    local end=$((SECONDS + PATIENCE_S))
    until "$@"; do
        ((SECONDS < end)) || fail "not within $PATIENCE_S s: $*"
        sleep 0.1
    done
}

say() { echo "--- $*"; }

fail() {
    echo "error: $*" >&2
    tail "$work"/*.log >&2
    exit 1
}

stop() {
    scancel --user=root 2>/dev/null || true
    # shellcheck disable=SC2046
    kill $(jobs -p) 2>/dev/null || true
    wait
    rm -rf "$work"
}

main

#!/bin/bash
# deploy/slurm/task.sh RUN_FOLDER - what each task of a job is, installed as blipren-slurm-task: the first BLIPREN_WORKERS tasks of a
# node are workers, the others loaders. One that dies is started again as long as the run has an endpoint.
set -u
run=${1:?expected the run folder}
read -ra options <<<"${BLIPREN_OPTIONS:-}"
options+=(--grace "${BLIPREN_GRACE:-25}") # of the 30 s that Slurm leaves (KillWait) for the run to end in order

if [ "$SLURM_LOCALID" -lt "$BLIPREN_WORKERS" ]; then
    program=blipren-worker
    address=$(scontrol show node --oneliner "$SLURMD_NODENAME" | sed -n 's/.* NodeAddr=\([^ ]*\) .*/\1/p')
    options+=(--host "$(getent ahostsv4 "$address" | awk '{ print $1; exit }')")
    threads=$(($(nproc) / BLIPREN_WORKERS))
    options+=(--threads "$((threads > 0 ? threads : 1))")
else
    program=blipren-loader
fi
export OMP_WAIT_POLICY=passive # several processes share the cores

leave=
trap 'leave=yes' TERM # which the program gets too; bash runs this when it has ended
while [ -z "$leave" ] && [ -s "$run/endpoint" ]; do
    "$program" --coord "$(<"$run/endpoint")" --name "$SLURMD_NODENAME:$$" "${options[@]}"
    status=$?
    case $status in
    0 | 2 | 3 | 4 | 12) exit $status ;; # complete, or stopped, or nothing that trying again would change
    esac
    sleep 2
done
exit "${status:-0}"

"""Convert in parts as a cluster does, with parts killed, started twice and taken over, and compare with one run.

usage: divided_rehearsal.py RECAST FIXTURES [--parts 8] [--rounds 5] [--directory DIR] [--mpi LAUNCHER] [--without-locks]

FIXTURES holds tiny-deepseek-v3-fp8. Every round converts it into files of 512 KiB by as many processes as there are parts, kills about half of
them at random moments and starts these again, some of them twice at once, until `recast finish` joins them. With --mpi the parts are those
that the ranks of a launcher (mpirun.openmpi, mpirun.mpich) take by `--part auto`. With --without-locks the destination's file system has no locks:
faults.c says so to the program.

Then the job files of `recast plan --emit slurm` and `mpi` run as they are, by stand-ins for sbatch and mpirun that start the parts one after
another; the first part of the array is stopped once and must be queued again under its own number.
"""
import argparse
import filecmp
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

parser = argparse.ArgumentParser()
parser.add_argument('recast')
parser.add_argument('fixtures')
parser.add_argument('--parts', type=int, default=8)
parser.add_argument('--rounds', type=int, default=5)
parser.add_argument('--directory')
parser.add_argument('--seed', type=int, default=1)
parser.add_argument('--mpi')
parser.add_argument('--without-locks', action='store_true')
options = parser.parse_args()
recast = os.path.abspath(options.recast)
random.seed(options.seed)
work = tempfile.mkdtemp(dir=options.directory)
source = os.path.abspath(options.fixtures) + '/tiny-deepseek-v3-fp8'


def command(destination, *more):
    return [recast, 'convert', source, destination, '--to', 'int4-g32', '--shard-size', '512KiB', '--jobs', '2', '--quiet', *more]


def surroundings(destination):
    """The environment of a program, which may lie about the destination's file system."""
    if not options.without_locks:
        return os.environ
    library, state = work + '/faults.so', work + '/state'
    if not os.path.exists(library):
        subprocess.run(['cc', '-O1', '-shared', '-fPIC', '-o', library, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'faults.c'), '-ldl',
                        '-lpthread'], check=True)
    if not os.path.exists(state):
        with open(state, 'wb') as file:
            file.truncate(1 << 16)
    return dict(os.environ, LD_PRELOAD=library, FAULT_NO_LOCKS='1', FAULT_STATE=state, FAULT_DESTINATION=destination, FAULT_SOURCE=source)


def start(destination, part):
    return subprocess.Popen(command(destination, '--part', f'{part}/{options.parts}'), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            env=surroundings(destination))


def same(destination):
    comparison = filecmp.dircmp(work + '/whole', destination)
    _, differing, failed = filecmp.cmpfiles(work + '/whole', destination, comparison.common_files, shallow=False)
    return not (comparison.left_only or comparison.right_only or differing or failed)


def finish(destination):
    return subprocess.run([recast, 'finish', destination], capture_output=True, text=True, env=surroundings(destination))


SBATCH = """#!/bin/bash
script=$(mktemp)
cat > "$script"
case "$*" in
*--dependency=afterok:77*) exec bash "$script" >&2 ;;
esac
tasks=$(sed -n 's/^#SBATCH --array=0-//p' "$script")
for task in $(seq 0 "$tasks"); do
    export SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_ID=$task SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_MAX=$tasks SLURM_PROCID=0 SLURM_NTASKS=1
    status=0
    bash "$script" >&2 || status=$?
    if [ -f "$QUEUE/77_$task" ]; then rm "$QUEUE/77_$task"; bash "$script" >&2 || exit 1; elif [ "$status" != 0 ]; then exit 1; fi
done
echo 77
"""
MPIRUN = """#!/bin/bash
[ "$1" = -np ] || exit 1
count=$2
shift 2
for rank in $(seq 0 $((count - 1))); do OMPI_COMM_WORLD_RANK=$rank OMPI_COMM_WORLD_SIZE=$count "$@" || exit $?; done
"""
# What the script calls to run a task again; it says which. A sleep of the script's is not waited for.
STAND_INS = dict(sbatch=SBATCH, mpirun=MPIRUN, scontrol='#!/bin/bash\n[ "$1" = requeue ] && touch "$QUEUE/$2"\n', sleep='#!/bin/bash\n')


def job_file(kind):
    """Runs what `recast plan --emit` prints."""
    destination, tools = f'{work}/{kind} it\'s here', f'{work}/tools'
    os.makedirs(tools, exist_ok=True)
    for name, text in STAND_INS.items():
        with open(f'{tools}/{name}', 'w') as file:
            file.write(text)
        os.chmod(f'{tools}/{name}', 0o755)
    # Stops the first part once, as a time limit does.
    with open(f'{tools}/recast', 'w') as file:
        file.write(f'#!/bin/bash\n[ "$1" = convert ] && [ ! -f "$QUEUE/stopped" ] && touch "$QUEUE/stopped" && exit 75\nexec {recast} "$@"\n')
    os.chmod(f'{tools}/recast', 0o755)
    plan = subprocess.run([recast, 'plan', *command(destination)[2:], '--emit', kind, '--parts', str(options.parts)], check=True,
                          capture_output=True, text=True).stdout
    with open(f'{work}/job.sh', 'w') as file:
        file.write(plan.replace(recast + ' ', tools + '/recast '))
    queue = tempfile.mkdtemp(dir=work)
    run = subprocess.run(['bash', f'{work}/job.sh'], capture_output=True, text=True,
                         env=dict(os.environ, PATH=tools + ':' + os.environ['PATH'], QUEUE=queue))
    if run.returncode or not same(destination):
        sys.exit(f'the job file for {kind} ended with {run.returncode}: {run.stdout} {run.stderr}')
    print(f'the job file for {kind}: the bytes of one run')


try:
    subprocess.run(command(work + '/whole'), check=True, stdout=subprocess.DEVNULL)
    kills = twice = 0
    for round in range(options.rounds):
        destination = f'{work}/parts-{round}'
        if options.mpi:
            # More ranks than processors are for Open MPI to be told, and root too.
            environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT='1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1', OMPI_MCA_rmaps_base_oversubscribe='1',
                               PRTE_MCA_rmaps_default_mapping_policy=':oversubscribe')
            subprocess.run([options.mpi, '-np', str(options.parts), *command(destination, '--part', 'auto')], check=True, stdout=subprocess.DEVNULL,
                           env=environment)
        else:
            left = list(range(1, options.parts + 1))
            while left:
                again = [part for part in left if random.random() < 0.3]
                twice += len(again)
                running = [(part, start(destination, part)) for part in left + again]
                time.sleep(random.random() * 0.1)
                for part, process in running:
                    if random.random() < 0.4 and process.poll() is None:
                        process.send_signal(random.choice([signal.SIGKILL, signal.SIGTERM]))
                        kills += 1
                outcome = {}
                for part, process in running:
                    message = process.communicate()[1]
                    # Done, stopped, killed (before it listens, by either signal), or the same part is at work already.
                    if process.returncode not in (0, 75, 73, -signal.SIGKILL, -signal.SIGTERM):
                        sys.exit(f'part {part} ended with {process.returncode}: {message}')
                    outcome[part] = outcome.get(part, False) or process.returncode == 0
                left = [part for part in left if not outcome[part]]
                joined = finish(destination)
                if left and joined.returncode == 0:
                    # A part may be killed when all that is left of it is to exit; what is joined is compared below.
                    left = []
                elif left and (joined.returncode != 75 or os.path.exists(destination + '/recast.manifest.json')):
                    sys.exit(f'finish with parts missing: {joined.returncode} {joined.stderr}')
        joined = finish(destination) if options.mpi else joined
        if joined.returncode:
            sys.exit(f'finish: {joined.returncode} {joined.stderr}')
        if not same(destination) or os.path.exists(destination + '/.recast'):
            sys.exit(f'round {round}: the parts are not what one run writes')
        shutil.rmtree(destination)
    print(f'{options.rounds} conversions in {options.parts} parts, {kills} parts killed, {twice} started twice: the bytes of one run')
    for kind in ('slurm', 'mpi'):
        job_file(kind)
finally:
    shutil.rmtree(work)

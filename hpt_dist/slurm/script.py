"""What a job's script does around its step: a clean environment before, the next start after. Pure.

sbatch gets the names of variables, so Slurm has the login profile of the user read on the node, as
`su - USER` does. A trial's key knows nothing of it, so nothing of it may change a result.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from hpt_dist.processes import environment

# EX_TEMPFAIL: a process that wants its job to be queued again, and all others to end now.
AGAIN = 75
# EX_UNAVAILABLE: the same, later: the store, or the folder of jobs, is out of reach.
AWAY = 69
# Rough ends in a row beside the restarts that a trial counts: some come before it can count.
ROUGH_ENDS = 5
# A wait for the store is doubled each time, up to this many times the first one.
_LONGEST_WAIT = 16
# How long a script waits for the folder of jobs, in which Slurm could not open a log meanwhile.
_FOLDER_S = 3600

# srun would pass on only what sbatch did, and none of what `setup` exports; and since Slurm 22.05
# it does not take over the number of cores.
_SRUN = "export SLURM_EXPORT_ENV=ALL SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"
# The script outlives the signals before the end, which are for the processes of its step.
_OUTLIVE = "trap : TERM USR1 USR2"
# What the log has before each start, with how many there were before it.
START_OF_JOB = "hpt-dist starts job"
# Python reads them before any code of ours runs; the loader before that.
_OF_LOGIN = ("PYTHON*", "LD_PRELOAD")

# What ends a job that is to go on. Slurm queues it again by itself only where it ended it, as after
# a lost node; a job that ends by itself, however early, is over. So the script asks for it, unless
# Slurm has already taken the job away (its state is no longer RUNNING): cancelled jobs stay so.
# 137 is a process that was killed, as for want of memory; 138, 140 and 143 are USR1, USR2 and TERM
# that came before anybody could listen. A step that ends before any process has begun says nothing
# of the trial: Slurm may refuse it after a lost node, or a node lacks its mounts. All of them are
# worth another start, but not for ever; so is a store that is away, later.
# A task of an array is asked for by its number: the id that the last one of them has as a job is
# that of the whole array. What came of the start is noted for `status`, with what a process said.
_GO_ON = """\
rc=$? next=over delay=0
job=${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}
folder={folder} start=$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}
began=$folder/$start.began again=$folder/$start.again failed=$folder/$start.failed
away=$folder/$start.away ends=$folder/$SLURM_JOB_ID.ends rough=
if [ ! -d "$folder" ]; then
  rough=away
  for attempt in $(seq {folder_polls}); do [ -d "$folder" ] && break; sleep 5; done
elif [ -e "$away" ] || [ "$rc" = {away} ]; then rough=away
elif [ "$rc" != 0 ] && [ ! -e "$began" ] && [ ! -e "$again" ]; then rough=unbegun
else case $rc in 137|138|140|143) rough=killed;; esac
fi
if [ -e "$failed" ]; then
  rc=1
elif [ "$rough" ]; then
  [ "$rc" = 0 ] && rc=1
  echo "$rc" >> "$ends"
  count=$(wc -l < "$ends" || echo $((SLURM_RESTART_COUNT + 1)))
  [ "$count" -le {limit} ] && next=again
  times=$(( count > {doublings} ? {longest} : 1 << (count - 1) ))
  [ "$rough" = away ] && delay=$(( {wait_s} * times ))
elif [ -e "$again" ]; then
  next=again
  rm -f "$ends"
fi
said=$failed
[ -e "$said" ] || said=$away
[ -e "$said" ] || said=$again
note=$folder/$job.${{SLURM_RESTART_COUNT:-0}}.end
{{ echo "$rc $next $rough"; cat "$said"; }} > "$note.part" 2>/dev/null
mv "$note.part" "$note"
if [ "$next" = again ]; then
  rc={again}
  # What queues it again is not ended by the signal that this sends to the job.
  trap '' TERM
  for attempt in $(seq 120); do
    state=$(squeue --noheader --format=%T --jobs="$job") || {{ sleep 5; continue; }}
    [ "$state" = RUNNING ] || {{ delay=0; break; }}
    scontrol requeue "$job" && break
    sleep 5
  done
  # Slurm's own wait is for what the nodes know of this start; only a longer one may replace it.
  expire=$(scontrol show config | sed -n 's/.*cred_expire=\\([0-9]*\\).*/\\1/p')
  [ "$delay" -gt $(( ${{expire:-120}} + 1 )) ] && for attempt in $(seq 5); do
    scontrol update JobId="$job" StartTime="now+$delay" && break
    sleep 1
  done
fi
exit $rc"""


def is_left_out(name: str) -> bool:
    """Return whether a variable of the login profile does not reach the processes of a job."""
    dropped = (*_OF_LOGIN, *environment.SWITCHES)
    return _matches(name, dropped) and not _matches(name, environment.NO_SWITCHES)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def before(setup: Iterable[str], code: str, threads: int, exported: Iterable[str]) -> list[str]:
    """Return the lines before the step.

    Args:
        setup: the site's own lines; they may set what the login profile may not.
        code: folder that holds the package; empty for what the interpreter has.
        threads: CPU threads of each process; numpy reads them when submitit imports it.
        exported: names of the variables that jobs get from where they are submitted.
    """
    variables = environment.threads(threads)
    return [
        _SRUN,
        _OUTLIVE,
        f'echo "{START_OF_JOB} $SLURM_JOB_ID on $SLURM_JOB_NODELIST,'
        ' restarts: ${SLURM_RESTART_COUNT:-0}"',
        *_without(_OF_LOGIN, exported, "left out of the login profile"),
        *_path_of(code),
        *setup,
        *_without(environment.SWITCHES, environment.NO_SWITCHES, "left out of the environment"),
        f"export {' '.join(f'{name}={value}' for name, value in variables.items())}",
    ]


def after(folder: Path, requeue_limit: int, wait_s: int) -> list[str]:
    """Return the lines after the step.

    Args:
        folder: of the job's files.
        requeue_limit: restarts in a row that may lead nowhere; with -1 no rough end is restarted.
        wait_s: how long a job waits where the store is out of reach, seconds; it doubles.
    """
    text = _GO_ON.format(
        folder=shlex.quote(str(folder)),
        folder_polls=_FOLDER_S // 5,
        again=AGAIN,
        away=AWAY,
        limit=requeue_limit + ROUGH_ENDS if requeue_limit >= 0 else 0,
        wait_s=wait_s,
        doublings=_LONGEST_WAIT.bit_length() - 1,
        longest=_LONGEST_WAIT,
    )
    return text.splitlines()


def _path_of(code: str) -> list[str]:
    if not code:
        return []
    # Safe, or Python looks first into the folder of the launch, often a checkout.
    path = f"{shlex.quote(code)}${{PYTHONPATH:+:$PYTHONPATH}}"
    return [f"export PYTHONSAFEPATH=1 PYTHONPATH={path}"]


def _without(names: Sequence[str], but: Iterable[str], says: str) -> list[str]:
    """Return lines that take variables out of the environment, and print their names.

    Args:
        names: how they are called; * stands for any end.
        but: those that stay.
        says: what is printed before the names.
    """
    stays = [one for one in but if _matches(one, names)]
    kept = f"{'|'.join(stays)}) ;; " if stays else ""
    return [
        "left=",
        f'for name in $(compgen -e); do case "$name" in {kept}{"|".join(names)})'
        ' unset "$name"; left="${left:+$left, }$name";; esac; done',
        f'[ -z "$left" ] || echo "{says}: $left"',
    ]

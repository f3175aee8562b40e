"""SLURM for tests: two machines with names and networks of their own, and on them SLURM itself, or stand-ins for what a command calls of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

# each line is one that an administrator would type; all that is started ends with this shell, the first process of its namespace
_TWO_MACHINES = """
set -e
cd $1
printf '127.0.0.1 localhost\\n10.99.0.1 one\\n10.99.0.2 two\\n' > hosts
mount --bind hosts /etc/hosts
hostname one
ip link set lo up
unshare --net --uts sleep 600 & other=$!
until [ "$(readlink /proc/$other/ns/uts)" != "$(readlink /proc/$$/ns/uts)" ]; do sleep 0.05; done
ip link add left type veth peer name right netns $other
ip addr add 10.99.0.1/24 dev left
ip link set left up
on_two="nsenter -t $other -n -u"
$on_two sh -c 'hostname two; ip link set lo up; ip addr add 10.99.0.2/24 dev right; ip link set right up'
"""

# SLURM drops the groups of root, which no namespace allows; a user named nobody has none, and is outside who started the test
_SLURM = """
user="unshare --user --map-user=65534 --map-group=65534"
export SLURM_CONF=$1/slurm.conf
$user slurmctld -i -D > controller.log 2>&1 &
$user slurmd -D > one.log 2>&1 &
$on_two $user slurmd -D > two.log 2>&1 &
until [ "$($user sinfo --noheader --states=idle --format=%D 2>&1)" = 2 ]; do sleep 0.1; done
$user bash -ec "$2"
"""

_SLURM_CONF = """
ClusterName=test
SlurmctldHost=one
NodeName=one,two CPUs={cores} Gres=gpu:1
PartitionName=all Nodes=ALL Default=YES
GresTypes=gpu
SelectType=select/cons_tres
SlurmUser=nobody
SlurmdUser=nobody
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
"""

_STAND_INS = {
    "srun": """#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift; done
export SLURM_NNODES=2 SLURM_JOB_ID=7 SLURM_JOB_NODELIST=$NODES
SLURM_NODEID=1 $ON_TWO "$@" & second=$!
SLURM_NODEID=0 "$@" && wait $second
""",
    "scontrol": """#!/bin/sh
[ "$1 $2" = "show hostnames" ] && echo "$3" | tr , '\\n'
""",
}


def slurm_is_here() -> bool:
    """Whether SLURM is installed and this system allows namespaces."""
    installed = all(map(shutil.which, ("slurmctld", "slurmd", "srun", "sinfo", "scontrol")))
    return installed and _namespaces_allowed()


def run_on_slurm(command: str, folder: Path) -> str:
    """What a command for the shell says on a cluster of two nodes with one GPU each, which is /dev/null."""
    for name in ("state", "one", "two"):
        (folder / name).mkdir()
    cores = os.cpu_count()
    (folder / "slurm.conf").write_text(_SLURM_CONF.format(folder=folder, cores=cores))
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
    return _said([*_apart(), "sh", "-c", _TWO_MACHINES + _SLURM, "sh", str(folder), command], {})


def run_on_stand_ins(command: str, folder: Path) -> str:
    """What it says where ``srun`` and ``scontrol`` are short scripts: on two machines, or twice on this one where namespaces are not allowed."""
    for name, script in _STAND_INS.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    if not _namespaces_allowed():
        return _said(["bash", "-ec", command], {**path, "NODES": "localhost,localhost", "ON_TWO": ""})
    script = _TWO_MACHINES + 'export ON_TWO="$on_two" NODES=one,two\nbash -ec "$2"\n'
    return _said([*_apart(), "sh", "-c", script, "sh", str(folder), command], path)


def _apart() -> list[str]:
    return [
        "unshare",
        *("--user", "--map-root-user", "--mount", "--uts", "--net"),
        *("--pid", "--fork", "--kill-child", "--mount-proc"),
    ]


def _namespaces_allowed() -> bool:
    tried = [*_apart(), "sh", "-c", "ip link add left type veth peer name right"]
    found = shutil.which("unshare") and subprocess.run(tried, capture_output=True, timeout=30, check=False)
    return bool(found) and found.returncode == 0


def _said(command: list[str], environment: dict[str, str]) -> str:
    scripts = str(Path(sys.executable).parent)  # where torchrun lies
    path = {"PATH": os.environ["PATH"], **environment}["PATH"]
    found = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment, "PATH": f"{scripts}:{path}", "OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stdout[-3000:]
    return found.stdout

"""topoface train, where the last process is killed at the first start and hangs at the second: python -m tests.distributed.restarting ARGUMENTS."""

import os
import signal
import sys

from tests.distributed.faults import at_step, sleep_for_ever
from topoface import cli
from topoface.training.distributed import restarts

if __name__ == "__main__":
    if restarts() == 0:
        at_step(4, lambda: os.kill(os.getpid(), signal.SIGKILL))
    elif restarts() == 1:
        at_step(5, sleep_for_ever)
    sys.exit(cli.main(["train", *sys.argv[1:]]))

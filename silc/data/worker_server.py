"""Imported by the fork server of decoding processes before it forks any; elsewhere it does nothing.

Signals that ask a job to stop reach its whole process group. The server must outlive them: its children would take its
end for the trainer's, and leave the trainer without data for its last step.
"""

import signal
import sys

if any("multiprocessing.forkserver" in word for word in sys.orig_argv):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

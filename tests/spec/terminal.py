"""Runs a program on a terminal that nobody reads at first: terminal.py FIFO PROGRAM ARGUMENT...

Reads from the terminal (100 columns, 30 rows) only once somebody has written into the named pipe FIFO; then all of it,
to stdout. Ends with the exit code of the program. Used by specs; knows nothing of what it runs.
"""

import fcntl
import os
import pty
import struct
import sys
import termios

CHUNK = 512

fifo, program, arguments = sys.argv[1], sys.argv[2], sys.argv[2:]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(program, arguments)
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
with open(fifo, "rb") as starter:  # waits for a writer
    starter.read()
while True:
    try:
        shown = os.read(terminal, CHUNK)
    except OSError:  # EIO: the program has closed it
        break
    if not shown:
        break
    sys.stdout.buffer.write(shown)
sys.stdout.flush()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

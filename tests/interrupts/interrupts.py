"""Interrupts `turboci run` at random moments: interrupts.py PROGRAM COUNT [SEED]

Each time one of a few workflows is started and, at a random moment, told to stop (SIGINT, SIGTERM or SIGHUP; a second
one, sometimes, once the program says what that does). Whenever that was, the program ends with 3 (or with the plan's own
end, when that was faster), without a crash and without a word of a bug; and nothing is left: no command, no folder. A
failure prints the seed, which repeats the choices (not the moments: those are the machine's).
"""

import os
import pathlib
import random
import select
import signal
import subprocess
import sys
import tempfile
import time

MARK = "TURBOCI_INTERRUPTED_BY"  # in the environment of everything that a run starts
END_SECONDS = 120  # until a run that was interrupted counts as hanging
MOMENT_SECONDS = 1.5  # the interrupt comes within so many seconds of the first word

WORKFLOWS = {
    "many short commands": """
        for i = 1, 1500 do plan:stage("t" .. i, { runner = "shell", args = { command = { "/bin/true" } } }) end
    """,
    "commands that say a lot": """
        for i = 1, 40 do
          plan:stage("t" .. i, { runner = "shell", args = { command = "seq 20000; sleep 0.1; seq 20000" } })
        end
    """,
    "commands with children of their own": """
        for i = 1, 40 do
          plan:stage("t" .. i, { runner = "shell", args = { command = "sleep 1000 & sleep 1000 & echo up; wait" } })
        end
    """,
    "commands that do not listen": """
        plan:stage("t", { runner = "shell", args = { command = "trap '' TERM; echo up; sleep 1000 & wait; wait" } })
    """,
    "bodies into one check": """
        local all = plan:check "all"
        for i = 1, 300 do
          plan:stage("t" .. i, { finalizes = all, run = function(ctx)
            print("body " .. i)
            require("turboci.loop").sleep(i / 1000)
            return { number = i }
          end })
        end
    """,
    "bodies that wait for ever, with helpers": """
        local loop = require "turboci.loop"
        for i = 1, 20 do
          plan:stage("t" .. i, { run = function(ctx)
            loop.spawn(function() while true do loop.sleep(0.01) end end)
            ctx:on_cancel(function() loop.sleep(0.1) end)
            return loop.queue():pop()
          end })
        end
        plan:stage("slow", { runner = "shell", mode = "async", args = { command = "echo up; sleep 1000" } })
    """,
    "bodies that compute for ever": """
        for i = 1, 3 do plan:stage("t" .. i, { run = function() while true do pcall(string.rep, "x", 10) end end }) end
        plan:stage("s", { runner = "shell", args = { command = "echo up; sleep 1000" } })
    """,
    "retries": """
        for i = 1, 30 do
          plan:stage("t" .. i, { runner = "shell", args = { command = "echo again; exit 1" },
            retry = { max_attempts = 100, backoff = 0.01, backoff_max = 0.05 } })
        end
    """,
}


def left_over(mark):
    """Processes that carry the mark."""
    found = []
    for environ in pathlib.Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}".encode() in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
        except OSError:
            pass  # it has ended, or is somebody else's
    return found


def is_dead(pid):
    """Waits a moment: what was killed may take one to die."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    dead = bool(select.select([handle], [], [], 10)[0])
    os.close(handle)
    return dead


def read_until(stream, deadline, wanted):
    """What comes on a stream up to a deadline, its end, or the wanted bytes."""
    text = b""
    while wanted not in text:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([stream], [], [], left)[0]:
            break
        more = os.read(stream.fileno(), 65536)
        if not more:
            break
        text += more
    return text


def interrupt(program, name, choices, folder, mark):
    """One run; what is wrong, or None."""
    workflow = folder / "workflow.lua"
    workflow.write_text(f'local plan = require("turboci").plan {{ name = "it" }}\n{WORKFLOWS[name]}\nreturn plan\n')
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    with open(folder / "out", "wb") as out:
        run = subprocess.Popen(
            [program, "run", "-j8", str(workflow)], stdout=out, stderr=subprocess.PIPE, cwd=folder, start_new_session=True,
            env={**os.environ, MARK: mark, "TMPDIR": str(temporary)}
        )
    try:
        first = choices.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
        moment, again = choices.random() * MOMENT_SECONDS, choices.random() < 0.4
        while not os.path.getsize(folder / "out") and run.poll() is None:
            select.select([run.stderr], [], [], 0.02)  # the program has no other sign of life
        said = read_until(run.stderr, time.monotonic() + moment, b"never")
        run.send_signal(first)
        if again:
            said += read_until(run.stderr, time.monotonic() + END_SECONDS, b"again to leave at once")
            run.send_signal(signal.SIGINT)
        said += run.communicate(timeout=END_SECONDS)[1]
    except subprocess.TimeoutExpired:
        run.kill()
        run.communicate()
        return "it hangs"
    said = said.decode(errors="replace")
    shown = (folder / "out").read_text(errors="replace")
    finished = shown.rstrip("\n").split("\n")[-1].startswith(("it SUCCEEDED", "it FAILED"))
    # A signal in the last moment, when nothing is left to be ended, may find the system's own answer again.
    fine = {3, 0, 1, -first, -signal.SIGINT} if finished else {3}
    problems = []
    if run.returncode not in fine:
        problems.append(f"exit code {run.returncode}")
    if "bug" in said or "Sanitizer" in said or "runtime error" in said or "traceback" in said:
        problems.append("it is in trouble")
    problems += [f"process {pid} is left" for pid in left_over(mark) if not is_dead(pid)]
    problems += [f"{path} is left" for path in temporary.iterdir()]
    return f"{', '.join(problems)}\nstderr:\n{said}\nstdout ends:\n{shown[-2000:]}" if problems else None


def main():
    program, count = os.path.abspath(sys.argv[1]), int(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else int.from_bytes(os.urandom(4), "big")
    choices = random.Random(seed)
    print(f"interrupts: seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="turboci-interrupts-") as folder:
        for number in range(1, count + 1):
            name = choices.choice(sorted(WORKFLOWS))
            mark = f"{os.getpid()}-{number}"
            problem = interrupt(program, name, choices, pathlib.Path(folder), mark)
            if problem:
                print(f"interrupt {number} of {count} (seed {seed}): {name}: {problem}")
                for pid in left_over(mark):
                    os.kill(pid, signal.SIGKILL)
                return 1
    print(f"interrupts: {count}, nothing open")
    return 0


if __name__ == "__main__":
    sys.exit(main())

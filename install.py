"""pip install, with one line that says how far it is: `python3 install.py PYTHON ARGUMENT...`.

The last lines of pip are shown where it fails, and its exit code is ours. Only the standard library is there yet.
"""

import queue
import subprocess
import sys
import threading
import time
from typing import IO

BETWEEN_LINES = 15.0  # seconds, where nobody is watching
SHOWN = 25  # lines of pip after a failure


def main(python: str, *arguments: str) -> int:
    command = [python, "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar", "off", *arguments]
    pip = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert pip.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=read, args=(pip.stdout, lines), daemon=True).start()
    seen = follow(lines)
    if pip.wait():
        print(*seen[-SHOWN:], sep="\n", file=sys.stderr)
    return pip.returncode


def read(stream: IO[str], lines: "queue.Queue[str | None]") -> None:
    for line in stream:
        lines.put(line.rstrip())
    lines.put(None)


def follow(lines: "queue.Queue[str | None]") -> list[str]:
    """Show what pip is doing until it is done; returns all that it has said."""
    begun = told = time.monotonic()
    seen: list[str] = []
    work, packages = "looking for packages", 0
    is_terminal = sys.stderr.isatty()
    while True:
        try:
            line = lines.get(timeout=0.5)
            if line is None:
                break
            seen.append(line)
            packages += line.startswith("Collecting ")
            work = doing(line, packages) or work
        except queue.Empty:
            pass
        now = time.monotonic()
        if is_terminal:
            print(f"\r\x1b[K  {now - begun:3.0f} s  {work}"[:90], end="", file=sys.stderr, flush=True)
        elif now - told > BETWEEN_LINES:
            told = now
            print(f"  {now - begun:3.0f} s  {work}", file=sys.stderr, flush=True)
    if is_terminal:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return seen


def doing(line: str, packages: int) -> str | None:
    """What a line of pip says that it is doing now."""
    first, _, rest = line.strip().partition(" ")
    if first == "Collecting":
        return f"package {packages}: {rest.split(' ')[0]}"
    if line.startswith("Installing collected packages"):
        return f"unpacking {line.count(',') + 1} packages"
    return f"downloading {rest.split('/')[-1]}" if first == "Downloading" else None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

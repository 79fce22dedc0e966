"""Do what the Dockerfile says in a bare root, and ask what it starts: for machines without a container engine.

    sudo python docker/check.py BUNDLE IMAGE [--root DIR]

debootstrap makes the root, with Debian's Python in the place of the Dockerfile's base. RUN lines run in it by chroot.
The command then runs as the Dockerfile's user, without capabilities, on a root that is mounted read-only, with a
temporary /tmp. Ends with an error where it does not live, answers without the token, does not answer with it, or can
write where it should not.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent.parent
TOKEN = "a-token-that-is-used-for-this-check"
PACKAGES = "python3,python3-venv,ca-certificates"
PYTHON = "/opt/python"  # a virtual environment: Debian's own takes no packages
READ_ONLY = (
    "mount --make-rprivate / && mount --bind {root} {root} && mount --bind {bundle} {root}/bundle "
    "&& mount -o remount,bind,ro {root}/bundle && mount -t tmpfs tmpfs {root}/tmp && mount --bind /proc {root}/proc "
    "&& mount -o remount,bind,ro {root} "
    "&& exec chroot {root} setpriv --reuid {user} --regid {user} --clear-groups --no-new-privs --bounding-set -all "
    "-- {command}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--root", type=Path, default=Path("/tmp/daybreak-root"))
    arguments = parser.parse_args()
    prepare(arguments.root)
    user, environment, command = follow(arguments.root)
    (arguments.root / "bundle").mkdir(exist_ok=True)
    line = READ_ONLY.format(
        root=arguments.root, bundle=arguments.bundle.resolve(), user=user, command=shlex.join(command)
    )
    process = subprocess.Popen(["unshare", "--mount", "sh", "-c", line], env=environment | {"DAYBREAK_TOKEN": TOKEN})
    try:
        wait_for("http://127.0.0.1:8000/healthz", process)
        check(arguments.image.read_bytes())
        check_rights(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        ended = process.wait(20)
    assert ended == 128 + signal.SIGTERM, ended
    print("lives, asks for the token, answers, writes nowhere, and ends when it is told to")


def prepare(root: Path) -> None:
    if not (root / "usr").exists():
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "stable", root], check=True)
    if not (root / PYTHON.lstrip("/")).exists():
        subprocess.run(["chroot", root, "python3", "-m", "venv", PYTHON], check=True)
    for name in ("etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt"):
        shutil.copy(f"/{name}", root / name)


def follow(root: Path) -> tuple[str, dict[str, str], list[str]]:
    """User, environment and command after all instructions have been followed."""
    environment, user, folder, command = (
        dict(os.environ, PATH=f"{PYTHON}/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        "0",
        "/",
        [],
    )
    for word, rest in instructions():
        if word == "ENV":
            environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        elif word == "WORKDIR":
            folder = rest
            (root / folder.lstrip("/")).mkdir(exist_ok=True)
        elif word == "COPY":
            *sources, target = rest.split()
            copy(sources, root / folder.lstrip("/") / target)
        elif word == "RUN":
            line = rest.replace("useradd", "id -u daybreak >/dev/null 2>&1 || useradd")  # the root may be used again
            subprocess.run(["chroot", root, "sh", "-ec", f"cd {folder}; {line}"], env=environment, check=True)
        elif word == "USER":
            user = rest
        elif word in ("ENTRYPOINT", "CMD"):
            command += json.loads(rest)
        else:
            assert word in ("FROM", "EXPOSE", "HEALTHCHECK"), f"{word}: not known here"
    return user, environment, command


def instructions() -> Iterator[tuple[str, str]]:
    for line in (HERE / "Dockerfile").read_text().splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            yield word, rest


def copy(sources: list[str], target: Path) -> None:
    for source in sources:
        where = target / source if len(sources) > 1 else target
        where.parent.mkdir(parents=True, exist_ok=True)
        if (HERE / source).is_dir():
            shutil.copytree(HERE / source, where, dirs_exist_ok=True)
        else:
            shutil.copy(HERE / source, where)


def wait_for(address: str, process: subprocess.Popen[Any]) -> None:
    for _ in range(120):
        assert process.poll() is None, "it ended"
        try:
            urllib.request.urlopen(address, timeout=3).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError("does not live")


def check(image: bytes) -> None:
    asked = urllib.request.Request("http://127.0.0.1:8000/predict", image)
    try:
        status = urllib.request.urlopen(asked, timeout=30).status
    except urllib.error.HTTPError as error:
        status = error.code
    assert status == 401, status
    asked.add_header("Authorization", f"Bearer {TOKEN}")
    with urllib.request.urlopen(asked, timeout=30) as answer:
        print(answer.read().decode())


def check_rights(pid: int) -> None:
    """Of the process: its user, its capabilities, and that it can write nowhere but in /tmp."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["Uid"].split() == ["10001"] * 4, status["Uid"]
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0, status["CapEff"]
    enter = ["nsenter", "-t", str(pid), "--mount", "--root", "sh", "-c"]
    for folder in ("/", "/bundle", "/opt", "/home", "/var/tmp"):
        assert subprocess.run([*enter, f"touch {folder}/x"], stderr=subprocess.DEVNULL).returncode != 0, folder


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The docker client: runs the command on this machine, with the container's environment and paths only.

Known options only; bind sources must exist; what is not mounted is refused; what is mounted read-only
must not change; a container outlives a client that is killed, and ``docker kill`` ends it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def main(root: Path) -> None:
    command, *rest = sys.argv[1:]
    if command == "kill":
        _kill(root, *rest)
    elif command == "run":
        sys.exit(_run(root, rest))
    else:
        sys.exit(f"docker: {command!r} is not a docker command.")


def _run(root: Path, argv: list[str]) -> int:
    args = _parse(argv)
    images = json.loads((root / "images.json").read_text(encoding="utf-8"))
    if args.image not in images:
        return _refuse(f"docker: Error response from daemon: manifest for {args.image} not found.")
    if args.gpus != "all" or not args.rm or not args.init:
        return _refuse("the test expects --gpus all --rm --init")
    mounts = [_mount(text) for text in args.mount]
    for source, _ in mounts:
        if not source.exists():
            return _refuse(f"docker: invalid mount config: bind source path does not exist: {source}")
    words = [_inside(word, root) for word in args.command]
    for word in args.command:
        outside = word.startswith("/") and not word.startswith(("/app/", *(str(path) for path, _ in mounts)))
        if outside:
            return _refuse(f"{word} is not in the container")
    before = _listing(mounts)
    code = _start(root, args, words)
    if _listing(mounts) != before:
        return _refuse("Read-only file system")
    return code


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="docker run", allow_abbrev=False)
    for flag in ("--rm", "--init"):
        parser.add_argument(flag, action="store_true")
    for flag in ("--gpus", "--name", "--user", "--network", "--workdir"):
        parser.add_argument(flag)
    for flag in ("--ulimit", "--mount", "--env"):
        parser.add_argument(flag, action="append", default=[])
    parser.add_argument("image")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser.parse_args(argv)


def _mount(text: str) -> tuple[Path, bool]:
    """Source, and whether it is read-only; docker reads the option as one CSV record."""
    (fields,) = csv.reader([text])
    values = dict(field.partition("=")[::2] for field in fields)
    assert values["type"] == "bind"
    assert values["source"] == values["target"]
    return Path(values["source"]), "readonly" in values


def _inside(word: str, root: Path) -> str:
    if word == "python3":
        return sys.executable
    if word.startswith("/app/examples"):
        return str(root / "examples") + word.removeprefix("/app/examples")
    return str(root / "image-bin" / word) if word == "trtllm-build" else word


def _start(root: Path, args: argparse.Namespace, words: list[str]) -> int:
    record = root / "containers" / args.name
    env = dict(assignment.split("=", 1) for assignment in args.env) | {"PATH": "/usr/bin:/bin"}
    # Until the handler is there, a signal would leave the record of a container that nobody ends.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        descriptor = os.open(record, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return _refuse(
            f'Conflict. The container name "/{args.name}" is already in use by container "c0ffee".'
        )
    try:
        container = subprocess.Popen(
            words,
            env=env,
            cwd=args.workdir,
            start_new_session=True,
            preexec_fn=_take_signals,  # noqa: PLW1509  # there are no threads
        )
        os.write(descriptor, str(container.pid).encode())
        signal.signal(signal.SIGTERM, lambda *_: os.killpg(container.pid, signal.SIGTERM))
        _take_signals()
        code = container.wait()
        return 128 - code if code < 0 else code
    finally:
        record.unlink()


def _take_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _kill(root: Path, name: str) -> None:
    try:
        pid = int((root / "containers" / name).read_text(encoding="utf-8"))
        os.killpg(pid, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        sys.exit(f"Error response from daemon: No such container: {name}")


def _listing(mounts: list[tuple[Path, bool]]) -> list[tuple[str, int]]:
    read_only = [path for path, frozen in mounts if frozen]
    return sorted((str(f), f.stat().st_mtime_ns) for path in read_only for f in path.rglob("*"))


def _refuse(text: str) -> int:
    print(text, file=sys.stderr)
    return 125

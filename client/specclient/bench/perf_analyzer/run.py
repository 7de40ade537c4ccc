# SPDX-License-Identifier: Apache-2.0
"""Runs perf_analyzer over the load points and imports what it has measured."""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from specclient.bench.load import Load, Rate
from specclient.bench.measure import Arm, Outcome, triton
from specclient.bench.perf_analyzer import command, export
from specclient.bench.perf_analyzer.errors import PerfAnalyzerError
from specclient.bench.run import Run
from specclient.bench.server_side import difference
from specclient.bench.settings import Settings
from specclient.bench.targets import TritonTarget
from specclient.errors import SpecClientError
from specclient.interrupts import Interrupts

ARM = "perf_analyzer"
CLOCK = (
    "The times are perf_analyzer's: it reads the system's clock, which may be set while it measures, and "
    "counts from sending."
)
OPEN_LOOP = (
    "perf_analyzer does not export when a request was due: at a rate that the server cannot hold, the "
    "latency of late requests is understated."
)
STOP_S = 10.0
WATCH_S = 1.0
"""Between two looks at the server: often enough for a person who waits, too seldom to be a load."""
TAIL = 12
"""Lines of its output in an error."""

OnPoint = Callable[[Load], None]


def measure(settings: Settings, program: Path, folder: Path, on_point: OnPoint | None = None) -> Outcome:
    """One perf_analyzer run per load point; blocks until done. Raises InvalidRequest for what it cannot do.

    ``folder`` gets what is needed to run it again by hand: its commands, input file, output and exports. They
    hold the prompts and the answers. Ctrl-C and errors end the measurement early, with ``Outcome.failure``
    set, as in ``specclient.bench.measure``.
    """
    warnings = (CLOCK, OPEN_LOOP) if any(isinstance(load, Rate) for load in settings.loads) else (CLOCK,)
    workload = replace(settings.workload, warnings=(*settings.workload.warnings, *warnings))
    command.check(settings)
    outcome = Outcome("perf-analyzer", replace(settings, workload=workload))
    start = time.perf_counter()
    try:
        Interrupts().run(_measure(outcome, program, folder.absolute(), on_point))
    except (SpecClientError, KeyboardInterrupt) as error:
        outcome.failure = error
    except OSError as error:
        outcome.failure = PerfAnalyzerError(
            f"cannot write to {folder}: {error.strerror}", remedy="Name another --output."
        )
    outcome.duration_s = time.perf_counter() - start
    return outcome


async def _measure(outcome: Outcome, program: Path, folder: Path, on_point: OnPoint | None) -> None:
    settings = outcome.settings
    target = triton(settings)
    arm = Arm(ARM, target, settings.parameters.num_draft_tokens)
    outcome.arms = (arm,)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        await target.open()
        for number, load in enumerate(settings.loads, 1):
            if on_point is not None:
                on_point(load)
            run = Run(ARM, load, target, arm.num_draft_tokens)
            before = await target.statistics()
            await _point(run, target, settings, program, folder / str(number))
            after = await target.statistics()
            if before is not None and after is not None:
                run.statistics.append(difference(before, after))
            run.complete = True
            outcome.runs.append(run)
    finally:
        await target.close()


async def _point(run: Run, target: TritonTarget, settings: Settings, program: Path, stem: Path) -> None:
    """One load point; ``stem`` names its files."""
    inputs, exported = stem.with_suffix(".inputs.json"), stem.with_suffix(".export.json")
    argv = command.argv(program, settings, target.url, run.load, inputs=inputs, export=exported)
    drawn = settings.workload.draw(command.requests(settings, run.load), seed=settings.seed)
    asked = []
    for position, prompt in enumerate(drawn):
        parameters = settings.request(prompt, position, run.num_draft_tokens)
        asked.append(command.Asked(prompt, parameters, target.tensors(prompt, parameters)))
    inputs.write_text(json.dumps(command.input_data(asked)), encoding="utf-8")
    stem.with_suffix(".command.sh").write_text(shlex.join(argv) + "\n", encoding="utf-8")
    exported.unlink(missing_ok=True)  # perf_analyzer refuses one that exists
    output = await _guarded(_execute(argv), target, command.patience_s(settings, run.load))
    stem.with_suffix(".log").write_text(output, encoding="utf-8")
    run.samples = export.samples(exported, asked, target.decoder)
    for sample in run.samples[: settings.warmup_request_count]:
        sample.warmup = True
    if run.samples:
        run.started_ns = run.samples[0].sent_ns


async def _execute(argv: list[str]) -> str:
    """Run it and return its output. Raises PerfAnalyzerError when it fails."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise PerfAnalyzerError(
            f"cannot start {argv[0]}: {error.strerror}",
            remedy="Install it, for example by `make perf-analyzer`.",
        ) from error
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except asyncio.TimeoutError:  # the builtin one from Python 3.11 on
                process.kill()
                await process.wait()
    text = output.decode("utf-8", "replace")
    if process.returncode != 0:
        tail = "\n".join(text.strip().splitlines()[-TAIL:])
        raise PerfAnalyzerError(f"perf_analyzer ended with {process.returncode}:\n{tail}")
    return text


async def _guarded(work: Coroutine[Any, Any, str], target: TritonTarget, patience_s: float | None) -> str:
    """``work``, until the server goes away or no request ends for ``patience_s``: it would wait for ever."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(_watch(target, patience_s))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            watching.result()  # raises
        return await working
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _watch(target: TritonTarget, patience_s: float | None) -> NoReturn:
    """Ask the server for its counts until it does not answer, or they stand still for too long."""
    seen, since = None, time.monotonic()
    while True:
        await asyncio.sleep(WATCH_S)
        totals = await target.statistics()
        if target.lost is not None:
            raise PerfAnalyzerError(
                f"the server went away: {target.lost}", remedy="Look into the server's log."
            )
        ended = seen
        if totals is not None:
            ended = sum(count.requests for (model, _), count in totals.items() if model == target.model)
        if ended != seen:
            seen, since = ended, time.monotonic()
        elif seen is not None and patience_s is not None and time.monotonic() - since > patience_s:
            raise PerfAnalyzerError(
                f"no request has ended for {patience_s:.0f} s",
                remedy="Look into the server's log: one of its models may have died.",
            )

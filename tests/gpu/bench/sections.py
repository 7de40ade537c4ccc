# SPDX-License-Identifier: Apache-2.0
"""The sections of the benchmark; each runs in a process of its own, with the whole card to itself."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import card
import load
import profiles
import rows
import torch
from load import ADAPTIVE, PLAIN
from profiles import Profile
from rows import Recorder

from specbuild.planning import memory
from specbuild.synthetic import planted_pair
from specbuild.synthetic.planted import Plant
from specbuild.torch_runtime import Engine, Settings

_GIB = 1 << 30


@dataclass(frozen=True)
class Bench:
    """What a section needs to know."""

    recorder: Recorder
    profile: Profile
    pair: Path
    device: torch.device
    results: Path
    deadline: float
    """time.time() after which nothing new is begun."""
    draft_length: int

    @property
    def bandwidth(self) -> float | None:
        """Bytes per second as measured in this run; None before."""
        for row in rows.read(self.results):
            if row.what == card.COPY and row.value:
                return row.value * 1e12
        return None

    def late(self, what: str, batch: int | None = None, context: int | None = None) -> bool:
        """Whether the time is over; what is left out for that is recorded."""
        if time.time() < self.deadline:
            return False
        self.recorder.row(what, None, "", batch=batch, context=context, note="left out: the time is over")
        return True

    def plan(self, slots: int, max_seq_len: int) -> memory.MemoryPlan:
        """The planner's figures for an engine."""
        return memory.plan(
            self.model("target"), self.model("draft"), slots=slots, **self._limits(max_seq_len)
        )

    def fitting(self, wanted: int, max_seq_len: int) -> int:
        """Slots, at most ``wanted``, that the card's free memory holds with 5 % to spare."""
        if self.device.type != "cuda":
            return wanted
        free, _ = torch.cuda.mem_get_info(self.device)
        models = self.model("target"), self.model("draft")
        return memory.most_slots(int(0.95 * free), *models, limit=wanted, **self._limits(max_seq_len))

    def model(self, name: str) -> memory.ModelMemory:
        """The sizes of ``target`` or ``draft``."""
        return memory.model_memory(json.loads((self.pair / name / "config.json").read_text(encoding="utf-8")))

    def _limits(self, max_seq_len: int) -> dict[str, int]:
        return {
            "max_seq_len": max_seq_len,
            "draft_length": self.draft_length,
            "prefill_chunk": self.profile.prefill_chunk,
        }


def run_card(bench: Bench) -> None:
    """Copy bandwidth and matrix rate."""
    card.run(bench.recorder, bench.device, small=bench.device.type == "cpu")


def run_engine(bench: Bench) -> None:
    """Steps against their floor, whole requests, and steady decoding at the shorter contexts."""
    profile = bench.profile
    slots = max(profile.batches)
    longest = max(profile.contexts) + profile.steady_tokens + 1
    slots = bench.fitting(slots, longest)
    with _engine(bench, slots, longest) as (engine, plant):
        _guarded(bench, "steps", lambda: _steps(bench, engine, plant))
        _guarded(bench, "whole requests", lambda: _whole(bench, engine, plant))
        for alpha in profile.alphas:
            for context in profile.contexts:
                _steady(bench, engine, plant, alpha, context, profile.batches, slots)
        _memory_in_use(bench, slots, longest)


def run_long(bench: Bench) -> None:
    """Steady decoding at the long context, with as many slots as are wanted and fit."""
    profile = bench.profile
    longest = profile.long_context + profile.steady_tokens + 1
    slots = bench.fitting(max(profile.long_batches), longest)
    with _engine(bench, slots, longest) as (engine, plant):
        for alpha in profile.alphas:
            _steady(bench, engine, plant, alpha, profile.long_context, profile.batches, slots)
        _memory_in_use(bench, slots, longest)


def run_rounded(bench: Bench) -> None:
    """Decoding at the middle context with weights in 8 bits: of the draft, and of both."""
    profile = bench.profile
    draft = {"draft_quantization": "int8_wo"}
    for name, rounded in (("draft", draft), ("both", {**draft, "target_quantization": "int8_wo"})):
        if bench.late(f"int8 {name}"):
            return
        longest = profile.step_context + profile.steady_tokens + 1
        with _engine(bench, 4, longest, **rounded) as (engine, plant):
            for batch in (1, 4):
                _rounded(bench, engine, plant, name, batch)


def _rounded(bench: Bench, engine: Engine, plant: Plant, name: str, batch: int) -> None:
    context, tokens = bench.profile.step_context, bench.profile.steady_tokens
    with load.prompts_taken_as_read():
        prompts = load.prompts(plant, 0.8, batch, context)
        plain = _best(engine, prompts, tokens, PLAIN, plant)
        speculative = _best(engine, prompts, tokens, ADAPTIVE, plant)
    columns = {"batch": batch, "context": context}
    bench.recorder.row(f"int8 {name}, plain", plain.steady, "token/s", note=_off(plain.astray), **columns)
    bench.recorder.row(
        f"int8 {name}, speculative", speculative.steady, "token/s", alpha=0.8, reference=plain.steady,
        against="plain", note=f"{_off(speculative.astray)}, {_accepted(speculative)}", **columns,
    )  # fmt: skip
    status = engine.status()
    bench.recorder.row(
        f"int8 {name}, draft step in a burst", status.draft_step_ms, "ms", note="by the engine's clock",
        **columns,
    )  # fmt: skip


def run_draft(bench: Bench) -> None:
    """The draft alone, decoding plainly: its step against its floor."""
    context = bench.profile.step_context
    settings = _settings(bench, 1, context + bench.profile.steady_tokens + 1)
    plant = planted_pair.read(bench.pair)
    with Engine.load(bench.pair / "draft", None, settings) as engine, load.prompts_taken_as_read():
        prompt = load.prompts(plant, max(bench.profile.alphas), 1, context)
        load.measure(engine, prompt, 16, PLAIN, plant)
        speed = load.measure(engine, prompt, bench.profile.steady_tokens, PLAIN, plant)
    floor = _floor(bench, "draft", context)
    bench.recorder.row(
        "draft alone, plain step", speed.step_ms, "ms", batch=1, context=context,
        reference=floor, against="bandwidth floor",
    )  # fmt: skip


def run_transformers(bench: Bench) -> None:
    """transformers' own generate, plain and assisted, on the same pair."""
    import transformers
    from transformers import AutoModelForCausalLM

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    profile = bench.profile
    plant = planted_pair.read(bench.pair)
    models = []
    for name in ("target", "draft"):
        model = AutoModelForCausalLM.from_pretrained(bench.pair / name, dtype=torch.bfloat16)
        models.append(model.to(bench.device).eval())
    target, draft = models
    draft.generation_config.num_assistant_tokens = 4
    draft.generation_config.num_assistant_tokens_schedule = "constant"
    draft.generation_config.assistant_confidence_threshold = 0.0
    prompt = load.prompts(plant, 0.8, 1, profile.peer_prompt_tokens)[0]
    ways = {"generate": (None, profiles.TRANSFORMERS), "assisted, 4 drafts": (draft, profiles.ASSISTED)}
    for name, (assistant, published) in ways.items():
        if bench.late(f"transformers {name}"):
            return
        tokens, seconds = _generate(target, assistant, prompt, 8, bench.device)
        tokens, seconds = _generate(target, assistant, prompt, profile.peer_new_tokens, bench.device)
        bench.recorder.row(
            f"transformers {name}", len(tokens) / seconds, "token/s", batch=1, context=len(prompt),
            alpha=0.8, reference=published.tokens_per_second[1],
            against=f"published, {published.card}", note=_off(load.astray(prompt, tokens, plant)),
        )  # fmt: skip


def _generate(
    target: object, assistant: object, prompt: list[int], tokens: int, device: torch.device
) -> tuple[list[int], float]:
    ids = torch.tensor([prompt], device=device)
    start = time.perf_counter()
    output = target.generate(  # type: ignore[attr-defined]
        ids, attention_mask=torch.ones_like(ids), assistant_model=assistant, max_new_tokens=tokens,
        do_sample=False, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    made = output[0, len(prompt) :].tolist()  # waits for the device
    return made, time.perf_counter() - start


def _steps(bench: Bench, engine: Engine, plant: Plant) -> None:
    """One request at the middle context, the fastest of three: rounds as they are in service."""
    context = bench.profile.step_context
    with load.prompts_taken_as_read():
        prompt = load.prompts(plant, 0.8, 1, context)
        modes = (("plain", PLAIN), ("speculative", ADAPTIVE))
        speeds = {
            name: _best(engine, prompt, bench.profile.steady_tokens, length, plant) for name, length in modes
        }
    floor = _floor(bench, "target", context)
    plain, speculative = speeds["plain"], speeds["speculative"]
    bench.recorder.row(
        "target, plain step", plain.step_ms, "ms", batch=1, context=context, reference=floor,
        against="bandwidth floor", note=_off(plain.astray),
    )  # fmt: skip
    status = engine.status()
    bench.recorder.row(
        "draft step in a burst", status.draft_step_ms, "ms", batch=1, context=context,
        reference=_floor(bench, "draft", context), against="bandwidth floor", note="by the engine's clock",
    )  # fmt: skip
    bench.recorder.row(
        "verification", status.verification_ms, "ms", batch=1, context=context, reference=floor,
        against="bandwidth floor", note=f"of {status.draft_length} drafts, by the engine's clock",
    )  # fmt: skip
    bench.recorder.row(
        "speculative round", speculative.step_ms, "ms", batch=1, context=context, alpha=0.8,
        note=_accepted(speculative),
    )  # fmt: skip
    bench.recorder.row(
        "plain", plain.steady, "token/s", batch=1, context=context,
        reference=1e3 / floor if floor else None, against="bandwidth floor",
    )  # fmt: skip
    bench.recorder.row(
        "speculative", speculative.steady, "token/s", batch=1, context=context, alpha=0.8,
        reference=plain.steady, against="plain", note=_off(speculative.astray),
    )  # fmt: skip


def _best(
    engine: Engine, prompts: list[list[int]], tokens: int, length: int | None, plant: Plant
) -> load.Speed:
    runs = [load.measure(engine, prompts, tokens, length, plant) for _ in range(3)]
    return max(runs, key=lambda speed: speed.steady)


def _whole(bench: Bench, engine: Engine, plant: Plant) -> None:
    """Whole requests, all submitted at once, prefill included: best of two, as the peers were measured."""
    profile = bench.profile
    for batch in profile.batches:
        plain = 0.0
        for name, length in (("plain", PLAIN), ("speculative", ADAPTIVE)):
            if bench.late(f"whole requests, {name}", batch):
                return
            runs = []
            for seed in range(2):
                prompts = load.prompts(plant, 0.8, batch, profile.prompt_tokens, seed)
                runs.append(load.measure(engine, prompts, profile.new_tokens, length, plant))
            best = max(runs, key=lambda speed: speed.whole)
            plain = plain or best.whole
            _whole_rows(bench, name, batch, best, plain)


def _whole_rows(bench: Bench, name: str, batch: int, best: load.Speed, plain: float) -> None:
    peers = (profiles.PLAIN,) if name == "plain" else profiles.SPECULATIVE
    note = f"{_off(best.astray)}, first token {best.first_token_ms:.0f} ms"
    columns = {"batch": batch, "context": bench.profile.prompt_tokens, "alpha": 0.8}
    if name == "speculative":
        note += f", {_accepted(best)}"
        bench.recorder.row(
            f"whole requests, {name}", best.whole, "token/s", reference=plain, against="plain", note=note,
            **columns,
        )  # fmt: skip
        note = ""
    for peer in peers:
        if batch in peer.tokens_per_second:
            bench.recorder.row(
                f"whole requests, {name}", best.whole, "token/s", note=f"{note} (published, {peer.card})",
                reference=peer.tokens_per_second[batch], against=peer.engine.replace("draft_model, ", ""),
                **columns,
            )  # fmt: skip


def _steady(
    bench: Bench, engine: Engine, plant: Plant, alpha: float, context: int, batches: Sequence[int], slots: int
) -> None:
    """Tokens per second while all requests decode: plain once, speculative for each acceptance."""
    for batch in batches:
        if bench.late("steady", batch, context):
            return
        if batch > slots:
            if alpha == bench.profile.alphas[0]:
                need = bench.plan(batch, context + bench.profile.steady_tokens + 1).total / _GIB
                bench.recorder.row(
                    "steady", None, "token/s", batch=batch, context=context,
                    note=f"not run: it would need {need:.0f} GiB; this engine has {slots} slots",
                )  # fmt: skip
            continue
        _guarded(
            bench, f"steady {batch} x {context}",
            lambda batch=batch: _steady_one(bench, engine, plant, alpha, context, batch),
        )  # fmt: skip


_plain_speeds: dict[tuple[int, int], float] = {}


def _steady_one(bench: Bench, engine: Engine, plant: Plant, alpha: float, context: int, batch: int) -> None:
    tokens = bench.profile.steady_tokens
    with load.prompts_taken_as_read():
        prompts = load.prompts(plant, alpha, batch, context)
        if (batch, context) not in _plain_speeds:
            plain = load.measure(engine, prompts, tokens, PLAIN, plant)
            _plain_speeds[batch, context] = plain.steady
            floor = _floor(bench, "target", context, batch)
            bench.recorder.row(
                "steady, plain", plain.steady, "token/s", batch=batch, context=context,
                reference=batch * 1e3 / floor if floor else None, against="bandwidth floor",
                note=_off(plain.astray),
            )  # fmt: skip
        speculative = load.measure(engine, prompts, tokens, ADAPTIVE, plant)
    bench.recorder.row(
        "steady, speculative", speculative.steady, "token/s", batch=batch, context=context, alpha=alpha,
        reference=_plain_speeds[batch, context], against="plain",
        note=f"{_off(speculative.astray)}, {_accepted(speculative)}",
    )  # fmt: skip


def _memory_in_use(bench: Bench, slots: int, max_seq_len: int) -> None:
    planned = bench.plan(slots, max_seq_len)
    note = f"{slots} slots of {max_seq_len} tokens; planned {planned.describe()}"
    if bench.device.type != "cuda":
        bench.recorder.row("memory planned", planned.total / _GIB, "GiB", note=note)
        return
    for name, used in (
        ("memory, largest in use by tensors", torch.cuda.max_memory_allocated(bench.device)),
        ("memory reserved from the driver", torch.cuda.memory_reserved(bench.device)),
        ("memory in use on the card, all told", _in_use(bench.device)),
    ):
        bench.recorder.row(
            name, used / _GIB, "GiB", reference=planned.total / _GIB, against="planner", note=note
        )


def _settings(bench: Bench, slots: int, max_seq_len: int, **more: str) -> Settings:
    return Settings(
        draft_length=bench.draft_length,
        adaptive=True,
        max_batch_size=slots,
        max_input_len=max_seq_len - 1,
        max_seq_len=max_seq_len,
        device=str(bench.device),
        prefill_chunk=bench.profile.prefill_chunk,
        **more,  # type: ignore[arg-type]
    )


def _in_use(device: torch.device) -> int:
    """Bytes that are not free, the process's CUDA context included."""
    free, total = torch.cuda.mem_get_info(device)
    return total - free


@contextmanager
def _engine(bench: Bench, slots: int, max_seq_len: int, **more: str) -> Iterator[tuple[Engine, Plant]]:
    plant = planted_pair.read(bench.pair)
    start = time.perf_counter()
    settings = _settings(bench, slots, max_seq_len, **more)
    with Engine.load(bench.pair / "target", bench.pair / "draft", settings) as engine:
        seconds = time.perf_counter() - start
        bench.recorder.row(
            "engine ready after", seconds, "s", batch=slots, context=max_seq_len, reference=30.0,
            against="goal", note="weights from the page cache",
        )  # fmt: skip
        yield engine, plant
    del engine
    gc.collect()


def _guarded(bench: Bench, what: str, work: Callable[[], None]) -> None:
    """Do ``work``; what it fails with is recorded, and the section goes on."""
    try:
        work()
    except Exception as error:
        text = (str(error).splitlines() or [""])[0]
        bench.recorder.row(what, None, "", note=f"failed: {type(error).__name__}: {text}"[:200])


def _floor(bench: Bench, name: str, context: int, batch: int = 1) -> float | None:
    """Milliseconds that reading a step's weights, keys and values takes at the measured bandwidth."""
    if bench.bandwidth is None:
        return None
    model = bench.model(name)
    middle = context + bench.profile.steady_tokens // 2
    return 1e3 * (model.bytes_per_step + batch * middle * model.kv_bytes_per_token) / bench.bandwidth


def _off(astray: int) -> str:
    return f"{astray} tokens off the plan"


def _accepted(speed: load.Speed) -> str:
    return f"{speed.acceptance_length:.2f} tokens and {speed.drafted_per_round:.1f} drafts a round"

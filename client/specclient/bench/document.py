# SPDX-License-Identifier: Apache-2.0
"""The report of every ``bench`` verb: one JSON document, schema version 2.

``Document`` is its type; ``specclient.bench.report`` writes it, the page and the CSV read it. Durations in
keys that end in ``_ms`` are milliseconds, in ``_s`` seconds. What is undefined is null, never NaN; a key is
never left out unless it is marked NotRequired. Prompts and answers are not in it.

A *run* is one arm at one load point. An *arm* is what is compared: ``baseline`` and ``speculative`` of one
deployment, or servers by the names they were given. Runs come in the order of their load points, and for
one load point in the order of the arms.
"""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import NotRequired, TypedDict

SCHEMA_VERSION = 2

Kind = Literal["latency", "throughput", "compare", "openai", "perf-analyzer"]
Arrival = Literal["constant", "poisson", "gamma", "replay"]
Verdict = Literal["faster", "slower", "inconclusive"]


class Load(TypedDict):
    """One load point."""

    kind: Literal["concurrency", "rate"]
    value: float
    """Requests in flight, or requests per second."""
    arrival: Arrival | None
    """Law of the arrivals; null in a closed loop."""


class Distribution(TypedDict):
    """Statistics of ``n`` values; percentiles interpolate linearly. Enough points for a percentile curve."""

    n: int
    mean: float
    std: float
    min: float
    p1: float
    p5: float
    p10: float
    p25: float
    p50: float
    p75: float
    p90: float
    p95: float
    p99: float
    max: float


class Figures(TypedDict):
    """Of the successful requests in the measured window; ``Document.definitions`` explains each key."""

    ttft_ms: Distribution | None
    tpot_ms: Distribution | None
    itl_ms: Distribution | None
    inter_chunk_ms: Distribution | None
    tokens_per_chunk: Distribution | None
    latency_ms: Distribution | None
    sent_to_first_token_ms: Distribution | None
    schedule_lag_ms: Distribution | None
    """Null in a closed loop."""
    input_tokens: Distribution | None
    output_tokens: Distribution | None
    acceptance_length: Distribution | None
    """Per request; ``Acceptance.length`` is the token-weighted one."""
    tokens_per_second_per_user: Distribution | None
    tokens_per_second: float | None
    requests_per_second: float | None


class RequestCounts(TypedDict):
    """What became of the requests that were sent at this load point."""

    succeeded: int
    failed: int
    outside_window: int
    """Ended well, but began in the ramp or warm-up or ended after the window."""
    cut_off: int
    """Still in flight when the run ended."""


class Window(TypedDict):
    """The measured part of a run."""

    duration_s: float | None
    rule: Literal["all", "time", "stable", "blocks"]
    """all: every request after the warm-up; time: a fixed time after the ramp; stable: the last three
    intervals agree; blocks: complete blocks of an interleaved comparison."""
    stable: bool | None
    """Whether the intervals agreed within ``settings.stability_percentage``; null without that rule."""
    intervals: list[float]
    """Requests per second of each interval of the stability rule, in time order; empty without it."""


class PositionAcceptance(TypedDict):
    """A place in the draft, from 1, and the rounds in which it was drafted and accepted."""

    position: int
    drafted: int
    accepted: int
    rate: float | None


class Acceptance(TypedDict):
    """Token-weighted, over all successful requests of the run."""

    length: float | None
    rate: float | None
    rounds: int
    draft_tokens: int
    accepted_draft_tokens: int
    by_position: list[PositionAcceptance] | None
    """Null when no chunk's counters could be attributed to a single round."""
    attributed_rounds: int
    """Rounds that ``by_position`` is made of."""


class Goodput(TypedDict):
    """Requests that kept every limit."""

    limits_ms: dict[str, float]
    good: int
    share: float | None
    """Of all requests, failed ones included."""
    requests_per_second: float | None


class ServerModel(TypedDict):
    """One Triton model's own statistics over the run: differences of ``ModelStatistics``."""

    model: str
    version: str
    role: Literal["front", "draft", "target", "other"]
    requests: int
    executions: int
    queue_ms: float | None
    """Mean per request, as the following four; null when the model had none."""
    compute_input_ms: float | None
    compute_infer_ms: float | None
    compute_output_ms: float | None
    request_ms: float | None
    busy_s: float
    """Total time of compute_infer."""


class Client(TypedDict):
    """Whether the load generator itself was the limit."""

    cpu_share: float | None
    """Processor time of the client ÷ duration; 1 is one core."""
    loop_lag_ms: Distribution | None
    """How late timers of the event loop fired."""
    bottleneck: bool


class Run(TypedDict):
    """One arm at one load point."""

    arm: str
    load: Load
    complete: bool
    window: Window
    requests: RequestCounts
    errors: dict[str, int]
    """Error type -> how many."""
    first_error: str | None
    figures: Figures
    acceptance: Acceptance
    goodput: Goodput | None
    """Null without ``--goodput``."""
    cost_per_million_output_tokens: float | None
    """Null without ``--gpu-hour-price``; in the currency of that price."""
    server: list[ServerModel] | None
    """Null where the server has no such statistics."""
    client: Client


class Speedup(TypedDict):
    """Baseline time ÷ candidate time over paired prompts; above 1 the candidate is faster."""

    p50: float | None
    ci95: list[float] | None
    """Low and high."""
    aggregate: float | None
    pairs: int
    verdict: Verdict


class Delta(TypedDict):
    """Candidate - baseline over paired prompts."""

    p50: float | None
    ci95: list[float] | None
    pairs: int


class Identical(TypedDict):
    """Pairs whose answers have the same tokens."""

    identical: int
    total: int


class Comparison(TypedDict):
    """Two arms at one load point."""

    baseline: str
    candidate: str
    load: Load
    tpot: Speedup
    latency: Speedup
    throughput: float | None
    """Output tokens per second: candidate ÷ baseline."""
    ttft_delta_ms: Delta
    greedy: Identical | None
    """Null when sampling, or when the arms are different servers that send no tokens."""


class TimelineChunk(TypedDict):
    """One chunk of the request; with speculation one round."""

    received_ms: float
    """Since sending."""
    tokens: int
    rounds: int | None
    """Null where the server reports none; drafted and accepted belong to these rounds."""
    draft_tokens: int | None
    accepted_draft_tokens: int | None


class Timeline(TypedDict):
    """One request of an arm; the arms' timelines are of the same prompt where there is one in common."""

    arm: str
    load: Load
    prompt: str
    """Its id."""
    chunks: list[TimelineChunk]


class SloStep(TypedDict):
    """One rate that the search tried; its run is in ``runs``."""

    rate: float
    share: float | None
    """Of good requests."""
    kept: bool


class SloSearch(TypedDict):
    """The highest rate at which ``share`` of the requests keep the limits."""

    arm: str
    limits_ms: dict[str, float]
    share: float
    highest_rate: float | None
    """Null when no rate that was tried keeps them."""
    steps: list[SloStep]


class RequestRow(TypedDict):
    """One measured request."""

    run: int
    """Index in ``runs``."""
    position: int
    """Which prompt of the run; the arms of a pair share it."""
    block: int | None
    prompt: str
    request_id: str | None
    scheduled_s: float | None
    """Since the start of the run; null in a closed loop."""
    sent_s: float | None
    ttft_ms: float | None
    tpot_ms: float | None
    latency_ms: float | None
    chunks: int
    finish_reason: str | None
    input_tokens: int
    output_tokens: int
    rounds: int
    draft_tokens: int
    accepted_draft_tokens: int
    error: str | None
    message: str | None


class Failure(TypedDict):
    """Why the document is not complete."""

    type: str
    message: str


class WorkloadFacts(TypedDict):
    """Which prompts; never their text."""

    name: str
    licence: str
    sha256: str
    prompts: int
    kinds: dict[str, int]
    shape: dict[str, Any]
    """How the prompts were made from their source."""
    warnings: list[str]


class ServerFacts(TypedDict):
    """What answered in one arm."""

    arm: str
    url: str
    protocol: Literal["grpc", "http", "openai"]
    server: str | None
    version: str | None
    model: str
    platform: str | None


class Git(TypedDict):
    """The checkout the harness ran from."""

    commit: str
    dirty: bool


class Provenance(TypedDict):
    """What is needed to repeat the measurement."""

    created_at: str
    """UTC, ISO 8601; the only reading of the wall clock."""
    duration_s: float
    argv: list[str]
    python: str
    platform: str
    cpu: str | None
    cpu_count: int | None
    versions: dict[str, str | None]
    git: Git | None
    """Null outside a checkout."""
    clock: str
    servers: list[ServerFacts]


class Document(TypedDict):
    """The report."""

    schema_version: int
    kind: Kind
    complete: bool
    failure: Failure | None
    warnings: list[str]
    """Sentences for the reader."""
    runs: list[Run]
    comparisons: list[Comparison]
    """Every candidate arm against the first arm at each load point; empty with one arm."""
    timelines: list[Timeline]
    slo: SloSearch | None
    requests: list[RequestRow]
    requests_omitted: int
    """Rows left out: the document holds the first 1,000 of a run."""
    definitions: dict[str, str]
    """Key -> what it means."""
    settings: dict[str, Any]
    """The verb's options, as they were used."""
    workload: WorkloadFacts
    provenance: Provenance
    # Of `bench compare` and `demo` alone: the first load point in short, for people and scripts.
    speedup: NotRequired[Speedup]
    """``comparisons[0].tpot``."""
    acceptance_length: NotRequired[float | None]
    draft_acceptance_rate: NotRequired[float | None]
    ttft_delta_ms: NotRequired[float | None]
    greedy_identical: NotRequired[bool | None]
    baseline: NotRequired[Figures]
    speculative: NotRequired[Figures]
    pair: NotRequired[dict[str, Any]]
    """Of ``demo``: the synthetic pair's acceptance in closed form."""

# SPDX-License-Identifier: Apache-2.0
"""What every figure of a report means. They travel with each report, since tools disagree about them."""

DEFINITIONS = {
    "origin": "latencies count from the moment of sending; in an open loop from when the request was due, "
    "so that waiting behind a stalled server is not left out",
    "measured": "requests after the warm-up and the ramp; in a closed loop of a given time those that ended "
    "in the window, in an open loop those that were due in it",
    "percentiles": "interpolate linearly between values; n says how many values there are",
    "ttft_ms": "time to first token: from the origin to the receipt of the first chunk",
    "tpot_ms": "time per output token: (last chunk - first chunk) / (output tokens - 1), per request; "
    "undefined for one token or one chunk",
    "itl_ms": "inter-token latency: time between consecutive tokens as a reader sees them; tokens that share "
    "a chunk are 0 apart, so its mean compares with other tools and its tail shows the bursts",
    "inter_chunk_ms": "time between two consecutive chunks of a request; a chunk may hold several tokens",
    "tokens_per_chunk": "output tokens of each chunk",
    "latency_ms": "request latency: from the origin to the receipt of the last chunk",
    "sent_to_first_token_ms": "from the moment of sending to the first chunk, also in an open loop",
    "schedule_lag_ms": "how late the client sent a request of an open loop; it is part of the latencies",
    "input_tokens": "prompt tokens, counted by the server",
    "output_tokens": "generated tokens, counted by the server, never by splitting text again",
    "acceptance_length": "of a request: 1 + accepted draft tokens / rounds; tokens per round, bonus token "
    "included",
    "tokens_per_second_per_user": "1 / TPOT of a request: what one user sees after the first token",
    "tokens_per_second": "output tokens of the measured successful requests / duration of the window "
    "(of a comparison: of the complete blocks)",
    "requests_per_second": "measured successful requests / duration of the window",
    "acceptance.length": "1 + accepted draft tokens / rounds, over all requests",
    "acceptance.rate": "accepted draft tokens / drafted tokens, over all requests; not the probability that "
    "one draft token is accepted",
    "acceptance.by_position": "of the rounds that drafted a token at this position, in how many it was "
    "accepted; from chunks that hold exactly one round",
    "goodput": "requests that succeeded within every limit; share is of all measured requests, failed ones "
    "included; a limit on an undefined time is kept",
    "cost_per_million_output_tokens": "price per hour / (output tokens per second x 3600) x 1,000,000",
    "server": "Triton's own statistics of each model over the run; times are means per request, and busy_s "
    "adds up the time in the model's compute step. Of a decoupled Python model that step only takes the "
    "request in: read the front model's request_ms there",
    "client.cpu_share": "processor time of the load generator / time: 1 is one core",
    "client.loop_lag_ms": "how late timers of the load generator fired",
    "tpot": "speed-up: baseline TPOT / candidate TPOT of the same prompt; p50 is the median over prompts, "
    "ci95 its bootstrap interval over blocks, aggregate the ratio of the sums",
    "latency": "the same for whole requests",
    "verdict": "inconclusive when the interval includes 1, or there is none",
    "throughput": "candidate / baseline output tokens per second",
    "ttft_delta_ms": "candidate TTFT - baseline TTFT of the same prompt: median and its bootstrap interval",
    "greedy": "pairs of answers with the same tokens; null when sampling or between servers",
}

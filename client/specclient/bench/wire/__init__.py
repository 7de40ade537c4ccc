# SPDX-License-Identifier: Apache-2.0
"""gRPC over HTTP/2 for load generation: little work per message, times stamped at receipt.

``grpc.aio`` hands every message from a thread of gRPC's to the event loop, which costs more than a Triton
model that does nothing: at concurrency 1 it drove three quarters of perf_analyzer's rate on two cores, and
half of that with a stream per request. This package drives the same messages over long-lived streams, as
perf_analyzer does.
"""

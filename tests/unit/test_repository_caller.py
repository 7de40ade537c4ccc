# SPDX-License-Identifier: Apache-2.0
"""How the generating models end a request: an error that an ensemble may have to hide goes as a response."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from support.triton import model_module

FINAL = 1


class Response:
    def __init__(self, tensors: Any = (), error: Any = None) -> None:
        self.tensors = dict(tensors)
        self.error = error


class Sender:
    """Triton's, keeping what it is given."""

    def __init__(self) -> None:
        self.sent: list[tuple[Response | None, int]] = []

    def send(self, response: Response | None = None, flags: int = 0) -> None:
        self.sent.append((response, flags))


@pytest.fixture
def caller(monkeypatch: pytest.MonkeyPatch) -> Any:
    triton = SimpleNamespace(
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=FINAL,
        InferenceResponse=Response,
        InferenceResponseSender=Sender,
        Tensor=lambda name, value: (name, value),
        TritonError=object,
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    return model_module("speculative", "caller")


ERROR = SimpleNamespace(message=lambda: "the engine broke")
CHUNK = {
    "output_ids": np.array([[[5, 6]]], np.int32),
    "sequence_length": np.array([[2]], np.int32),
    "is_final": np.array([[False]]),
    "num_rounds": np.array([[3]], np.int32),
    "finish_reason": np.array([[b""]], object),
}


@pytest.mark.parametrize("key", [None, 7])
def test_before_the_first_response_an_error_is_an_error(caller: Any, key: int | None) -> None:
    sender = Sender()
    caller.Caller(sender, key).refuse(ERROR)
    [(response, flags)] = sender.sent
    assert (response.error, flags) == (ERROR, FINAL)  # type: ignore[union-attr]


def test_to_a_direct_caller_it_always_is(caller: Any) -> None:
    sender = Sender()
    subject = caller.Caller(sender, None)
    subject.send(CHUNK, final=False)
    subject.refuse(ERROR)
    assert sender.sent[-1][0].error is ERROR  # type: ignore[union-attr]


def test_behind_an_ensemble_it_goes_to_postprocessing_with_every_output(caller: Any) -> None:
    sender = Sender()
    subject = caller.Caller(sender, 7)
    subject.send(CHUNK, final=False)
    subject.refuse(ERROR)
    response, flags = sender.sent[-1]
    assert response is not None
    assert (response.error, flags) == (None, FINAL)
    assert response.tensors.keys() == CHUNK.keys()
    assert response.tensors["finish_reason"].item() == b"error: the engine broke"
    assert response.tensors["output_ids"].shape == (1, 1, 0)
    assert response.tensors["is_final"].item()


def test_postprocessing_knows_the_same_sign() -> None:
    from support.triton import MODEL_REPOSITORY

    assert 'FAILED = b"error: "' in (MODEL_REPOSITORY / "postprocessing" / "1" / "model.py").read_text()
    assert 'FAILED = "error: "' in (MODEL_REPOSITORY / "speculative" / "1" / "caller.py").read_text()

# SPDX-License-Identifier: Apache-2.0
"""Our cache and attention give what transformers' own forward pass gives, for every family of models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from specbuild.torch_runtime.decoder import Decoder
from specbuild.torch_runtime.device import has_bfloat16
from specbuild.torch_runtime.span import Span
from specbuild.torch_runtime.together import similar
from support import tiny_models

CPU = torch.device("cpu")
IDS = torch.randint(0, tiny_models.VOCAB_SIZE, (100,), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=tiny_models.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def decoder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder = tiny_models.save(tmp_path_factory.mktemp(family), family)
    return Decoder.load(folder, slots=3, max_seq_len=tiny_models.MAX_POSITIONS, where=CPU)


@pytest.fixture(scope="module")
def reference(family: str) -> torch.Tensor:
    """Logits of transformers' eager attention over all of IDS in one pass."""
    model = tiny_models.model(family, attn_implementation="eager")
    with torch.inference_mode():
        logits: torch.Tensor = model(IDS[None]).logits[0]
    return logits


def close(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(logits, expected, atol=2e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_prompt_in_chunks_and_tokens_one_by_one(decoder: Decoder, reference: torch.Tensor) -> None:
    logits = [decoder.forward(IDS[:37], [Span(1, 0, 37)])]
    logits += [decoder.forward(IDS[i : i + 20], [Span(1, i, 20)]) for i in (37, 57)]
    logits += [decoder.forward(IDS[i : i + 1], [Span(1, i, 1)]) for i in range(77, 100)]
    assert close(torch.cat(logits), reference)


@torch.inference_mode()
def test_requests_of_different_lengths_packed_in_one_pass(decoder: Decoder, reference: torch.Tensor) -> None:
    decoder.forward(IDS[:40], [Span(0, 0, 40)])
    decoder.forward(IDS[:90], [Span(2, 0, 90)])
    packed = torch.cat([IDS[40:45], IDS[:17], IDS[90:91]])
    logits = decoder.forward(packed, [Span(0, 40, 5), Span(1, 0, 17), Span(2, 90, 1)])
    assert close(logits, torch.cat([reference[40:45], reference[:17], reference[90:91]]))


TOGETHER = [Span(2, 90, 3), Span(0, 64, 1), Span(3, 77, 5)]
"""Like the verifications of one round: short, of about the same length, in any order, a slot left out."""


@torch.inference_mode()
def test_short_spans_of_similar_requests_are_computed_together(
    family: str, tmp_path: Path, reference: torch.Tensor
) -> None:
    assert similar(TOGETHER)
    decoder = Decoder.load(
        tiny_models.save(tmp_path, family), slots=4, max_seq_len=tiny_models.MAX_POSITIONS, where=CPU
    )
    for span in TOGETHER:
        decoder.forward(IDS[: span.start], [Span(span.slot, 0, span.start)])
    packed = torch.cat([IDS[span.start : span.end] for span in TOGETHER])
    logits = decoder.forward(packed, TOGETHER)
    assert close(logits, torch.cat([reference[span.start : span.end] for span in TOGETHER]))
    again = decoder.forward(IDS[93:95], [Span(2, 93, 2)])
    assert close(again, reference[93:95])


@pytest.mark.parametrize(
    "spans",
    [
        [Span(0, 10, 1)],
        [Span(0, 10, 17), Span(1, 10, 17)],
        [Span(0, 1000, 1), Span(1, 10, 1), Span(2, 10, 1)],
        [Span(0, 10, 1), Span(7, 10, 1)],
    ],
    ids=["one", "long", "uneven", "scattered"],
)
def test_what_would_mostly_be_padding_is_computed_one_by_one(spans: list[Span]) -> None:
    assert not similar(spans)


@torch.inference_mode()
def test_rejected_tokens_leave_no_trace(decoder: Decoder, reference: torch.Tensor) -> None:
    decoder.forward(IDS[:30], [Span(0, 0, 30)])
    decoder.forward(IDS[90:98], [Span(0, 30, 8)])
    logits = decoder.forward(IDS[30:33], [Span(0, 30, 3)])
    assert close(logits, reference[30:33])


@torch.inference_mode()
def test_only_the_wanted_rows_get_logits(decoder: Decoder, reference: torch.Tensor) -> None:
    logits = decoder.forward(IDS[:20], [Span(0, 0, 20)], torch.tensor([4, 19]))
    assert close(logits, reference[[4, 19]])
    assert close(decoder.prefill(IDS[20:50].tolist(), slot=0, start=20), reference[49:50])


@pytest.mark.skipif(not has_bfloat16(), reason="the processor computes bfloat16 by other means")
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_bfloat16_verification_is_bit_for_bit_plain_decoding(family: str, tmp_path: Path) -> None:
    """Also for other numbers of packed rows, up to 32 where oneDNN changes its kernel."""
    size = {"hidden_size": 128, "head_dim": 32, "intermediate_size": 256}
    folder = tiny_models.save(tmp_path, family, dtype=torch.bfloat16, **size)
    decoder = Decoder.load(folder, slots=2, max_seq_len=tiny_models.MAX_POSITIONS, where=CPU)
    with torch.inference_mode():
        decoder.forward(IDS[:25], [Span(0, 0, 25)])
        decoder.forward(IDS[:25], [Span(1, 0, 25)])
        plain = torch.cat([decoder.forward(IDS[i : i + 1], [Span(0, i, 1)]) for i in range(25, 100)])
        for n in range(2, 10):
            for start in range(25, 100 - n, n):
                ids = torch.cat([IDS[start : start + n], IDS[:7]])
                logits = decoder.forward(ids, [Span(1, start, n), Span(0, 0, 7)])
                assert torch.equal(logits[:n], plain[start - 25 : start - 25 + n])


@pytest.mark.skipif(not has_bfloat16(), reason="the processor computes bfloat16 by other means")
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_bfloat16_is_bit_for_bit_the_same_alone_together_and_over_many_keys(
    family: str, tmp_path: Path
) -> None:
    size = {"hidden_size": 128, "head_dim": 32, "intermediate_size": 256, "max_position_embeddings": 2048}
    folder = tiny_models.save(tmp_path, family, dtype=torch.bfloat16, **size)
    decoder = Decoder.load(folder, slots=2, max_seq_len=2048, where=CPU)
    ids = torch.randint(0, tiny_models.VOCAB_SIZE, (1500,), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        for slot, known in ((0, 700), (1, 1300)):
            decoder.forward(ids[:known], [Span(slot, 0, known)])
        for start in range(700, 790, 9):
            plain = torch.cat(
                [decoder.forward(ids[i : i + 1], [Span(0, i, 1)]) for i in range(start, start + 9)]
            )
            verified = decoder.forward(ids[start : start + 9], [Span(0, start, 9)])
            together = [Span(0, start, 9), Span(1, 1300, 2)]
            assert similar(together)
            packed = torch.cat([ids[start : start + 9], ids[1300:1302]])
            assert torch.equal(verified, plain)
            assert torch.equal(decoder.forward(packed, together)[:9], plain)


@torch.inference_mode()
def test_what_is_not_a_number_is_forgotten(tmp_path: Path) -> None:
    decoder = Decoder.load(tiny_models.save(tmp_path, "llama"), slots=2, max_seq_len=96, where=CPU)
    decoder.forward(IDS[:64], [Span(0, 0, 64)])
    expected = decoder.forward(IDS[:2], [Span(0, 0, 2)])
    keys, values = next(iter(decoder._slots.cache._layers.values()))
    keys[0].fill_(torch.nan), values[0].fill_(torch.nan)
    decoder.forget(0)
    decoder.forward(IDS[:64], [Span(1, 0, 64)])
    together = decoder.forward(torch.cat([IDS[:2], IDS[64:65]]), [Span(0, 0, 2), Span(1, 64, 1)])
    assert close(together[:2], expected)

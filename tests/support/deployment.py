# SPDX-License-Identifier: Apache-2.0
"""A tiny deployment of the torch runtime: engines, repository and configuration, ready to be served.

The target is a random Llama, the draft the same with some noise, so that some drafts are accepted and some
are not. The tokenizer has all bytes and some characters of several bytes; random output is full of both.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from specbuild import artifacts, repository
from specbuild.config import Config
from support import tiny_models
from support.ports import free_ports

CHARACTERS = "äöüßéñçøλπДяあ漢字你好한국🎉🚀🧮"
NOISE = 0.03


def tokenizer() -> Tokenizer:
    """Byte-level, 256 bytes, some whole characters, and an end token that random output never holds."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole = [level.pre_tokenize_str(character)[0][0] for character in CHARACTERS]
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *whole]
    result = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, []))
    result.pre_tokenizer = level
    result.decoder = decoders.ByteLevel()
    result.add_special_tokens(["<eos>", "<pad>"])
    return result


def write(output: Path, **changes: Any) -> Config:
    """Write engines and repository under ``output``; ``changes`` are sections of the configuration."""
    settings = settings_for(output, **changes)
    text = tokenizer()
    end_id = text.token_to_id("<eos>")
    with _engine(settings, "target", text) as target:
        tiny_models.save(
            target,
            "llama",
            vocab_size=text.get_vocab_size(),
            max_position_embeddings=8192,
            eos_token_id=end_id,
            pad_token_id=text.token_to_id("<pad>"),
        )
    with _engine(settings, "draft", text) as draft:
        tiny_models.save_related(draft, like=settings.engines_dir / "target", noise=NOISE)
    repository.write(settings)
    return settings


@contextlib.contextmanager
def _engine(settings: Config, role: str, text: Tokenizer) -> Iterator[Path]:
    final = settings.engines_dir / role
    with artifacts.lock(final), artifacts.publish(final, key=role, facts={}) as staging:
        yield staging
        text.save(str(staging / "tokenizer.json"))
        (staging / "generation_config.json").write_text(
            json.dumps({"eos_token_id": text.token_to_id("<eos>")})
        )


def settings_for(output: Path, **changes: Any) -> Config:
    """The configuration of the tiny deployment, on free ports."""
    http, grpc, metrics = free_ports(3)
    document = {
        "name": "tiny",
        "runtime": "torch",
        "target": {"checkpoint": "tiny"},
        "draft": {"checkpoint": "tiny"},
        "speculation": {"draft_length": 8, "adaptive": False},
        "limits": {"max_batch_size": 4, "max_input_len": 3000, "max_seq_len": 4096},
        "torch": {"device": "cpu", "threads": 1},
        "output": str(output),
    }
    serving = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics, "startup_timeout_s": 60}
    changes["serving"] = {**serving, **changes.get("serving", {})}
    for section, values in changes.items():
        document[section] = {**document.get(section, {}), **values}  # type: ignore[dict-item]
    return Config.model_validate(document)

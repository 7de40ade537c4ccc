# SPDX-License-Identifier: Apache-2.0
"""The facts of config.json and generation_config.json that a pair depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from specbuild.checkpoint.folder import Folder
from specbuild.errors import CheckpointError

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
MODELOPT_CONFIG = "hf_quant_config.json"

_NOT_TEXT_KEYS = ("vision_config", "audio_config", "speech_config", "text_config", "thinker_config")
# What transformers takes when config.json is silent; its own classes differ only in these families.
_TIED_BY_DEFAULT = ("gemma", "cohere", "starcoder2", "smollm3", "ernie4_5", "falcon", "gpt2", "opt", "bloom")
_HEAD_DIM_BY_DEFAULT = {"gemma": 256, "gemma2": 256, "gemma3_text": 256, "qwen3": 128}
# Rope types whose max_position_embeddings already counts the stretched window.
_STRETCHED_ROPES = {"default", "llama3", "longrope", "su"}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A text-only causal language model."""

    architecture: str
    """transformers' class, such as LlamaForCausalLM."""
    model_type: str
    hidden_size: int
    intermediate_size: int | None
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    """Rows of the embedding and of the logits; may exceed the tokenizer's tokens (padding)."""
    context_length: int
    """Positions the model may be used with, rope scaling included."""
    sliding_window: int | None
    """Tokens that windowed layers attend to; None when every layer sees the whole context."""
    tie_word_embeddings: bool
    dtype: str | None
    """As config.json names it (bfloat16); None when it is silent."""
    bos_id: int | None
    eos_ids: tuple[int, ...]
    """End tokens of config.json and generation_config.json together, ascending."""
    pad_id: int | None
    num_experts: int | None
    """Experts per layer of a mixture; None for a dense model."""
    quantization: str | None
    """Method of a quantised checkpoint, such as awq or modelopt."""
    raw: Mapping[str, Any]
    """config.json as it is, for facts that only one consumer needs."""

    def kv_bytes_per_token(self, element_bytes: int = 2) -> int:
        """Bytes of keys and values that one token adds in all layers, for plain grouped-query attention."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * element_bytes


Size = Annotated[StrictInt, Field(ge=1, le=1 << 40)]


class _Document(BaseModel):
    """config.json where it is read; other keys belong to other readers."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    architectures: Annotated[list[StrictStr], Field(min_length=1)]
    model_type: Annotated[StrictStr, Field(min_length=1, max_length=100)]
    hidden_size: Size = Field(validation_alias=AliasChoices("hidden_size", "n_embd", "d_model"))
    intermediate_size: Size | None = None
    num_layers: Size = Field(validation_alias=AliasChoices("num_hidden_layers", "n_layer", "n_layers"))
    num_heads: Size = Field(validation_alias=AliasChoices("num_attention_heads", "n_head", "n_heads"))
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    vocab_size: Size
    max_position_embeddings: Size = Field(
        validation_alias=AliasChoices("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    )
    sliding_window: Annotated[StrictInt, Field(ge=0)] | None = None
    use_sliding_window: StrictBool = True
    tie_word_embeddings: StrictBool | None = None
    dtype: StrictStr | None = Field(default=None, validation_alias=AliasChoices("dtype", "torch_dtype"))
    bos_token_id: StrictInt | None = None
    eos_token_id: StrictInt | list[StrictInt] | None = None
    pad_token_id: StrictInt | None = None
    num_experts: Size | None = Field(
        default=None, validation_alias=AliasChoices("num_local_experts", "num_experts", "n_routed_experts")
    )
    rope: dict[str, Any] | None = Field(
        default=None, validation_alias=AliasChoices("rope_parameters", "rope_scaling")
    )
    quantization_config: dict[str, Any] | None = None


class _Generation(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    bos_token_id: StrictInt | None = None
    eos_token_id: StrictInt | list[StrictInt] | None = None
    pad_token_id: StrictInt | None = None


def read(folder: Folder) -> ModelConfig:
    """The facts of config.json. Raises CheckpointError listing every key that is missing or wrong."""
    raw = folder.json(CONFIG)
    if raw is None:
        raise CheckpointError(
            f"{folder.path} has no {CONFIG}",
            remedy="Name the folder of a Hugging Face checkpoint, or complete its download.",
            code="file-missing",
        )
    _refuse_other_kinds(folder, raw)
    document = _validate(_Document, raw, folder, CONFIG)
    generation = _validate(_Generation, folder.json(GENERATION_CONFIG) or {}, folder, GENERATION_CONFIG)
    return _facts(folder, raw, document, generation)


def _refuse_other_kinds(folder: Folder, raw: Mapping[str, Any]) -> None:
    """Raises CheckpointError for models that do not continue one text: their config has another shape."""
    architectures = raw.get("architectures")
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else None
    other = next((key for key in _NOT_TEXT_KEYS if isinstance(raw.get(key), dict)), None)
    if raw.get("is_encoder_decoder") is True:
        reason = "is an encoder-decoder"
    elif other is not None:
        reason = f"is multimodal or nested ({CONFIG} has {other})"
    elif name is not None and not name.endswith(("ForCausalLM", "LMHeadModel")):
        reason = "is no causal language model"
    else:
        return
    raise CheckpointError(
        f"{folder.path}: {name or 'the model'} {reason}",
        remedy="Use a text-only causal language model, such as the family's own text variant.",
        code="architecture-unsupported",
    )


Document = TypeVar("Document", bound=BaseModel)


def _validate(kind: type[Document], raw: Mapping[str, Any], folder: Folder, name: str) -> Document:
    try:
        return kind.model_validate(raw)
    except pydantic.ValidationError as error:
        details = [_explain(detail) for detail in error.errors(include_url=False, include_input=False)]
        raise _invalid(folder, name, "; ".join(dict.fromkeys(details))) from None


def _explain(detail: Mapping[str, Any]) -> str:
    key = str(detail["loc"][0])
    return f"{key} is missing" if detail["type"] == "missing" else f"{key}: {detail['msg'].lower()}"


def _facts(
    folder: Folder, raw: Mapping[str, Any], document: _Document, generation: _Generation
) -> ModelConfig:
    num_kv_heads = document.num_key_value_heads or document.num_heads
    if document.num_heads % num_kv_heads:
        raise _invalid(folder, CONFIG, f"{document.num_heads} heads cannot share {num_kv_heads} KV heads")
    return ModelConfig(
        architecture=document.architectures[0],
        model_type=document.model_type,
        hidden_size=document.hidden_size,
        intermediate_size=document.intermediate_size,
        num_layers=document.num_layers,
        num_heads=document.num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=_head_dim(folder, document),
        vocab_size=document.vocab_size,
        context_length=_context_length(document),
        sliding_window=(document.sliding_window or None) if document.use_sliding_window else None,
        tie_word_embeddings=_is_tied(document),
        dtype=document.dtype,
        bos_id=_first(generation.bos_token_id, document.bos_token_id),
        eos_ids=tuple(sorted({*_ids(document.eos_token_id), *_ids(generation.eos_token_id)})),
        pad_id=_first(generation.pad_token_id, document.pad_token_id),
        num_experts=document.num_experts,
        quantization=_quantization(folder, document),
        raw=MappingProxyType(dict(raw)),
    )


def _head_dim(folder: Folder, document: _Document) -> int:
    if head_dim := document.head_dim or _HEAD_DIM_BY_DEFAULT.get(document.model_type):
        return head_dim
    if document.hidden_size % document.num_heads:
        raise _invalid(folder, CONFIG, f"hidden_size {document.hidden_size} is no multiple of the heads")
    return document.hidden_size // document.num_heads


def _is_tied(document: _Document) -> bool:
    if document.tie_word_embeddings is None:
        return document.model_type.startswith(_TIED_BY_DEFAULT)
    return document.tie_word_embeddings


def _context_length(document: _Document) -> int:
    """max_position_embeddings, stretched where the rope type says so.

    The rule is vLLM's (``_get_and_verify_max_len``): linear, dynamic and yarn multiply, yarn starting
    from the original window; llama3 and longrope are counted already, and Gemma 3's too.
    """
    base, rope = document.max_position_embeddings, document.rope or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
    if kind in _STRETCHED_ROPES or document.model_type.startswith("gemma3"):
        return base
    if not isinstance(factor, int | float) or not 1 <= factor <= 1024:
        return base
    if kind == "yarn" and type(original) is int and original > 0:
        base = original
    return int(base * factor)


def _quantization(folder: Folder, document: _Document) -> str | None:
    if document.quantization_config is not None:
        return str(document.quantization_config.get("quant_method", "unknown"))[:40]
    return "modelopt" if folder.find(MODELOPT_CONFIG) is not None else None


def _ids(value: int | list[int] | None) -> list[int]:
    return [value] if isinstance(value, int) else value or []


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)


def _invalid(folder: Folder, name: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{folder.path / name}: {reason}",
        remedy="Download the file again; specbuild reads the format that save_pretrained writes.",
        code="file-invalid",
    )

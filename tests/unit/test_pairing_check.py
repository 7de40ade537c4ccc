# SPDX-License-Identifier: Apache-2.0
"""``specbuild check`` as its user sees it, and the page that explains its codes."""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import yaml
from rich.console import Console

from specbuild import cli, config, pairing
from specbuild.commands import check
from specbuild.pairing import codes
from support import checkpoints
from support.checkpoints import Recipe

ROOT = Path(__file__).parents[2]

REPORT_SCHEMA = {
    "type": "object",
    "required": ["ok", "target", "draft", "findings"],
    "additionalProperties": False,
    "properties": {
        "ok": {"type": "boolean"},
        "target": {"type": "object", "required": ["checkpoint", "parameters", "kv_bytes_per_token"]},
        "draft": {"type": "object", "required": ["checkpoint", "parameters", "kv_bytes_per_token"]},
        "findings": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["code", "severity", "subject", "reason", "remedy"],
                "additionalProperties": False,
                "properties": {
                    "code": {"enum": list(pairing.CODES)},
                    "severity": {"enum": ["error", "warning", "info"]},
                    "subject": {"enum": ["target", "draft", "pair", "settings"]},
                    "reason": {"type": "string", "minLength": 1},
                    "remedy": {"type": "string", "minLength": 1},
                },
            },
        },
    },
}


def written(root: Path, target: Recipe | None = None, draft: Recipe | None = None) -> Path:
    """The configuration file of a pair in ``root``."""
    folders = checkpoints.pair(root, target, draft)
    path = root / "pair.yaml"
    document = {
        "name": "tiny",
        "runtime": "torch",
        "target": {"checkpoint": str(folders[0])},
        "draft": {"checkpoint": str(folders[1])},
        "limits": {"max_input_len": 100, "max_seq_len": 200},
        "output": str(root / "out"),
    }
    path.write_text(yaml.safe_dump(document))
    return path


def rendered(path: Path, width: int) -> str:
    settings = config.load(path)
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False).print(
        check.render(pairing.inspect(settings), settings)
    )
    return stream.getvalue()


def test_good_pair_exits_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["check", "--config", str(written(tmp_path))]) == 0
    shown = capsys.readouterr().out
    assert "the pair can work" in shown
    assert "LlamaForCausalLM, 32 K parameters, float32" in shown
    assert "384 B KV per token" in shown


def test_warnings_exit_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, draft=Recipe(chat_template=None))
    assert cli.run(["check", "--config", str(path)]) == 0
    assert "1 warning\n" in capsys.readouterr().out


def test_error_exits_with_1_and_names_code_reason_and_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, draft=Recipe(swap=(10, 11)))
    assert cli.run(["check", "--config", str(path)]) == 1
    shown = capsys.readouterr()
    assert "1 error\n" in shown.out
    assert "token-text-differs" in shown.out
    assert "fix: Pair models" in shown.out
    assert "the pair cannot work" in shown.out
    assert "Traceback" not in shown.err


def test_both_models_are_examined_when_one_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, draft=Recipe(context=100))
    assert cli.run(["check", "-c", str(path), "--set", "target.checkpoint=./absent", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    jsonschema.validate(report, REPORT_SCHEMA)
    assert [(f["code"], f["subject"]) for f in report["findings"]] == [
        ("checkpoint-missing", "target"),
        ("context-too-short", "draft"),
    ]
    assert report["target"]["parameters"] is None
    assert report["draft"]["parameters"] == 6736


def test_json_is_one_document_with_the_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["check", "--config", str(written(tmp_path)), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    jsonschema.validate(report, REPORT_SCHEMA)
    assert report["ok"] is True
    assert report["target"] == {
        "checkpoint": str(tmp_path / "target"),
        "folder": str(tmp_path / "target"),
        "architecture": "LlamaForCausalLM",
        "parameters": 31968,
        "dtype": "float32",
        "quantization": None,
        "vocab_size": 64,
        "context_length": 256,
        "bytes": 127872,
        "kv_bytes_per_token": 384,
    }


def test_a_quantised_cache_takes_a_byte_per_number(tmp_path: Path) -> None:
    path = written(tmp_path)
    sizes = []
    for overrides in ([], ["runtime=llmapi"], ["runtime=llmapi", "kv_cache.dtype=fp8"]):
        settings = config.load(path, overrides)
        facts = check.document(pairing.inspect(settings), settings)
        sizes.append(facts["draft"]["kv_bytes_per_token"])
    assert sizes[0] == sizes[1] == 4 * sizes[2]


@pytest.mark.parametrize("width", [80, 200])
def test_report_fits_the_terminal_and_loses_no_word(tmp_path: Path, width: int) -> None:
    path = written(tmp_path, draft=Recipe(swap=(10, 11), chat_template=None, rows=72, context=100))
    shown = rendered(path, width)
    assert max(map(len, shown.splitlines())) <= width
    words = shown.split()
    for finding in pairing.inspect(config.load(path)).findings:
        for word in (finding.code, *finding.reason.split(), *finding.remedy.split()):
            assert word in words


def test_text_of_a_checkpoint_is_no_markup(tmp_path: Path) -> None:
    hostile = "[/bold][red]x"
    path = written(tmp_path, draft=Recipe(specials=("<s>", "</s>", "<|user|>", hostile)))
    assert hostile in rendered(path, 200)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (999_600, "1 MB"), (16_060_000_000, "16.1 GB"), (None, "?")],
)
def test_sizes_have_three_digits(number: int | None, text: str) -> None:
    assert check._size(number) == text


@pytest.mark.timing
def test_pair_with_4096_tokens_is_checked_in_a_second(tmp_path: Path) -> None:
    """Everything but the start of Python and its imports, on tokenizers of the demo's size."""
    path = written(tmp_path, Recipe(vocab=4096, hidden=64, layers=4), Recipe(vocab=4096))
    settings = config.load(path)
    start = time.perf_counter()
    assert pairing.inspect(settings).ok
    assert time.perf_counter() - start < 1.0


def test_check_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    program = (
        "import sys; from specbuild import cli; "
        f"code = cli.run(['check', '--config', {str(written(tmp_path))!r}]); "
        "sys.exit(code or len({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)


# --- docs/findings.md ----------------------------------------------------------------------------


def test_page_of_codes_is_current() -> None:
    """To renew it: python -c "from specbuild.pairing import codes; print(codes.markdown(), end='')"."""
    assert (ROOT / "docs" / "findings.md").read_text(encoding="utf-8") == codes.markdown()


def test_every_code_in_the_sources_is_documented_and_used() -> None:
    used = set()
    for path in (ROOT / "builder" / "specbuild").rglob("*.py"):
        if path.name != "codes.py":
            tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            used |= {n.value for n in tree if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    assert set(pairing.CODES) <= used

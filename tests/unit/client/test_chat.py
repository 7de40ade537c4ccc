# SPDX-License-Identifier: Apache-2.0
"""Chat templates: rendered as transformers renders them, from the tokenizer's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from specclient import ChatTemplate, InvalidRequest, SpecClient
from specclient.testing import FakeServer

CHATML = (
    "{{ bos_token }}{% for message in messages %}\n"
    "    {% if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}\n"
    "<|{{ message['role'] }}|>{% generation %}{{ message['content'] | trim }}{% endgeneration %}<|end|>\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}{{ {'q': 'ä<'} | tojson }}"
)
MESSAGES = [{"role": "system", "content": "Be kind. "}, {"role": "user", "content": "Hi <b> 你好"}]


def folder(path: Path, *, bos: bool = True, separate: bool = False, template: Any = CHATML) -> Path:
    config: dict[str, Any] = {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    if separate:
        (path / "chat_template.jinja").write_text(template, encoding="utf-8")
    elif template is not None:
        config["chat_template"] = template
    (path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}] if bos else []
    processor = {"type": "TemplateProcessing", "single": [*single, {"Sequence": {"id": "A", "type_id": 0}}]}
    (path / "tokenizer.json").write_text(
        json.dumps({"post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}, processor]}})
    )
    return path


@pytest.mark.parametrize("separate", [False, True])
def test_a_template_is_rendered_as_transformers_does(tmp_path: Path, separate: bool) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    ours = ChatTemplate.load(folder(tmp_path, bos=False, separate=separate)).render(MESSAGES)
    (theirs,), _ = render_jinja_template(
        [MESSAGES], chat_template=CHATML, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
    )
    assert ours == theirs and ours.startswith("<s>")


def test_the_begin_token_is_left_out_where_the_server_writes_it(tmp_path: Path) -> None:
    place = folder(tmp_path, bos=True)
    assert not ChatTemplate.load(place).render(MESSAGES).startswith("<s>")
    assert ChatTemplate.load(place, add_special_tokens=False).render(MESSAGES).startswith("<s>")
    (place / "tokenizer.json").unlink()
    assert not ChatTemplate.load(place / "tokenizer_config.json").render(MESSAGES).startswith("<s>")


def test_one_of_several_templates_is_the_default(tmp_path: Path) -> None:
    several = [{"name": "rag", "template": "rag"}, {"name": "default", "template": "plain"}]
    assert ChatTemplate.load(folder(tmp_path, template=several)).render(MESSAGES) == "plain"


def test_variables_reach_the_template() -> None:
    assert ChatTemplate("{{ enable_thinking }}").render(MESSAGES, enable_thinking=False) == "False"


@pytest.mark.parametrize(
    ("source", "messages", "match"),
    [
        (CHATML, [{"role": "tool", "content": "x"}], "no tools here"),
        ("{{ messages[0].content + 1 }}", MESSAGES, "cannot be applied"),
        ("{{ ''.__class__.__mro__ }}", MESSAGES, "cannot be applied"),
        ("{% for %}", MESSAGES, "cannot be applied"),
        (CHATML, [], "no messages"),
    ],
)
def test_what_a_template_refuses_is_an_invalid_request(
    source: str, messages: list[dict[str, str]], match: str
) -> None:
    with pytest.raises(InvalidRequest, match=match):
        ChatTemplate(source, {"bos_token": "<s>"}).render(messages)


def test_a_folder_without_a_template_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no chat template"):
        ChatTemplate.load(folder(tmp_path, template=None))
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(InvalidRequest, match=r"tokenizer_config\.json"):
        ChatTemplate.load(tmp_path)


def test_a_client_takes_messages_with_a_template_only(tmp_path: Path) -> None:
    with FakeServer() as server:
        with SpecClient(server.url, chat_template=folder(tmp_path)) as client:
            client.generate(MESSAGES, max_tokens=1)
        assert "<|user|>Hi <b> 你好<|end|>" in server.requests[0].prompt
        with SpecClient(server.url) as client, pytest.raises(InvalidRequest, match="chat template"):
            client.generate(MESSAGES)

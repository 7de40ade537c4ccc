# SPDX-License-Identifier: Apache-2.0
"""Images, compose file and monitoring, without a Docker engine.

``data/compose-spec.json`` is schema/compose-spec.json of compose-spec/compose-spec on GitHub (Apache-2.0), as
the npm package dclint 3.1.0 ships it.
"""

from __future__ import annotations

import fnmatch
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml

from specbuild.config import TensorrtLlm
from support.monitoring import DOCKER, alerts, dashboard, queries
from support.promql import selectors
from support.triton import model_module

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parent / "data"
DOCKERFILES = ("Dockerfile", "Dockerfile.cpu")


@dataclass(frozen=True)
class Instruction:
    keyword: str
    text: str


def instructions(name: str) -> list[Instruction]:
    """The instructions of a Dockerfile, each on one line."""
    lines = (DOCKER / name).read_text(encoding="utf-8").splitlines()
    joined = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    words = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [Instruction(keyword.upper(), " ".join(text.split())) for keyword, text in words]


def only(name: str, keyword: str) -> str:
    [found] = [instruction.text for instruction in instructions(name) if instruction.keyword == keyword]
    return found


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_has_nothing_to_say(name: str) -> None:
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [program, "--no-color", "--failure-threshold", "style", DOCKER / name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_gpu_image_is_the_one_that_configurations_name() -> None:
    assert only("Dockerfile", "ARG") == f"BASE={TensorrtLlm().image}"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_every_stage_starts_from_the_pinned_image(name: str) -> None:
    stages = [item.text.split()[0] for item in instructions(name) if item.keyword == "FROM"]
    assert set(stages) == {"${BASE}"}
    tag = only(name, "ARG").partition("=")[2].rpartition(":")[2]
    assert tag != "latest"
    assert any(character.isdigit() for character in tag)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_server_is_no_root_and_gets_its_signals(name: str) -> None:
    assert only(name, "USER") == "1000"
    assert json.loads(only(name, "ENTRYPOINT")) == ["specbuild", "serve"]
    assert json.loads(only(name, "CMD"))[:2] == ["--config", "pair.yaml"]
    assert only(name, "STOPSIGNAL") == "SIGTERM"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_health_check_is_an_inference(name: str) -> None:
    command = json.loads(only(name, "HEALTHCHECK").partition("CMD ")[2])
    assert command[:2] == ["python3", "-c"]
    compile(command[2], name, "exec")
    done = subprocess.run(
        [sys.executable, *command[1:]], capture_output=True, text=True, check=False, timeout=60
    )
    # Nothing listens there, or something that is no Triton; without the module it would say so.
    assert done.returncode != 0
    assert "ImportError" not in done.stderr
    assert "ModuleNotFoundError" not in done.stderr


def copied(name: str) -> Iterator[str]:
    """What a Dockerfile takes from the build context."""
    for instruction in instructions(name):
        if instruction.keyword == "COPY" and not instruction.text.startswith("--from"):
            yield from instruction.text.split()[:-1]
        for word in instruction.text.split():
            if word.startswith("--mount=type=bind,source="):
                yield word.removeprefix("--mount=type=bind,source=").partition(",")[0]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_copied_exists_and_is_let_through(name: str) -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    sources = set(copied(name))
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_everything_that_the_wheel_holds_is_copied(name: str) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    needed = {"pyproject.toml", "README.md", "LICENSE", "builder", "client"}
    needed |= {folder for folder in ("model_repository", "configs") if f'"{folder}" = ' in text}
    assert needed <= set(copied(name))


def test_the_compose_file_is_valid() -> None:
    schema = json.loads((DATA / "compose-spec.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator(schema).validate(compose())


def test_nothing_is_published_beyond_this_machine() -> None:
    ports = [port for service in compose()["services"].values() for port in service["ports"]]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_services_can_be_told_apart_and_pinned() -> None:
    for name, service in compose()["services"].items():
        if "build" in service:
            assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        else:
            assert service["image"].rpartition(":")[2].lstrip("v")[0].isdigit(), name
        assert "no-new-privileges:true" in service["security_opt"]


def test_there_is_no_default_password() -> None:
    password = compose()["services"]["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"]
    assert password.startswith("${GRAFANA_ADMIN_PASSWORD:?")


def test_running_requests_may_finish_when_the_container_stops() -> None:
    from specbuild.server.launch import KILL_GRACE_S

    for name in ("server", "server-cpu"):
        grace = compose()["services"][name]["stop_grace_period"]
        assert int(grace.removesuffix("s")) > KILL_GRACE_S


def test_mounted_files_exist_and_find_each_other() -> None:
    services = compose()["services"]
    for service in ("prometheus", "grafana"):
        for volume in services[service]["volumes"]:
            source = volume.partition(":")[0]
            assert (DOCKER / source).is_dir() if source.startswith(".") else source in compose()["volumes"]
    scrape = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    [target] = scrape["scrape_configs"][0]["static_configs"][0]["targets"]
    host, _, port = target.partition(":")
    for name in ("server", "server-cpu"):
        assert host in services[name]["networks"]["default"]["aliases"]
        assert f"127.0.0.1:{port}:{port}" in services[name]["ports"]
    for rules in scrape["rule_files"]:
        assert (DOCKER / "prometheus" / rules).is_file()


def test_the_dashboard_is_provisioned_with_its_data_source() -> None:
    provisioning = DOCKER / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    [provider] = yaml.safe_load((provisioning / "dashboards" / "specbuild.yaml").read_text())["providers"]
    mounted = dict(volume.split(":")[:2] for volume in compose()["services"]["grafana"]["volumes"])
    assert mounted["./grafana/dashboards"] == provider["options"]["path"]
    assert source["url"] == "http://prometheus:9090"
    used = {panel["datasource"]["uid"] for panel in dashboard()["panels"] if "datasource" in panel}
    assert used == {source["uid"]}


class Recorder:
    """pb_utils.MetricFamily: remembers names and labels."""

    COUNTER, GAUGE = "counter", "gauge"
    labels: dict[str, dict[str, set[str]]]

    def __init__(self, name: str, **_: Any) -> None:
        self.name = name
        Recorder.labels.setdefault(name, {})

    def Metric(self, labels: dict[str, str]) -> None:
        for label, value in labels.items():
            Recorder.labels[self.name].setdefault(label, set()).add(value)


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, set[str]]]:
    """Metric -> label -> values, as the model ``speculative`` and NVIDIA's backend export them."""
    monkeypatch.setattr(Recorder, "labels", {}, raising=False)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", SimpleNamespace(MetricFamily=Recorder))
    meter = model_module("speculative", "meter")
    meter.TritonMeter("speculative", 5)
    theirs = json.loads((DATA / "trtllm_metrics.json").read_text())["metrics"]
    known = {name: {key: set(values) for key, values in labels.items()} for name, labels in theirs.items()}
    return Recorder.labels | known


def test_every_query_is_promql_about_metrics_that_exist(exported: dict[str, dict[str, set[str]]]) -> None:
    """Triton's own metrics are compared with a running server in the integration tests."""
    for query in queries():
        for name, labels in selectors(query):
            if name.startswith("nv_inference_"):
                continue
            assert name in exported, query
            for label, value in labels.items():
                assert value in exported[name][label], query


def test_the_dashboard_shows_what_matters() -> None:
    titles = " ".join(panel["title"].lower() for panel in dashboard()["panels"])
    for subject in (
        "latency",
        "queue",
        "kv cache",
        "acceptance rate",
        "acceptance length",
        "rounds",
        "fallbacks",
    ):
        assert subject in titles
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])


def test_two_alerts_tell_what_to_do() -> None:
    assert [rule["alert"] for rule in alerts()] == ["AcceptanceBelowBreakEven", "SpeculationDraftsNothing"]
    for rule in alerts():
        assert rule["annotations"]["summary"]
        assert len(rule["annotations"]["description"]) > 80

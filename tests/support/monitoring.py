# SPDX-License-Identifier: Apache-2.0
"""The dashboard and the alerts of docker/, and the metrics that a server exports."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import yaml

DOCKER = Path(__file__).parents[2] / "docker"
_SAMPLE = re.compile(r"^(?P<name>\w+)\{(?P<labels>.*)\} (?P<value>\S+)$")


def dashboard() -> dict[str, Any]:
    path = DOCKER / "grafana" / "dashboards" / "specbuild.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def alerts() -> list[dict[str, Any]]:
    document = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def queries() -> list[str]:
    """Every expression of the dashboard and the alerts."""
    drawn = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    return drawn + [rule["expr"] for rule in alerts()]


def samples(address: str) -> list[tuple[str, dict[str, str], float]]:
    """Name, labels and value of everything that the metrics endpoint at ``host:port`` shows."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        matches = map(_SAMPLE.match, page.read().decode().splitlines())
    return [
        (match["name"], dict(re.findall(r'(\w+)="([^"]*)"', match["labels"])), float(match["value"]))
        for match in matches
        if match
    ]

# SPDX-License-Identifier: Apache-2.0
"""The report's page in a real browser: at the width of a phone and of a desktop, in the dark and on paper."""

from __future__ import annotations

import copy
import json
import struct
from pathlib import Path

import pytest

from specclient.bench import page as report_page
from specclient.bench import saved
from support import browser

EXAMPLE = Path(__file__).parents[1] / "support" / "bench_report.json"

OVERFLOWING = """
[...document.querySelectorAll('body *')].filter(element =>
    !element.closest('.scroll') && element.getBoundingClientRect().right > innerWidth + 0.5
).map(element => element.outerHTML.slice(0, 80))
"""
CLIPPED = """
[...document.querySelectorAll('svg')].flatMap(svg => {
    const box = svg.getBoundingClientRect();
    return [...svg.querySelectorAll('text')].filter(text => {
        const inner = text.getBoundingClientRect();
        return inner.left < box.left - 1 || inner.right > box.right + 1
            || inner.top < box.top - 1 || inner.bottom > box.bottom + 1;
    }).map(text => svg.closest('section').id + ': ' + text.textContent);
})
"""
OVERLAPPING = """
[...document.querySelectorAll('#speedup svg, #acceptance svg')].flatMap(svg => {
    const boxes = [...svg.querySelectorAll('text')].map(
        text => [text.textContent, text.getBoundingClientRect()]);
    return boxes.flatMap(([name, a], i) => boxes.slice(i + 1).filter(([, b]) =>
        a.left < b.right && b.left < a.right && a.top + 2 < b.bottom - 2 && b.top + 2 < a.bottom - 2
    ).map(([other]) => name + ' on ' + other));
})
"""
SMALLEST = """
Math.min(...[...document.querySelectorAll('svg text')].map(text => {
    const svg = text.ownerSVGElement;
    return parseFloat(getComputedStyle(text).fontSize) * svg.getBoundingClientRect().width
        / svg.viewBox.baseVal.width;
}))
"""
CONTRASTS = """
(() => {
    const light = text => {
        const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map(value => {
            const share = value / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const against = (first, second) => {
        const [low, high] = [light(first), light(second)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    const back = getComputedStyle(document.body).backgroundColor;
    const least = (selector, property) => Math.min(...[...document.querySelectorAll(selector)].map(
        element => against(getComputedStyle(element)[property], back)));
    return {text: least('p, th, td, dd, dt, caption, h1', 'color'), labels: least('svg text', 'fill'),
            lines: least('.line', 'stroke'), bars: least('.bar', 'fill')};
})()
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "compare.html"
    path.write_text(report_page.html(saved.read(EXAMPLE)), encoding="utf-8")
    return path


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    return int(width), int(height)


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
async def test_the_page_fits_and_can_be_read_at_any_width(file: Path, tmp_path: Path, width: int) -> None:
    async with browser.page(tmp_path / "profile") as page:
        await page.open(file, width=width)
        assert await page.value("document.documentElement.scrollWidth") <= width
        assert await page.value(OVERFLOWING) == []
        assert await page.value(CLIPPED) == []
        assert await page.value(SMALLEST) >= 9
        picture = await page.screenshot()
        assert size(picture)[0] in range(width - 20, width + 1) and size(picture)[1] > 2000
        assert page.complaints == []


@pytest.mark.parametrize("dark", [False, True])
async def test_texts_and_lines_stand_out_in_light_and_dark(tmp_path: Path, dark: bool) -> None:
    report = json.loads(EXAMPLE.read_text())
    pair, line = report["runs"][:2], report["timelines"][0]
    report["runs"] = [copy.deepcopy(run) | {"arm": f"server {n}"} for n in range(6) for run in pair[1:]]
    report["timelines"] = [copy.deepcopy(line) | {"arm": f"server {n}"} for n in range(6)]
    file = tmp_path / "arms.html"
    file.write_text(report_page.html(report), encoding="utf-8")
    async with browser.page(tmp_path / "profile") as page:
        await page.open(file, width=1280, dark=dark)
        contrasts = await page.value(CONTRASTS)
        # WCAG 2.2: 4.5 for text, 3 for graphics.
        assert min(contrasts["text"], contrasts["labels"]) >= 4.5 and min(contrasts.values()) >= 3
        assert page.complaints == []


async def test_on_paper_every_table_is_open_and_nothing_is_cut(file: Path, tmp_path: Path) -> None:
    async with browser.page(tmp_path / "profile") as page:
        await page.open(file, width=1280)
        document = await page.pdf()
        assert document.startswith(b"%PDF")
        await page.command("Emulation.setEmulatedMedia", media="print")
        # A4 less its margins, in CSS pixels.
        paper = {"width": 688, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        await page.command("Emulation.setDeviceMetricsOverride", **paper)
        assert await page.value("document.documentElement.scrollWidth") <= 688
        hidden = "[...document.querySelectorAll('table')].filter(table => !table.checkVisibility()).length"
        assert await page.value(hidden) == 0
        assert page.complaints == []


async def test_a_broken_page_is_noticed(tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text('<body><img src="http://127.0.0.1:9/x.png"><script>throw Error("no")</script>')
    async with browser.page(tmp_path / "profile") as page:
        await page.open(bad, width=360)
        assert any("127.0.0.1:9" in text for text in page.complaints)
        assert any("no" in text for text in page.complaints)


async def test_names_of_any_length_stay_inside(tmp_path: Path) -> None:
    report = json.loads(EXAMPLE.read_text())
    for run in report["runs"]:
        run["arm"] = run["arm"] + " of the server in the other building"
    report["workload"]["name"] = "w" * 200
    file = tmp_path / "long.html"
    file.write_text(report_page.html(report), encoding="utf-8")
    async with browser.page(tmp_path / "profile") as page:
        await page.open(file, width=320)
        assert await page.value(OVERFLOWING) == [] and await page.value(CLIPPED) == []


async def test_a_long_sweep_stays_readable(tmp_path: Path) -> None:
    report = json.loads(EXAMPLE.read_text())
    pair, comparison = report["runs"][:2], report["comparisons"][0]
    report["runs"], report["comparisons"] = [], []
    for users in range(1, 41):
        load = {"kind": "concurrency", "value": float(users), "arrival": None}
        report["runs"] += [copy.deepcopy(run) | {"load": load} for run in pair]
        report["comparisons"].append(copy.deepcopy(comparison) | {"load": load})
    file = tmp_path / "sweep.html"
    file.write_text(report_page.html(report), encoding="utf-8")
    async with browser.page(tmp_path / "profile") as page:
        await page.open(file, width=360)
        assert await page.value(OVERLAPPING) == [] and await page.value(CLIPPED) == []

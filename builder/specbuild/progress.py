# SPDX-License-Identifier: Apache-2.0
"""Progress on stderr: a spinner with elapsed time on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.text import Text

console = Console(stderr=True, highlight=False)

Report = Callable[[str], None]


@contextlib.contextmanager
def step(title: str) -> Iterator[Report]:
    """Show ``title`` while the block runs and how long it took; the yielded function adds a detail.

    The last detail stays on the finished line: ``✓ engines (cached) 0.1 s``.
    """
    start = time.monotonic()
    detail = ""

    def line(mark: str) -> Text:
        return Text(f"{mark} {title}") + Text(f"  {detail}" if detail else "", style="dim")

    def finish(mark: str, style: str) -> None:
        text = line(mark)
        text.stylize(style, 0, 1)
        console.print(text + Text(f"  {time.monotonic() - start:.1f} s", style="dim"), soft_wrap=True)

    if not console.is_terminal:
        console.print(Text(f"… {title}"), soft_wrap=True)
    with console.status(line("")) if console.is_terminal else contextlib.nullcontext() as status:

        def report(text: str) -> None:
            nonlocal detail
            detail = text
            if status is not None:
                status.update(line(""))

        try:
            yield report
        except BaseException:
            outcome = ("✗", "red")
            raise
        else:
            outcome = ("✓", "green")
        finally:
            if status is not None:
                status.stop()
            finish(*outcome)

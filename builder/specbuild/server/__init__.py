# SPDX-License-Identifier: Apache-2.0
"""tritonserver as a supervised child: proven by an inference, and stopped with nothing left behind."""

from specbuild.server.installation import Installation, find
from specbuild.server.launch import argv, preview
from specbuild.server.running import RunningServer, running

__all__ = ["Installation", "RunningServer", "argv", "find", "preview", "running"]

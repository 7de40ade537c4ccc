# SPDX-License-Identifier: Apache-2.0
"""An OpenAI-compatible front for a served deployment: Starlette over ``AsyncSpecClient``.

It runs beside the server (``specbuild serve --openai-port``), where the deployment's tokenizer is: the chat
template, the strings of tokens and the length of a prompt come from there.
"""

from specbuild.openai_front.deployment import Deployment
from specbuild.openai_front.running import RunningFront, bind, running

__all__ = ["Deployment", "RunningFront", "bind", "running"]

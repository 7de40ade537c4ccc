# SPDX-License-Identifier: Apache-2.0
"""Every error that specbuild raises on purpose, each with what to do about it.

    SpecbuildError              exit 1
    ├── ConfigError             exit 2   the YAML file or a command-line setting
    ├── CheckpointError         exit 1   a model folder is missing, damaged or refused
    ├── PairError               exit 1   the draft cannot serve the target
    ├── BuildError              exit 1   an engine build failed or is incomplete
    ├── RepositoryError         exit 1   a Triton model repository is wrong
    ├── ServerError             exit 1   tritonserver did not start, answer or stop
    ├── EngineError             exit 1   the torch runtime cannot take or finish a request
    └── MissingDependencyError  exit 1   an optional package or program is not installed

Exit codes of the command line: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted.
Only ``specbuild.cli`` prints errors and exits.
"""

from __future__ import annotations


class SpecbuildError(Exception):
    """A failure with a remedy. ``message`` says what is wrong, ``remedy`` what the user can do."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class ConfigError(SpecbuildError):
    """A configuration file, a ``--set`` override or an argument is not valid."""

    exit_code = 2


class CheckpointError(SpecbuildError):
    """A Hugging Face checkpoint is missing, damaged, or of a kind that is refused.

    ``code`` names the kind of damage, as in ``specbuild.pairing.codes``.
    """

    def __init__(self, message: str, *, remedy: str, code: str) -> None:
        super().__init__(message, remedy=remedy)
        self.code = code


class PairError(SpecbuildError):
    """The draft cannot speculate for the target."""


class BuildError(SpecbuildError):
    """An engine could not be built, or what was built is incomplete."""


class RepositoryError(SpecbuildError):
    """A Triton model repository cannot be written or does not hold what it must."""


class ServerError(SpecbuildError):
    """tritonserver did not start, does not answer, or did not stop."""


class EngineError(SpecbuildError):
    """The torch runtime refuses or cannot finish a request."""


class MissingDependencyError(SpecbuildError):
    """An optional package or an external program is not installed."""

"""The exceptions that upcycle raises, each with the exit code its command ends with.

    UpcycleError           1   anything of ours that has no code of its own
    ├── ConfigError        2   an unknown option or key, or a value out of its range
    ├── DataError          3   images, folders, manifests or splits that cannot be used
    │   └── DecodeError    3   one image that cannot be read; the run lists it and goes on
    ├── WeightsError       4   an unknown architecture, or weights that cannot be had or do not fit
    ├── RunError           5   a run directory that exists, is missing, is not one, or lacks a file
    ├── DivergenceError    6   the loss stopped being finite
    ├── StorageError       7   a file may not be written
    │   └── NoRoomError    7   the disk is full
    ├── ExportError        8   a model that cannot be exported, or predicts otherwise once it is
    └── LostError          9   another process of a training has gone; the run can be resumed

Ctrl-C ends a command with 130, SIGTERM with 143 and SIGHUP with 129, as shells expect. A message is one line: what is
wrong, where, and what to do about it; `shown` keeps names from elsewhere on it.
"""

import re
from typing import Literal

FileProblem = Literal["excluded", "empty", "too-large", "truncated", "misplaced", "unsupported", "limit", "unreadable"]
"""Why a file is not used. `excluded`: a list says so; `misplaced`: not in a class folder, or its path cannot be opened;
`limit`: decoding it met a limit of time or memory, which may have been the machine's."""


class UpcycleError(Exception):
    """Base of every error a user can meet; `exit_code` is what the command returns."""

    exit_code = 1


class ConfigError(UpcycleError):
    """An option or a configuration key is unknown, or its value is out of range."""

    exit_code = 2


class DataError(UpcycleError):
    """The images, folders or manifest cannot be used as they are."""

    exit_code = 3


class DecodeError(DataError):
    """One image cannot be decoded; callers quarantine the file, by its `kind`, and go on."""

    def __init__(self, message: str, kind: FileProblem = "unreadable") -> None:
        super().__init__(message)
        self.kind: FileProblem = kind


class WeightsError(UpcycleError):
    """The architecture is unknown, or its weights cannot be had or do not fit it."""

    exit_code = 4


class RunError(UpcycleError):
    """A run directory is in the way, missing, or lacks a file that is needed."""

    exit_code = 5


class DivergenceError(UpcycleError):
    """The training loss is not finite; the message names the steps it happened between."""

    exit_code = 6


class StorageError(UpcycleError):
    """A file could not be written: the disk is full or the folder is read-only."""

    exit_code = 7


class NoRoomError(StorageError):
    """A file could not be written because there is no room for it."""


class ExportError(UpcycleError):
    """A model cannot be exported, or what was exported does not predict the same, or is not what was exported."""

    exit_code = 8


class LostError(UpcycleError):
    """Another process of this training does not answer; the run can be resumed."""

    exit_code = 9


HUNG_UP = 129
INTERRUPTED = 130
TERMINATED = 143


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a job as Ctrl-C does, with an exit code of its own."""


class HungUp(KeyboardInterrupt):
    """SIGHUP, as when the terminal is closed: ends a job as Ctrl-C does, with an exit code of its own."""


_SECRET = re.compile(r"(?<=://)[^/@\s]*@|(?<=\S)\?\S*", re.DOTALL)
"""Of an address: a password, and what signs it."""


def shown(text: object) -> str:
    """`text` on one line: control characters and undecodable bytes as escapes, addresses without their secrets."""
    readable = str(text).encode("utf-8", "backslashreplace").decode()
    readable = _SECRET.sub("", readable) if "://" in readable else readable
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in readable)


def counted(number: int, noun: str, several: str | None = None) -> str:
    """A number with its noun: 1 epoch, 1,200 epochs; `several` is the plural that is not made with an s."""
    return f"{number:,} {noun if number == 1 else several or f'{noun}s'}"

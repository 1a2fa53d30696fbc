"""Functions of units for the tests of jobs, where worker processes find them."""

import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp import HookedTransformer

UNLUCKY = 13


def noted(log: str, part: list[int]) -> None:
    """One line for every unit that is computed, whichever process computes it."""
    with Path(log).open("a") as file:
        file.write(f"{part[0]}\n")


def square_roots(part: list[int], log: str = os.devnull) -> dict[str, Any]:
    noted(log, part)
    return {"roots": torch.tensor(part, dtype=torch.float64).sqrt(), "first": part[0]}


def cubes(part: list[int], log: str = os.devnull) -> dict[str, Any]:
    noted(log, part)
    return {"roots": torch.tensor(part, dtype=torch.float64) ** 3}


def kills_its_worker(part: list[int], log: str, once: str | None = None) -> dict[str, Any]:
    noted(log, part)
    if UNLUCKY in part and (once is None or not Path(once).exists()):
        if once is not None:
            Path(once).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square_roots(part)


def is_interrupted(part: list[int], log: str, once: str) -> dict[str, Any]:
    noted(log, part)
    if UNLUCKY in part and not Path(once).exists():
        Path(once).touch()
        raise KeyboardInterrupt
    return square_roots(part)


def fails(part: list[int], log: str, times: str) -> dict[str, Any]:
    """Fails on one unit as often as the file `times` has characters left."""
    noted(log, part)
    left = Path(times).read_text()
    if UNLUCKY in part and left:
        Path(times).write_text(left[1:])
        raise ValueError(f"{UNLUCKY} is unlucky")
    return square_roots(part)


def grows(part: list[int]) -> dict[str, Any]:
    return {"large": torch.zeros(10_000 if UNLUCKY in part else 10)}


def returns_an_object(part: list[int]) -> dict[str, Any]:
    return {"what": object()}


def logits(model: HookedTransformer, part: list[Tensor]) -> dict[str, Any]:
    return {"logits": torch.cat([model(ids)[:, -1] for ids in part]), "threads": torch.get_num_threads()}

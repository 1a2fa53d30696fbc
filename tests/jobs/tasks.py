"""Functions of units for the tests of jobs, where worker processes find them."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
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


def goes_elsewhere(part: list[int]) -> dict[str, Any]:
    os.chdir("/")
    return square_roots(part)


def returns_an_object(part: list[int]) -> dict[str, Any]:
    return {"what": object()}


def logits(model: HookedTransformer, part: list[Tensor]) -> dict[str, Any]:
    return {"logits": torch.cat([model(ids)[:, -1] for ids in part]), "threads": torch.get_num_threads()}


def differs(part: list[int], what: str) -> dict[str, Any]:
    """Something else of the rows from `UNLUCKY` on."""
    late = part[0] > UNLUCKY
    if what == "dtype":
        return {"x": torch.tensor(part, dtype=torch.float16 if late else torch.int64)}
    if what == "kind":
        return {"x": 3.0 if late else torch.tensor(part)}
    if what == "shape":
        return {"x": torch.zeros(len(part), 1 + late)}
    return {"y" if late else "x": torch.tensor(part)}


def arrays(part: list[int]) -> dict[str, Any]:
    """Arrays and tensors whose memory is not laid out as a file has it, and numbers of numpy."""
    numbers = np.array(part)
    read_only = numbers.copy()
    read_only.flags.writeable = False
    return {
        "backwards": numbers[::-1],
        "of another machine": numbers.astype(">f4"),
        "read only": read_only,
        "negated": torch.imag(torch.complex(torch.zeros(len(part)), torch.tensor(part).float()).conj()),
        "transposed": torch.tensor([part, part]).T,
        "number": np.float32(0.5),
        "count": np.int64(3),
    }


def returns(part: list[int], what: str) -> dict[str, Any]:
    """What no file can hold as it is."""
    return {
        "key": {"x": [{1: "one"}]},
        "object": {"x": np.array([object()])},
        "sparse": {"x": torch.eye(2).to_sparse()},
        "no value": {"x": torch.zeros(2, device="meta")},
        "reserved": {"__metadata__": torch.zeros(2)},
        "half a character": {"\ud800": torch.zeros(2)},
    }[what]


def product(part: list[int]) -> dict[str, Any]:
    """What autocast and a default dtype would change."""
    numbers = torch.tensor([[float(row) for row in part]])
    return {"x": (numbers / 3).T @ torch.ones(1, 2)}

"""A driver on a Ray cluster, which writes what it finds as JSON; Ray itself prints. Run by `test_ray.py`."""

import importlib
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ray  # pyright: ignore[reportMissingImports]
import tasks
import torch

from interp import HookedTransformer, JobError, jobs
from interp.jobs import JobFolder


def error_of(ask: Callable[[], Any]) -> str:
    """The message of the error that is raised."""
    try:
        ask()
    except JobError as error:
        return str(error)
    return "no error"


def main(base: Path) -> None:
    """Write what came of the jobs to "found.json". Some of their folders are relative to another than the cluster's."""
    rows, log = list(range(20)), str(base / "log")
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    here = base / "here"
    here.mkdir()
    os.chdir(here)
    engine = jobs.ray(num_cpus=1, retries=1)

    def run(fn: Callable[..., Any], folder: str, **options: Any) -> Any:
        return jobs.map(fn, options.pop("rows", rows), unit=5, folder=folder, workers=engine, progress=False, **options)

    found: dict[str, Any] = {}
    once = partial(tasks.kills_its_worker, log=log, once=str(base / "once"))
    found["roots"] = run(once, "killed once")["roots"].tolist()
    found["tries"] = Path(log).read_text().split()
    found["dies"] = error_of(lambda: run(partial(tasks.kills_its_worker, log=log), "killed"))
    found["left"] = JobFolder.at("killed").status().missing

    sys.path.append(str(base))
    (base / "unknown.py").write_text("def square_roots(part):\n    return {}\n")
    found["unknown"] = error_of(lambda: run(importlib.import_module("unknown").square_roots, "unknown"))

    fields = {"n_layers": 2, "d_model": 24, "n_ctx": 8, "d_vocab": 11, "n_heads": 4, "d_head": 6, "d_mlp": 10}
    model = HookedTransformer(fields | {"seed": 0})
    prompts = [torch.tensor([[i % 11, 3, 5]]) for i in rows]
    found["logits"] = run(tasks.logits, "model", model=model, rows=prompts)["logits"].tolist()
    with torch.no_grad():
        found["want"] = torch.cat([model(ids)[:, -1] for ids in prompts]).tolist()
    found["folders"] = sorted(path.name for path in here.iterdir())
    (base / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

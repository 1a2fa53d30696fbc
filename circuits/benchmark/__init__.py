"""Benchmark sets: hidden circuits of the gallery as questions for circuit discovery whose answers are known.

A task is a model, pairs of prompts and the true edges. `make_task` makes one in memory, from a circuit, a size (what
it is hidden in) and a softness (whether gradients flow). `make` writes a set of them as plain files, on which others
can score their methods without this package, and `read_task` reads one back. `prompt_pairs` draws the prompts.

    make("hidden", circuits=["ioi", "dyck1"], sizes=["small", "large"])
    task = read_task("hidden/ioi-large-hard")
    scores = edge_scores(task.model, task.corrupted, task.clean, task.pairs.metric)
    auroc(scores, task.edges)
"""

from circuits.benchmark.files import CIRCUITS, make, read_task
from circuits.benchmark.prompts import prompt_pairs
from circuits.benchmark.sizes import SIZES, SOFTNESS
from circuits.benchmark.task import Task, make_task

__all__ = ["CIRCUITS", "SIZES", "SOFTNESS", "Task", "make", "make_task", "prompt_pairs", "read_task"]

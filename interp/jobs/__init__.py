"""Long work in units: over a thousand prompts, over millions of tokens, on one machine or on many.

A job is a folder. `job.json` says what is computed, down to the weights' hash; every unit that is done has a file of
its own. Units are cut by the data and the unit's size, never by the number of workers, and an *engine* only decides who
computes which: this process, several of this machine, a Ray cluster, or an array of machines that share the folder. So
the same call goes on after an interruption, a worker that dies loses the unit it was on, and one worker and fifty give
the same bits (same software and kind of device; otherwise up to rounding). For that, `torch.autocast` and a default
dtype around the call do not reach its units: a model runs in its own dtype.

`patching.sweep_dataset` and the like are jobs; `map` makes one of any function. Scripts that use several workers need
`if __name__ == "__main__":`.
"""

from interp.jobs.engines import part, ray
from interp.jobs.folder import JobFolder, Result, Status
from interp.jobs.mapping import map, put_together
from interp.jobs.models import AnyModel, ModelRef
from interp.jobs.running import JobOptions, check_options, run
from interp.jobs.work import Engine, ModelWork, Work, as_anywhere

__all__ = [
    "AnyModel",
    "Engine",
    "JobFolder",
    "JobOptions",
    "ModelRef",
    "ModelWork",
    "Result",
    "Status",
    "Work",
    "as_anywhere",
    "check_options",
    "map",
    "part",
    "put_together",
    "ray",
    "run",
]

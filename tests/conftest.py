"""What all tests share: the grid as a fixture, one real model, which tests a session takes, and in which order.

The whole suite runs on worker processes, one a core; tests that are named on the command line run in one process, which
starts sooner (`-n 2` to have it otherwise). A run with jaxtyping's import hook (`--jaxtyping-packages`) checks shapes:
it takes few architectures of the grid, few examples, few cases of a test, and no test of a browser or the real model.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import no_type_check

import jaxtyping
import pytest
import torch
from grid import DEVICE, GRID, SEED, USUAL_SEED, Run, run_of
from hypothesis import HealthCheck, settings
from sessions import dealt, keep, shows_shapes, some_cases

from interp import CheckpointError, EncoderDecoderConfig, HookedTransformer, TransformerConfig
from interp.checkpoints import fetch

patient = [HealthCheck.too_slow, HealthCheck.data_too_large]
usual = SEED == USUAL_SEED  # then the examples are the same in every run, too
settings.register_profile(
    "interp", deadline=None, max_examples=20, suppress_health_check=patient, derandomize=usual, database=None
)
settings.register_profile("shapes", settings.get_profile("interp"), max_examples=3)
settings.load_profile("interp")
torch.set_num_threads(1)

# The configs check their fields themselves and answer with ConfigError: the type checker must not answer first.
no_type_check(TransformerConfig.__init__)
no_type_check(EncoderDecoderConfig.__init__)


# ---------------------------------------------------------------------------------------------- sessions


def shapes_are_checked(config: pytest.Config) -> bool:
    return bool(config.getoption("jaxtyping_packages"))


def pytest_configure(config: pytest.Config) -> None:
    if shapes_are_checked(config):
        settings.load_profile("shapes")
    try:
        torch.ones(1, device=DEVICE).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise pytest.UsageError(f"INTERP_DEVICE = {DEVICE} is not on this machine: {error}") from error


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Workers are worth their start for the whole suite only. None leaves the number to xdist: one a core."""
    return None if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


@pytest.hookimpl(trylast=True)  # when others have dropped what they drop
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    by_address = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if by_address:
        raise pytest.UsageError(f"ids that differ between worker processes: {by_address}; use ids=as_text, of grid.py")
    if shapes_are_checked(config):
        keep(config, items, shows_shapes)
        some = some_cases(items, most=8)  # as many as there are architectures; more would show no other shape
        keep(config, items, lambda item: item in some)
    if DEVICE.type != "cpu":
        keep(config, items, lambda item: item.get_closest_marker("device") is not None)
    worker = getattr(config, "workerinput", None)  # of xdist, in its worker processes
    if worker is not None:
        items[:] = dealt(items, worker["workercount"])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"INTERP_SEED={SEED} repeats the random models of this run")


# ---------------------------------------------------------------------------------------------- fixtures


@pytest.fixture(params=list(GRID))
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """A run of each configuration of the grid. It is shared: a test that writes to a model takes `fresh_model()`."""
    yield from _without_leftovers(run_of(request.param))


@pytest.fixture
def plain() -> Iterator[Run]:
    """A run of one ordinary configuration, for what does not depend on the architecture."""
    yield from _without_leftovers(run_of("learned_ln"))


def _without_leftovers(shared: Run) -> Iterator[Run]:
    """What is compared with is computed before the test can add hooks; hooks that it leaves are removed."""
    _ = shared.cache, shared.logits
    yield shared
    shared.model.reset_hooks()


@pytest.fixture
def as_installed() -> Iterator[None]:
    """Without run-time type checks, as users run the package: its own errors answer to arguments of a wrong type."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file, in the user's cache. Without a network the test is skipped, not in CI."""
    return _fetched("smollm2")


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path) -> HookedTransformer:
    """The real model, loaded once and shared: no test writes to it or leaves hooks on it."""
    return HookedTransformer.from_pretrained(smollm2_path)


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """all-MiniLM-L6-v2 as a folder, in the user's cache. Without a network the test is skipped, not in CI."""
    return _fetched("minilm")


@pytest.fixture(scope="session")
def minilm(minilm_path: Path) -> HookedTransformer:
    """The real encoder, loaded once and shared: no test writes to it or leaves hooks on it."""
    return HookedTransformer.from_pretrained(minilm_path)


def _fetched(word: str) -> Path:
    try:
        return fetch.fetch_model(word)[0]
    except CheckpointError as error:
        if "could not download" not in str(error) or os.environ.get("CI"):
            raise
        pytest.skip(str(error))

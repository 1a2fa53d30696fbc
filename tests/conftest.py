"""What all tests share: the grid as a fixture, hypothesis settings, and when the run-time type checks are off."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import no_type_check

import jaxtyping
import pytest
import torch
from grid import GRID, SEED, Run, run_of
from hypothesis import HealthCheck, settings

from interp import CheckpointError, TransformerConfig
from interp.checkpoints import fetch

settings.register_profile(
    "interp", deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("interp")
torch.set_num_threads(1)

# The config checks its fields itself and answers with ConfigError: the type checker must not answer first.
no_type_check(TransformerConfig.__init__)


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
    try:
        return fetch.fetch_model("smollm2")[0]
    except CheckpointError as error:
        if "could not download" not in str(error) or os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"INTERP_SEED={SEED} repeats the random models of this run")

"""Results as tables of pandas and polars."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from grid import assert_close, build, random_tokens, run_of

from interp import ConfigError, Vocabulary
from interp.heads import head_scores
from interp.lens import logit_lens
from interp.metrics import Logit
from interp.model import Rows
from interp.patching import sweep
from interp.results import to_pandas, to_polars


def test_a_sweep_is_a_table_with_a_row_for_each_cell_its_tokens_and_its_intervals():
    model = build(run_of("learned_ln").cfg, 5, Vocabulary("abcdefghijk"))
    effect = sweep(model, random_tokens(model.cfg, 1), random_tokens(model.cfg, 2), Logit(3), progress=False)
    table = to_pandas(effect)
    assert list(table.columns) == ["layer", "pos", "token", "ci_low", "ci_high", "value"]
    assert len(table) == effect.size and table.attrs["metric"] == effect.attrs["metric"]
    row = table[(table.layer == 1) & (table.pos == 4)].iloc[0]
    cell = effect.sel(layer=1, pos=4)
    assert row["value"] == cell.item() and row.ci_low == cell.ci_low.item() and row.token == cell.token.item()
    one = to_pandas(cell)
    assert len(one) == 1 and one["value"].item() == cell.item() and one.layer.item() == 1
    effects = sweep(
        model, random_tokens(model.cfg, 1), random_tokens(model.cfg, 2), Logit(3), effects=True, progress=False
    )
    assert list(to_pandas(effects).columns)[-1] == effects.name == "effect"


def test_data_sets_are_tables_with_a_column_for_each_value():
    model = run_of("learned_ln").model
    scores = head_scores(model, n_prompts=2, length=5)
    table = to_pandas(scores)
    assert list(table.columns) == ["layer", "head", "label", *map(str, scores.data_vars)]
    assert table.set_index("label").induction["L2H1"] == scores.induction.sel(layer=2, head=1).item()
    lens = logit_lens(model, random_tokens(model.cfg, 1))
    seen = to_pandas(lens)
    assert len(seen) == lens.top_prob.size and seen.attrs == lens.attrs
    one = seen[(seen.layer == "1_pre") & (seen.prompt == 0) & (seen.pos == 2)]
    assert set(one.kl) == {lens.kl.sel(layer="1_pre", prompt=0, pos=2).item()} and one.top_prob.is_monotonic_decreasing


def test_rows_of_a_decomposition_are_tables():
    run = run_of("learned_ln")
    rows = run.cache.decompose_resid()
    split = run.cache.logit_attrs(rows, 3)
    table = to_pandas(split)
    assert list(table.columns) == ["component", "prompt", "pos", "logit"]
    total = torch.tensor(table.groupby(["prompt", "pos"]).logit.sum().to_numpy()).view(3, 7)
    assert_close(total, run.logits[..., 3])
    vectors = to_pandas(Rows(rows.values.bfloat16(), rows.labels))
    assert list(vectors.columns) == ["component", "prompt", "pos", "d_model", "value"]
    assert vectors.value.iloc[0] == float(rows.values.bfloat16()[0, 0, 0, 0])


def test_a_table_of_polars_has_the_same_columns(monkeypatch: pytest.MonkeyPatch):
    made: list[dict[str, Any]] = []
    monkeypatch.setitem(sys.modules, "polars", SimpleNamespace(DataFrame=lambda columns: made.append(columns)))
    scores = head_scores(run_of("learned_ln").model, n_prompts=2, length=5)
    to_polars(scores)
    table = to_pandas(scores)
    assert list(made[0]) == list(table.columns) and made[0]["label"] == list(table.label)
    assert np.array_equal(made[0]["induction"], table.induction.to_numpy())
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ConfigError, match="polars is not installed: python -m pip install polars"):
        to_polars(scores)


@pytest.mark.usefixtures("as_installed")
def test_what_is_no_result_is_refused():
    wrong: list[Any] = [torch.zeros(3), None, {"a": 1}]
    for given in wrong:
        with pytest.raises(ConfigError, match="a result is a DataArray, a Dataset, or rows"):
            to_pandas(given)

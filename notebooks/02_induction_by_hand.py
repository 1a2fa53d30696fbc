# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The induction model, by hand
#
# A two-layer attention-only transformer with hand-written weights, as lectures on transformers teach it (after Elhage
# et al. 2021, "A Mathematical Framework for Transformer Circuits", and Olsson et al. 2022, "In-context Learning and
# Induction Heads"): a *previous-token head* feeds an *induction head*, which looks for an earlier occurrence of the
# current token and copies what came next. Its residual stream has one
# dimension for every fact it needs:
#
# $$[\ \text{current token}: V \ |\ \text{previous token}: V \ |\ \text{position}: n\ ]$$

# %%
import plotly.io
import torch

from circuits.gallery.induction import induction_model
from circuits.lecture import READINGS, check_readings
from interp.pattern_scores import induction_score, previous_token_score
from interp.plot import figures

plotly.io.renderers.default = "plotly_mimetype"

model = induction_model("!abc", n_ctx=6)
logits, cache = model.run_with_cache("!abacb")
labels = model.to_str_tokens("!abacb")
model.hook_map()

# %% [markdown]
# ## Layer 1 (L0H0): attend to the previous position
#
# Queries are positions shifted by one, keys are positions, and the score of a match is 100. Position 0 has nothing
# before it, so a softmax leaves it only itself.

# %%
previous_pattern = cache["pattern", 0][0, 0]
assert previous_token_score(previous_pattern) == 1
figures.pattern(previous_pattern, labels, title="L0H0: previous-token head")

# %% [markdown]
# After layer 1 the stream holds the current token, the previous token, and the position.

# %%
stream = cache["resid_post", 0][0]
dimensions = [f"{slot} {word}" for slot in ("current", "previous") for word in "!abc"] + [f"pos {i}" for i in range(6)]
assert torch.equal(stream[:, :4].argmax(-1)[:-1], stream[1:, 4:8].argmax(-1))
figures.heatmap(stream, labels, dimensions, x="dimension", y="position", title="The stream after layer 1")

# %% [markdown]
# ## Layer 2 (L1H0): is the token here the one before there?
#
# The query reads *current*, the key reads *previous*. Lectures show the table of all scores on a slide, as
# $100 \cdot [x_i = x_{j-1}]$. Entry (0, 0) depends on what layer 1 does at position 0: under the slide's own rule it is
# 100, on the slide it is 0. Here are five ways to read the lecture's mask.

# %%
checks = check_readings("!abacb", "!abc")
for name, check in checks.items():
    print(f"{name:18} {check.matched}/36 entries as on the slide   ({READINGS[name].rule})")
assert [check.matched for check in checks.values()] == [35, 36, 36, 36, 30]
figures.heatmap(checks["causal"].table, labels, labels, x="key", y="query", title="Layer-2 scores, unmasked")

# %% [markdown]
# Whatever the reading, position 3 (an `a`) finds the first `a` and attends to the `b` after it; position 5 (a `b`)
# attends to the `a` after the first `b`. Where nothing matches, a softmax spreads over everything it sees.

# %%
induction_pattern = cache["pattern", 1][0, 0]
assert induction_score(induction_pattern, model.to_tokens("!abacb")[0]) == 1
assert all(check.predictions[3].token == "b" and check.predictions[5].token == "a" for check in checks.values())
figures.pattern(induction_pattern, labels, title="L1H0: induction head")

# %% [markdown]
# ## Who wrote the prediction?
#
# The residual stream is a sum of writes, so the logit is too. At position 3 the embedding votes for the token that
# stands there, the induction head (L1H0) for the token that came next, twice as strongly.

# %%
rows = cache.get_full_resid_decomposition()
attribution = cache.logit_attrs(rows, "b", incorrect_tokens="a")
for label, value in attribution:
    print(f"{label:12} {float(value[0, 3]):+.2f}")
difference = logits[0, 3, model.to_single_token("b")] - logits[0, 3, model.to_single_token("a")]
assert torch.isclose(attribution.values[:, 0, 3].sum(), difference)

# %% [markdown]
# ## Cut the circuit
#
# Zeroing either head's output takes the predictions away: without layer 1 nothing is written to *previous*, so layer 2
# has nothing to match.

# %%
for layer in (0, 1):
    ablated = model.run_with_hooks("!abacb", fwd_hooks=[(("z", layer), lambda z, hook: z.zero_())])
    predicted = [model.to_string(ablated[0, i].argmax()[None]) for i in (3, 5)]
    print(f"without the head in layer {layer + 1}: position 3 -> {predicted[0]}, position 5 -> {predicted[1]}")
    assert predicted != ["b", "a"]

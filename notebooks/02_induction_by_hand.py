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
# A two-layer attention-only transformer with hand-written weights: a *previous-token head* feeds an *induction head*,
# which looks for an earlier occurrence of the current token and copies what came next. Lectures on transformers teach
# this construction (after Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", and Olsson et al.
# 2022, "In-context Learning and Induction Heads"). *The lecture*, in what follows, is this construction as it is taught
# there, and *the slide* is its table of the scores of layer 2 for the text `!abacb`, which is reproduced below.
#
# The residual stream has one dimension for every fact that the model needs:
#
# $$[\ \text{current token}: V \ |\ \text{previous token}: V \ |\ \text{position}: n\ ]$$

# %%
import torch

from circuits.gallery.induction import induction_model
from circuits.lecture import READINGS, check_readings
from interp.heads import induction_score, previous_token_score
from interp.plot import figures

model = induction_model("!abc", n_ctx=6)
logits, cache = model.run_with_cache("!abacb")
labels = model.to_str_tokens("!abacb")
model.hook_map()

# %% [markdown]
# ## Layer 1 (L0H0): attend to the previous position
#
# Queries are positions shifted by one, keys are positions, and the score of a match is 100. Position 0 has nothing
# before it, and under the causal mask only itself to attend to.

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
# The query reads *current*, the key reads *previous*. The slide shows the table of all 36 scores, as
# $100 \cdot [x_i = x_{j-1}]$. Entry (0, 0) depends on what layer 1 does at position 0. On the slide it is 0; under the
# causal mask, which is the slide's own rule, position 0 attends to itself and the entry is 100. Here are five ways to
# read the lecture's mask, and how many entries come out as on the slide under each.

# %%
checks = check_readings("!abacb", "!abc")
for name, check in checks.items():
    print(f"{name:18} {check.matched}/36 entries as on the slide   ({READINGS[name].rule})")
assert [check.matched for check in checks.values()] == [35, 36, 36, 36, 30] and checks["causal"].table[0, 0] == 100
figures.heatmap(checks["causal"].table, labels, labels, x="key", y="query", title="Layer-2 scores, unmasked")

# %% [markdown]
# Whatever the reading, position 3 (an `a`) finds the first `a` and attends to the `b` after it; position 5 (a `b`)
# attends to the `a` after the first `b`. Where nothing matches, the softmax spreads over all positions that it sees.

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
    assert predicted[0] != "b" and predicted[1] != "a"

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
# # Induction heads emerge
#
# Notebook 2 writes an induction circuit by hand. Here nobody writes it: a model of the same shape, two attention-only
# layers with one head each, is trained to predict the next token of random sequences in which a segment comes again.
# For more than 200 steps it learns little. Then, within some sixty steps, the loss on copied tokens falls from 3.4 to
# 1.2 nats, and the two heads become those of notebook 2. A model with one layer, trained as long on the same data, does
# not get there.
#
# The transition was described by Olsson et al. 2022, "In-context Learning and Induction Heads".

# %%
import math

import torch

from interp import HookedTransformer, TransformerConfig
from interp.heads import induction_score, previous_token_score
from interp.plot import figures
from interp.training import phase_change, train, variable_offset_repeats

torch.set_num_threads(1)  # the model is small, and the same number of threads repeats a run bit for bit

D_VOCAB, N_CTX = 48, 64


def repeats(generator, batch=32):
    return variable_offset_repeats(range(1, D_VOCAB), batch, N_CTX, bos=0, seed=generator)


# %% [markdown]
# ## The data
#
# In every sequence one random segment of 8 to 14 tokens comes again and again, with gaps of 0 to 12 random tokens
# between. Below, the tokens that can be foretold by copying are marked: in each later occurrence of the segment, all
# but the first. The length of segments and gaps must vary: where repeats lie at *one* distance, a single layer can copy
# from that distance without looking at the tokens at all (the last section shows it).

# %%
probe = repeats(10**6, batch=64)
for tokens, copied in zip(probe.tokens[:3, :46].tolist(), probe.copied[:3, :46].tolist(), strict=True):
    print(" ".join(f"{token:2}" for token in tokens))
    print(" ".join("^^" if c else "  " for c in copied))
assert 0.35 < probe.copied.float().mean() < 0.41

# %% [markdown]
# ## Training, with a look at every head on the way
#
# Positions are rotary: only queries and keys see them, so a value is the token and nothing else. `train` leaves the
# model it is given alone and returns a new one. Every 20 steps it calls the functions in `measures`.


# %%
def patterns(model):
    _, cache = model.run_with_cache(probe.tokens[:16], names_filter="blocks.*.attn.hook_pattern")
    return [cache["pattern", layer] for layer in range(model.cfg.n_layers)]


def previous(model):
    """Attention to the position before, a row a layer, a column a head."""
    return torch.stack([previous_token_score(pattern).mean(0) for pattern in patterns(model)])


def induction(model):
    """Attention to the tokens that followed earlier occurrences (prefix matching)."""
    per_sequence = [
        torch.stack([induction_score(p, tokens) for p, tokens in zip(pattern, probe.tokens, strict=False)])
        for pattern in patterns(model)
    ]
    return torch.stack([scores.mean(0) for scores in per_sequence])


def trained(n_layers, data=repeats, steps=600):
    cfg = TransformerConfig(
        n_layers=n_layers,
        d_model=64,
        n_heads=1,
        d_head=16,
        n_ctx=N_CTX,
        d_vocab=D_VOCAB,
        attn_only=True,
        positional_embedding_type="rotary",
        seed=0,
    )
    measures = {"previous": previous, "induction": induction}
    return train(HookedTransformer(cfg), data, steps, lr=4e-3, measures=measures, measure_every=20, progress=False)


two, one = trained(2), trained(1)

# %% [markdown]
# ## The phase change

# %%
changes = {"phase change": phase_change(two.copied_losses), "none": phase_change(one.copied_losses)}
print(f"two layers: steepest at step {changes['phase change']}; one layer: {changes['none']}")
late_two, late_one = float(two.copied_losses[-50:].mean()), float(one.copied_losses[-50:].mean())
print(f"loss on copied tokens at the end: {late_two:.2f} and {late_one:.2f} (a guess: {math.log(D_VOCAB - 1):.2f})")
fall = [float(two.copied_losses[step : step + 10].mean()) for step in (changes["phase change"] + d for d in (-36, 24))]
print(f"two layers, 36 steps before that step and 24 after it: {fall[0]:.2f} -> {fall[1]:.2f}")
assert 200 < changes["phase change"] < 350 and changes["none"] is None and fall[0] > 3 and fall[1] < 1.8
assert late_two < 0.75 and 3.0 < late_one < math.log(D_VOCAB - 1) - 0.2

figures.loss_curves(
    {"two layers, copied tokens": two.copied_losses, "one layer, copied tokens": one.copied_losses},
    phase_changes=changes,
    levels={"a guess": math.log(D_VOCAB - 1)},
    title="Loss on tokens that can be copied",
)

# %% [markdown]
# One layer does learn something: it ends .4 nats below a guess. (Tokens that this sequence has had are likelier than
# others, at the usual distances above all, and one layer can make use of that.) What it cannot do is to look for *what
# came after the last time*, since that takes a key that knows the token before it.
#
# The heads change at the same time as the loss. In layer 0 attention to the position before rises; in layer 1,
# attention to the tokens that followed earlier occurrences.

# %%
at = two.measured_at
score_lines = {
    "L0H0 previous token": (at, two.measures["previous"][:, 0, 0]),
    "L1H0 induction": (at, two.measures["induction"][:, 1, 0]),
    "one layer: L0H0 previous token": (at, one.measures["previous"][:, 0, 0]),
    "one layer: L0H0 induction": (at, one.measures["induction"][:, 0, 0]),
}
for name, (_, values) in score_lines.items():
    print(f"{name:32} {float(values[0]):.2f} -> {float(values[-1]):.2f}")
final = {name: float(values[-1]) for name, (_, values) in score_lines.items()}
assert final["L0H0 previous token"] > 0.4 and final["L1H0 induction"] > 0.7
assert final["one layer: L0H0 previous token"] < 0.1 and final["one layer: L0H0 induction"] < 0.1
for name in ("L0H0 previous token", "L1H0 induction"):
    halfway = next(int(step) for step, value in zip(*score_lines[name], strict=True) if value > final[name] / 2)
    print(f"{name}: half of its last value at step {halfway}; the loss falls most steeply at {changes['phase change']}")
    assert abs(halfway - changes["phase change"]) <= 60
marks = {"phase change": changes["phase change"]}
figures.curves(score_lines, title="Head scores", x="step", y="score", marks=marks, limits=(0, 1))

# %% [markdown]
# ## The checks of notebook 2, on weights that nobody wrote
#
# Each head's pattern on a new sequence. In layer 0, a stripe at the position before, which leaks to its neighbours.
# In layer 1, from a repeated token to the one that came after it the last time. Where a token is new, and there is
# nothing to copy, most of the head's attention rests on the bos: the sink that one must declare when building by hand
# has been found, too.

# %%
sample = variable_offset_repeats(range(1, D_VOCAB), 1, 32, segment=(8, 8), gap=(3, 6), bos=0, seed=4).tokens
_, cache = two.model.run_with_cache(sample, names_filter="blocks.*.attn.hook_pattern")
labels = [str(token) for token in sample[0].tolist()]
figures.pattern(cache["pattern", 0][0, 0], labels, title="L0H0, trained: previous-token head")

# %%
pattern = cache["pattern", 1][0, 0]
is_new = torch.tensor([token not in sample[0, :i] for i, token in enumerate(sample[0])])
resting = float(pattern[is_new, 0].mean())
print(f"attention to the bos where the token is new: {resting:.2f}, elsewhere: {float(pattern[~is_new, 0].mean()):.2f}")
assert resting > 0.5
figures.pattern(pattern, labels, title="L1H0, trained: induction head")

# %% [markdown]
# Cut the circuit: without either head, copying is gone. In notebook 2 both predictions became wrong; here accuracy
# falls from .96 to less than .1.


# %%
def copied_accuracy(model, ablated=()):
    """How often the likeliest next token is right where copying can foretell it."""
    hooks = [(("z", layer), lambda z, hook: z.zero_()) for layer in ablated]
    with torch.no_grad():
        logits = model.run_with_hooks(probe.tokens, fwd_hooks=hooks)
    hits = logits[:, :-1].argmax(-1) == probe.tokens[:, 1:]
    return float(hits[probe.copied[:, 1:]].float().mean())


accuracy = {
    "two layers": copied_accuracy(two.model),
    "without L0H0": copied_accuracy(two.model, [0]),
    "without L1H0": copied_accuracy(two.model, [1]),
    "one layer": copied_accuracy(one.model),
    "one layer, without L0H0": copied_accuracy(one.model, [0]),
}
for name, value in accuracy.items():
    print(f"{name:24} {value:.3f}")
assert accuracy["two layers"] > 0.93
assert max(value for name, value in accuracy.items() if name != "two layers") < 0.2

# %% [markdown]
# Who writes the prediction? The logit of the right token, as a sum over what was written to the stream (through the
# final norm at its true scale), averaged over the copied tokens. As in the hand-built model it is the induction head.
# The previous-token head hardly speaks for the token itself, though without it hardly anything is right: it acts
# through layer 1.

# %%
logits, cache = two.model.run_with_cache(probe.tokens)
answers = probe.tokens.roll(-1, dims=1)  # the next token of every position
rows = cache.get_full_resid_decomposition()
attribution = cache.logit_attrs(rows, answers)
foretold = probe.copied[:, 1:]
direct = {label: float(value[:, :-1][foretold].mean()) for label, value in attribution}
for label, value in direct.items():
    print(f"{label:12} {value:+.2f}")
right = logits.gather(-1, answers[..., None])[..., 0]
assert torch.allclose(attribution.values.sum(0), right, atol=1e-3)
assert direct["L1H0"] > 3 and max(abs(value) for label, value in direct.items() if label != "L1H0") < 0.5

# %% [markdown]
# ## Why the distance must vary
#
# The same one-layer model, on segments of 12 tokens that follow each other without a gap. Now every repeat lies 12
# positions back, and one head that attends to what followed there is enough: it copies nearly perfectly and its
# induction score is high. On repeats at varied distances it is no better than the one-layer model above. A score on
# fixed distances would have called it an induction head.


# %%
def fixed(generator, batch=32):
    return variable_offset_repeats(range(1, D_VOCAB), batch, N_CTX, segment=(12, 12), gap=(0, 0), bos=0, seed=generator)


confounded = trained(1, fixed, steps=400).model
test = fixed(3, batch=64)
with torch.no_grad():
    logits, cache = confounded.run_with_cache(test.tokens, names_filter=("pattern", 0))
at_fixed = float((logits[:, :-1].argmax(-1) == test.tokens[:, 1:])[test.copied[:, 1:]].float().mean())
score = float(
    torch.stack([induction_score(p, t) for p, t in zip(cache["pattern", 0], test.tokens, strict=True)]).mean()
)
print(f"fixed distance: accuracy {at_fixed:.3f}, 'induction score' {score:.2f}")
varied_accuracy, varied_score = copied_accuracy(confounded), induction(confounded).item()
print(f"varied distance: accuracy {varied_accuracy:.3f}, induction score {varied_score:.2f}")
assert at_fixed > 0.95 and score > 0.4
assert varied_accuracy < accuracy["one layer"] + 0.1 and varied_score < 0.2

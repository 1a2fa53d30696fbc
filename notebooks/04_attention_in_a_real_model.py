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
# # Attention in a real model
#
# SmolLM2-135M-Instruct has 30 layers of 9 heads. What do these 270 heads do? This notebook looks at all of them at once
# (the explorer), puts numbers on them (head scores), and then asks a famous question: what does *it* refer to in *The
# chicken didn't cross the road because it was too tired / wide*?
#
# The model is needed once on this machine: `interp fetch smollm2` downloads it.

# %%
import numpy as np
import plotly.io
import torch

from interp import HookedTransformer
from interp.heads import head_scores, head_scores_of, score_table
from interp.interventions import Zero
from interp.plot import attention, figures
from interp.repeats import repeated_tokens

plotly.io.renderers.default = "plotly_mimetype"
torch.set_grad_enabled(False)

model = HookedTransformer.from_pretrained("smollm2-135m-instruct")
cfg = model.cfg
print(f"{cfg.n_layers} layers, {cfg.n_heads} heads, {cfg.n_key_value_heads} of keys and values, d_model {cfg.d_model}")

# %% [markdown]
# ## All heads at once
#
# One run, and the explorer of its cache. Hover over a head to look at it, click to keep it; hover over a token to see
# what it attends to. The badges are scores of these heads on this very text: how much a head attends to the token
# before (previous), to what followed the token the last time (induction), to the first token.

# %%
TEXT = "Mr and Mrs Dursley, of number four, were proud to say that Mr and Mrs Dursley"
_, cache = model.run_with_cache(TEXT)
here = head_scores_of(cache, TEXT, scores=["induction", "previous_token", "first_token"])
badges = {name: here[name] for name in ("induction", "previous_token", "first_token")}
explorer = attention(cache, TEXT, scores=badges, sort_by="induction")
assert explorer.left_out == []
explorer

# %% [markdown]
# ## Head scores
#
# Scores on one text depend on the text. `head_scores` takes random tokens in which a segment comes twice, its length,
# place and distance drawn anew for every prompt: what is high here does not depend on meaning, nor on a fixed distance
# (notebook 7 shows what fixed distances do). A standard error over the prompts comes along.

# %%
scores = head_scores(model, n_prompts=12, progress=False)
kinds = ["induction", "previous_token", "duplicate_token"]
for kind in kinds:
    print(score_table(scores, kind, top=4)[[kind, f"{kind}_se"]].round(3).to_string(), "\n")
top = {kind: score_table(scores, kind, top=5) for kind in kinds}
assert top["induction"].index[0] == "L18H6" and {"L17H3", "L17H4"} <= set(top["induction"].index)
assert top["previous_token"].index[0] == "L16H0" and top["duplicate_token"].index[0] == "L14H3"
assert float(scores["induction"][18, 6]) > 0.85 and float(scores["previous_token"][16, 0]) > 0.8

# %% [markdown]
# The induction heads sit together, in layers 17 to 23. Heads that attend to the previous token are found from layer 1
# on: whatever feeds the induction heads has to come before them.

# %%
induction = scores["induction"]
strong = np.argwhere(induction.values > 0.4)
print("induction above .4:", ", ".join(f"L{layer}H{head}" for layer, head in strong))
assert strong[:, 0].min() >= 16 and strong[:, 0].max() <= 24 and (scores["previous_token"].values[:14] > 0.7).any()
figures.head_scores(scores, "induction", title="Induction score (prefix matching) on random repeats")

# %% [markdown]
# ## An induction head at work
#
# L18H6 on the text above. At the second *Mr and Mrs Dursley* every token looks at what came after its first occurrence;
# elsewhere the head rests on the first token.

# %%
words = model.to_str_tokens(TEXT)
pattern = cache["pattern", 18][0, 6]
first_and, second_and = [i for i, word in enumerate(words) if word == " and"]
print(f"from the second ' and' to the first ' Mrs': {float(pattern[second_and, first_and + 1]):.2f}")
assert words[first_and + 1] == " Mrs" and pattern[second_and, first_and + 1] > 0.3
explorer.figure(18, 6)

# %% [markdown]
# Do these heads matter? On random repeats, the loss at tokens that can be copied, with heads switched off (`z` set to
# zero). Without the 13 strongest induction heads the copied tokens are hardly foreseen any better than the others,
# which no one can foresee. Without 13 other heads of the same layers little changes.

# %%
tokens = repeated_tokens(model, n_prompts=12, seed=1)
seen = (tokens[:, :, None] == tokens[:, None, :]).tril(-1).any(-1)
copied = seen[:, 1:] & seen[:, :-1]  # the token and the one before it have both come before


def copy_loss(heads):
    """Mean loss at copied tokens and at the others, in nats, without these heads."""
    with model.intervene(*(Zero(site="z", layer=layer, head=head) for layer, head in heads)):
        losses = model(tokens, return_type="loss", loss_per_token=True)
    return float(losses[copied].mean()), float(losses[~copied].mean())


by_score = sorted(np.ndindex(30, 9), key=lambda at: -float(induction[at]))
generator = np.random.default_rng(0)
inductive, rest = by_score[:13], [at for at in by_score[60:] if 14 <= at[0] <= 24]
others = [rest[i] for i in generator.choice(len(rest), len(inductive), replace=False)]
losses = {"all heads": copy_loss([]), "without 13 induction heads": copy_loss(inductive)}
losses["without 13 other heads"] = copy_loss(others)
for name, (at_copies, elsewhere) in losses.items():
    print(f"{name:28} copied tokens {at_copies:5.2f}   other tokens {elsewhere:5.2f}")
whole, without, control = (losses[name][0] for name in losses)
assert without > whole + 3 and control < whole + (without - whole) / 3

# %% [markdown]
# ## Sinks
#
# Across all heads, some 40 % of all attention goes to the first token, whatever it is (this model is run without a
# beginning-of-text token). Heads that find nothing to do rest there.

# %%
sink = scores["first_token"]
print(f"mean attention to the first token {float(sink.mean()):.2f}; above .5 in {int((sink > 0.5).sum())} of 270 heads")
assert 0.3 < float(sink.mean()) < 0.55 and int((sink > 0.5).sum()) > 60
figures.head_scores(scores, "first_token", title="Attention to the first token, on random repeats")

# %% [markdown]
# How does a head know the first token? By its stream, which is far longer there than anywhere else (Sun et al. 2024,
# "Massive Activations"). Length alone is lost in the norm, but all of it is one direction, and that is what keys find.
# The values that heads make of it are small, so that resting there adds little.
#
# The model makes it twice. The MLP of layer 2 writes it, those of layers 8 and 9 take it away, that of layer 11 writes
# it again, 25,000 long. In between, in layers 10 and 11, hardly any head rests on the first token: where there is no
# such stream there is no sink.

# %%
layers = np.arange(30)
norms = torch.stack([cache["resid_pre", layer][0].norm(dim=-1) for layer in range(30)])
value_norms = torch.stack([cache["v", layer][0].norm(dim=-1).mean(-1) for layer in range(30)])
stream_ratio, value_ratio = (of[:, 0] / of[:, 1:].mean(-1) for of in (norms, value_norms))
resting = torch.stack([cache["pattern", layer][0, :, 1:, 0].mean() for layer in range(30)])
print("layer   length of stream   of values (others: 1)   attention to it")
for i in (1, 3, 8, 10, 11, 12, 25):
    print(f"{i:5} {float(stream_ratio[i]):18.1f} {float(value_ratio[i]):11.2f} {float(resting[i]):29.2f}")
ordinary, long = [0, 1, 10, 11], [*range(3, 10), *range(12, 30)]
assert stream_ratio[ordinary].max() < 2 and stream_ratio[long].min() > 4
assert resting[ordinary].max() < 0.3 and resting[long].min() > 0.4 and value_ratio[long].max() < 0.5
lines = {"attention to the first token": (layers, resting), "length of its values / others": (layers, value_ratio)}
figures.curves(lines, title="The first token, layer by layer", x="layer", y="", limits=(0, 1.8))

# %% [markdown]
# Cause and effect: take away what the MLP of layer 11 writes at the first token, and the sinks of all later layers are
# gone.

# %%
with model.intervene(Zero(site="mlp_out", layer=11, pos=0)):
    _, without = model.run_with_cache(TEXT, names_filter="blocks.*.attn.hook_pattern")
remaining = torch.stack([without["pattern", layer][0, :, 1:, 0].mean() for layer in range(30)])
print(f"layers 12 to 29: {float(resting[12:].mean()):.2f} -> {float(remaining[12:].mean()):.2f}")
assert remaining[12:].mean() < resting[12:].mean() / 3 and torch.allclose(remaining[:12], resting[:12], atol=1e-5)

# %% [markdown]
# It is the *place*, not the word: the same word later in the text is no sink.

# %%
_, twice = model.run_with_cache("Mr Smith met Mr Jones")
at = [i for i, word in enumerate(model.to_str_tokens("Mr Smith met Mr Jones")) if word.strip() == "Mr"]
attended = torch.stack([twice["pattern", layer][0, :, -1] for layer in range(30)]).mean((0, 1))
print({f"position {i}": round(float(attended[i]), 2) for i in at})
assert attended[at[0]] > 3 * attended[at[1]]

# %% [markdown]
# ## What does *it* refer to?
#
# *The chicken didn't cross the road because it was too tired* - the chicken. *... too wide* - the road. A picture of a
# head that attends from *it* to *chicken* in one sentence and to *road* in the other is in every introduction. Such a
# picture is impossible here. The model is causal: at *it* the last word has not been read, so that *it* attends
# to the same places in both.

# %%
SENTENCE = "The chicken didn't cross the road because it was too"
pair = [f"{SENTENCE} {word}" for word in ("tired", "wide")]
_, both = model.run_with_cache(pair)
words = model.to_str_tokens(pair[0])
chicken, road, it = (words.index(word) for word in (" chicken", " road", " it"))
patterns = torch.stack([both["pattern", layer] for layer in range(30)])  # [layer, sentence, head, query, key]
print(f"largest difference at 'it': {float((patterns[:, 0, :, it] - patterns[:, 1, :, it]).abs().max())}")
assert torch.allclose(patterns[:, 0, :, it], patterns[:, 1, :, it], atol=1e-5)

# %% [markdown]
# What *it* does attend to, in both: some heads look at *chicken*, others at *road*. L13H8 is the most decided. But it
# looks at the subject from every later word: one row of a pattern is not yet an explanation.

# %%
attends = {name: patterns[:, 0, :, it, key] for name, key in (("chicken", chicken), ("road", road))}
for name, values in attends.items():
    first = values.flatten().argsort(descending=True)[:4].tolist()
    print(f"it -> {name:8}", {f"L{i // 9}H{i % 9}": round(float(values.flatten()[i]), 2) for i in first})
assert int(attends["chicken"].argmax()) == 13 * 9 + 8 and attends["chicken"].max() > 0.7
assert attends["chicken"].max() > 1.5 * attends["road"].max()
figures.pattern(patterns[13, 0, 8], words, title="L13H8: 'it' attends to 'chicken', and so does the rest")

# %% [markdown]
# The sentences part at their last word. The explorer shows the first run, the second, and the difference (choose
# *difference* above the map). Here the badge is how far the last word's attention to *road* differs.

# %%
last = len(words) - 1
to_road = patterns[:, 1, :, last, road] - patterns[:, 0, :, last, road]
second = both.slice(batch=1)
attention(
    both.slice(batch=0),
    words,
    scores={"wide to road": to_road.clamp(min=0)},
    patched=second,
    patched_tokens=model.to_str_tokens(pair[1]),
)

# %% [markdown]
# A few heads see it: from *wide* they attend to *road* much more than from *tired*. So the adjective does find the noun
# that it can describe.

# %%
first = to_road.flatten().argsort(descending=True)[:4].tolist()
for i in first:
    layer, head = divmod(i, 9)
    tired, wide = patterns[layer, :, head, last, road].tolist()
    print(f"L{layer}H{head}: tired -> road {tired:.2f}, wide -> road {wide:.2f}")
assert {divmod(i, 9) for i in first[:2]} == {(4, 2), (9, 7)}
assert all(to_road.flatten()[i] > 0.15 for i in first[:2])

# %% [markdown]
# Does the model *understand* it? Ask, with five adjectives that fit the chicken and five that fit the road. The answer
# is always the chicken. The odds move the right way, by a nat or so, and never far enough. That attention connects two
# words does not say that the model draws the conclusion.

# %%
FIT = {
    "chicken": ["tired", "hungry", "scared", "lazy", "young"],
    "road": ["wide", "long", "busy", "dangerous", "narrow"],
}
ids = [model.to_single_token(f" {noun}") for noun in FIT]
odds = {}
for noun, adjectives in FIT.items():
    for adjective in adjectives:
        question = f"{SENTENCE} {adjective}. What was too {adjective}? It was the"
        log_probs = model(question)[0, -1].log_softmax(-1)[ids]
        odds[adjective] = float(log_probs[0] - log_probs[1])
        print(
            f"{adjective:10} (fits {noun:7}) chicken {float(log_probs[0].exp()):.2f}, log odds {odds[adjective]:+.2f}"
        )
means = {noun: np.mean([odds[adjective] for adjective in adjectives]) for noun, adjectives in FIT.items()}
print({noun: round(float(mean), 2) for noun, mean in means.items()})
assert min(odds.values()) > 3 and means["chicken"] - means["road"] > 0.5

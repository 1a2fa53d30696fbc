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
# # QK and OV circuits
#
# A head is two bilinear forms (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"). `W_Q W_K^T`
# says where it attends, `W_V W_O` what it writes for what it attends to. Both can be read off the weights, without an
# input. Here every such reading is done twice: on an induction circuit written by hand, where the right answer is
# known, and on SmolLM2, where it has to be checked.
#
# The model is needed once on this machine: `interp fetch smollm2` downloads it.

# %%
import numpy as np
import torch

from circuits.gallery import entry
from interp import FactoredMatrix, HookedTransformer
from interp.heads import head_scores, score_table
from interp.interventions import Zero
from interp.lens import expand_logits, expand_scores
from interp.plot import figures
from interp.text import visible
from interp.weights import composition_scores, copying_scores, ov_circuit, qk_circuit, singular_directions, top_entries

torch.set_grad_enabled(False)

by_hand = entry("induction_latest").build().compile()
real = HookedTransformer.from_pretrained("smollm2-135m-instruct")

# %% [markdown]
# ## A matrix that is never multiplied out
#
# With the embedding on both sides a circuit is a matrix over pairs of tokens: 49,152 x 49,152 for SmolLM2, 9.7 GB. Its
# rank is 64. A `FactoredMatrix` keeps the two thin factors, and knows norms, singular values and eigenvalues from them.
# `fold_norms=True` counts the gains of the norms into the weights.

# %%
circuit = ov_circuit(real, 29, 1, fold_norms=True)
print(circuit, f"norm {float(circuit.norm()):.0f}, largest singular value {float(circuit.singular_values()[0]):.0f}")
rows = [5, 500, 5000]
assert torch.allclose(circuit[rows].dense(), circuit.A[rows] @ circuit.B, atol=1e-3)
assert circuit.shape == (49152, 49152) and circuit.rank == 64

# %% [markdown]
# ## OV: what is written
#
# The induction head written by hand copies: attending to a word raises the logit of that word. In its 6 x 6 circuit the
# diagonal is all there is (the start of the text, `!`, is dropped). By the eigenvalues, all real and positive, it is a
# perfect copier: the copying score, sum of real parts over sum of sizes, is 1.

# %%
hand_ov = ov_circuit(by_hand, 1, 0)
alphabet = by_hand.to_str_tokens(torch.arange(by_hand.cfg.d_vocab))
dense = hand_ov.dense()
off_diagonal = dense - torch.diag(dense.diagonal())
assert off_diagonal.abs().max() < 1e-5 and dense.diagonal()[1:].min() > 0.9 and abs(dense[0, 0]) < 1e-5
assert np.isclose(float(copying_scores(by_hand)[1, 0]), 1)
figures.heatmap(dense, alphabet, alphabet, title="By hand: W_E W_V W_O W_U", x="logit", y="attended", signed=True)

# %% [markdown]
# The same score for all heads of SmolLM2. The score of a third of them is above .9 or below -.9. Are there so many
# copiers?

# %%
copying = copying_scores(real, fold_norms=True)
print(f"above .9 or below -.9: {int((abs(copying) > 0.9).sum())} of 270; L29H1 {float(copying[29, 1]):.3f}, "
      f"L29H0 {float(copying[29, 0]):.3f}")  # fmt: skip
assert float(copying[29, 1]) > 0.9 and float(copying[29, 0]) < -0.9 and 60 < int((abs(copying) > 0.9).sum()) < 120
figures.head_scores(copying, title="Copying, by the eigenvalues of the OV circuit")

# %% [markdown]
# Look at the eigenvalues before believing a score. L29H1 has 64, of which all but a few are positive, and no single one
# decides the sum: it copies in nearly every direction.

# %%
eigenvalues = circuit.eigenvalues()
share = float(eigenvalues.abs().max() / eigenvalues.abs().sum())
print(f"{int((eigenvalues.real > 0).sum())} with a positive real part; share of the largest {share:.2f}")
assert (eigenvalues.real > 0).sum() >= 60 and share < 0.2
figures.eigenvalues(eigenvalues, title="L29H1")

# %% [markdown]
# L29H0 is its opposite (in notebook 5 these two end the model's answer). Its eigenvalues are negative, but a single one
# is a third of the sum. Much of what this head writes answers to what all embeddings have in common: take their mean
# off, and the largest singular value falls by more than half. Where one direction counts for so much, a score near 1 or
# -1 says little.

# %%
opposite = ov_circuit(real, 29, 0, fold_norms=True)
eigenvalues = opposite.eigenvalues()
share = float(eigenvalues[0].abs() / eigenvalues.abs().sum())
centred = FactoredMatrix(opposite.A - opposite.A.mean(0), opposite.B)
largest = [float(one.singular_values()[0]) for one in (opposite, centred)]
print(f"share of the largest eigenvalue {share:.2f}; largest singular value {largest[0]:.3g}, centred {largest[1]:.3g}")
assert largest[1] < 0.5 * largest[0]
assert (eigenvalues.real < 0).sum() >= 60 and 0.25 < share < 0.4
figures.eigenvalues(eigenvalues, title="L29H0")

# %% [markdown]
# A stricter test leaves few copiers: of 512 random tokens, for how many does the circuit raise the token's *own* logit
# most (`copying_top`)?

# %%
strict = head_scores(real, scores="copying_top", progress=False)
first = score_table(strict, "copying_top", top_k=5)["copying_top"]
print({name: round(float(value), 2) for name, value in first.items()})
print(f"above one half: {int((strict['copying_top'] > 0.5).sum())} of 270")
assert first.index[0] == "L29H1" and float(first.iloc[0]) > 0.7 and int((strict["copying_top"] > 0.5).sum()) < 20

# %% [markdown]
# ## The largest entries, of 2.4 billion
#
# `top_entries` walks over the matrix in blocks of rows and keeps the largest. Those of L29H1 lie on the diagonal:
# attending to a token raises the logit of this token.

# %%
largest = top_entries(circuit, 10, progress=False)
on_diagonal = int((largest.rows == largest.columns).sum())
print(f"{on_diagonal} of 10 on the diagonal")
assert on_diagonal >= 8
figures.token_table(largest, real, "OV", title="L29H1: largest entries of the OV circuit")

# %% [markdown]
# For tokens of our own choice: what does attending to them raise most, in a row of 49,152? For *London*, *chicken* and
# *seven* the word itself is among the first four; for *because* nothing that makes sense is. Copying is not all that
# this matrix does.

# %%
chosen = [" London", " chicken", " blue", " seven", " because"]
ids = [real.to_single_token(word) for word in chosen]
raised = top_entries(circuit[ids], 4, per_row=True, progress=False)
own = [i in row for i, row in zip(ids, raised.columns.tolist(), strict=True)]
print("among the four most raised:", dict(zip(chosen, own, strict=True)))
assert own[0] and own[1] and own[3] and not own[4]
figures.token_table(raised, real, "OV", rows=ids, title="L29H1: what attending to a token raises")

# %% [markdown]
# Counted over 500 random tokens: how often is the token itself on top?

# %%
sample = torch.randint(1000, 49_000, (500,), generator=torch.Generator().manual_seed(0))


def own_rank(matrix, ids):
    """How many columns of each token's row exceed its own."""
    rows = matrix[ids].dense()
    return (rows > rows[torch.arange(len(ids)), ids][:, None]).sum(-1)


for name, matrix in (("L29H1", circuit), ("L29H0, signs turned", -opposite)):
    ranks = own_rank(matrix, sample)
    print(f"{name:20} first for {float((ranks == 0).float().mean()):.0%}, median rank {int(ranks.median())}")
    assert ranks.median() < 50

# %% [markdown]
# ## QK: where it attends
#
# A duplicate-token head looks for the token that it stands on. In notebook 4, L14H3 scored highest for that. Does its
# QK circuit, from the embeddings alone, match a token with itself? The median token matches itself better than 98 % of
# all tokens. That is far from what the previous-token head L16H0 does, and far from perfect: at layer 14 the stream is
# no longer the embedding that the circuit starts from.

# %%
for layer, head in ((14, 3), (5, 6), (16, 0)):
    ranks = own_rank(qk_circuit(real, layer, head, fold_norms=True), sample)
    print(f"L{layer}H{head:<2} median rank of the token itself {int(ranks.median()):6,} of 49,152")
    assert ranks.median() > 8000 if layer == 16 else ranks.median() < 1500
duplicate = top_entries(qk_circuit(real, 14, 3, fold_norms=True), 8, progress=False)
figures.token_table(duplicate, real, "QK", title="L14H3: largest entries of the QK circuit")

# %% [markdown]
# ## Composition: who reads whom
#
# An induction head's *keys* must know the token before. In the circuit by hand the previous-token head writes it, and
# the K-composition of the two heads, `|W_OV W_QK^T| / (|W_OV| |W_QK|)`, says so: positive for keys, zero for queries
# and values. The *aligned* score compares with the best that these two matrices could do, and is 1.

# %%
for score in ("raw", "aligned"):
    found = composition_scores(by_hand, score=score, progress=False)[:, 0, 0, 1, 0]
    print(f"by hand, {score:8}", {kind: round(float(found.sel(kind=kind)), 3) for kind in "QKV"})
    assert float(found.sel(kind="Q")) == float(found.sel(kind="V")) == 0 < float(found.sel(kind="K"))
assert np.isclose(float(found.sel(kind="K")), 1)

# %% [markdown]
# In SmolLM2 there are 35,235 pairs of heads in different layers, and all take a few seconds. Who writes what the keys
# of the induction head L17H4 read? One head stands out by far: L16H0, which is the strongest previous-token head. (So
# it does for L17H3; the keys of L18H6 read one more head as well, L17H8.)

# %%
composition = composition_scores(real, fold_norms=True, progress=False)
induction_heads = [(17, 3), (17, 4), (18, 6)]
for layer, head in induction_heads:
    read = composition.sel(kind="K", reader_layer=layer, reader_head=head)
    order = np.argsort(-np.nan_to_num(read.values).ravel())[:3]
    first = ", ".join(f"L{i // 9}H{i % 9} {read.values.ravel()[i]:.3f}" for i in order)
    print(f"L{layer}H{head} keys: {first}; median of all {float(read.median()):.3f}")
    assert 16 * 9 in order[: 2 if layer == 18 else 1] and float(read[16, 0]) > 3 * float(read.median())
    assert max(float(read[11, 1]), float(read[2, 1])) < float(read[16, 0]) / 2  # for the check below
keys_of = composition.sel(kind="K", reader_layer=17, reader_head=4).isel(writer_layer=slice(0, 17))
figures.array(keys_of, title="K-composition with L17H4", value="composition")

# %% [markdown]
# Weights make a prediction, a run can check it: without L16H0 these heads should lose their induction pattern. Other
# previous-token heads are nearly as strong (in notebook 4, L11H1 with .85 and L2H1 with .73), but their composition
# with the keys of these heads is less than half, near that of any head. They should not matter.


# %%
def induction_without(*heads):
    """Induction scores of some heads with others switched off."""
    with real.intervene(*(Zero(site="z", layer=layer, head=head) for layer, head in heads)):
        scores = head_scores(real, scores="induction", n_prompts=4, progress=False)["induction"]
    return {f"L{layer}H{head}": round(float(scores[layer, head]), 2) for layer, head in induction_heads}


whole, without = induction_without(), induction_without((16, 0))
others = [induction_without(one) for one in ((11, 1), (2, 1))]
for name, one in zip(("nothing", "L16H0", "L11H1", "L2H1"), (whole, without, *others), strict=True):
    print(f"without {name:8}", one)
assert all(without[head] < whole[head] / 2 for head in whole)
assert all(one[head] > whole[head] - 0.1 for head in whole for one in others)

# %% [markdown]
# ## Singular directions, read as tokens
#
# The largest singular directions of `W_V W_O`, each with the tokens whose embeddings lie along what it reads, and those
# whose logits lie along what it writes (Millidge & Black 2022). Take L27H1, another copier. At the ends of its
# directions the tokens read and the tokens written overlap: of twelve, 1 to 7 are the same, out of a vocabulary of
# 49,152. Some ends have a subject that some of the twelve share, never all: prices and taxes at the + end of number 1
# (the first is 0), food at that of number 3, elections at that of number 5.

# %%
directions = singular_directions(real, 27, 1, n_directions=6, top_k=12, fold_norms=True)


def on_both_sides(found):
    """How many of the tokens named are both read and written, for each end of each direction."""
    places = [(i, end) for i in range(6) for end in (0, 1)]
    return [len({*found.read_id[at].values} & {*found.write_id[at].values}) for at in places]


shared = on_both_sides(directions)
print(f"of twelve tokens, both read and written: {shared}")
for i in (1, 3, 5):
    for side in ("read", "write"):
        print(f"{i}+ {side:6}", *map(visible, directions[f"{side}_token"][i, 0].values))
assert np.mean(shared) > 1.5 and max(shared) < 10
figures.singular_directions(directions, title="L27H1: singular directions of the OV circuit")

# %% [markdown]
# Not every head can be read in this way. For the induction head L17H4 no token is on both sides: this head sits in the
# middle of the model, where the stream it reads and writes need no longer lie along tokens.

# %%
middle = singular_directions(real, 17, 4, n_directions=6, top_k=12, fold_norms=True)
print(f"of twelve tokens, both read and written: {on_both_sides(middle)}")
assert np.mean(on_both_sides(middle)) < 0.3
for i in range(3):
    read, written = (map(visible, words[i, 0].values[:4]) for words in (middle.read_token, middle.write_token))
    print(*read, "->", *written)

# %% [markdown]
# ## Path expansion
#
# With the patterns of a run frozen, an attention-only model is a sum over paths. Which pair of paths makes the scores
# of the induction head by hand? The query reads the word itself, the key the word before, by way of the previous-token
# head. (The two other pairs are the sink and the preference for later matches.)

# %%
TEXT = "!abcabd"
logits, cache = by_hand.run_with_cache(TEXT)
terms = expand_scores(cache, 1, 0, progress=False)
size = abs(terms).max(("prompt", "query_pos", "key_pos"))
for query in size.query_path.values:
    for key in size.key_path.values:
        if float(size.sel(query_path=query, key_path=key)) > 1e-6:
            print(f"query {query:10} key {key:18} up to {float(size.sel(query_path=query, key_path=key)):8.2f}")
matches = terms.sel(query_path="embed", key_path="embed -> L0H0").values[0]
words = by_hand.to_str_tokens(TEXT)
assert int(matches[4].argmax()) == 2 and words[4] == "a" and words[2] == "b"
figures.heatmap(matches, words, words, title="By hand: query embed, key embed -> L0H0", x="key", y="query", signed=True)

# %% [markdown]
# The paths to the logit of `c`, at the second `b`: only one is not zero, on which the induction head reads the word `c`
# directly from the embedding.

# %%
by_path = expand_logits(cache, "c", progress=False)
total = sum(values for _, values in by_path)
assert torch.allclose(total, logits[..., by_hand.to_single_token("c")], atol=1e-4)
spoken = {label: round(float(values[0, 5]), 3) for label, values in by_path if abs(values[0, 5]) > 1e-3}
print(spoken)
assert list(spoken) == ["embed -> L1H0"]

# %% [markdown]
# In SmolLM2 the sum is exact up to rounding, but long: the number of paths grows exponentially with the number of
# layers, and each MLP is a source of its own. Sources and chains of one head are some 4,500 terms; all longer chains
# are added up in one more.

# %%
PROMPT = "Mr and Mrs Dursley met Mr and Mrs D"
logits, cache = real.run_with_cache(PROMPT)
answer = logits[0, -1].argmax()
by_path = expand_logits(cache, int(answer), max_length=1, progress=False)
last = by_path.values[:, 0, -1]
assert real.to_string(answer[None]) == "urs" and torch.isclose(last.sum(), logits[0, -1, answer], rtol=1e-3)
kinds = {"direct": [], "one head": [], "longer": []}
for label, value in zip(by_path.labels, last.tolist(), strict=True):
    kinds["longer" if label == "longer" else "one head" if "->" in label else "direct"].append(value)
print(f"{len(last)} terms, sum {float(last.sum()):.2f}")
for kind, values in kinds.items():
    print(f"{kind:9} {len(values):5} terms {sum(values):+7.2f}")
by_label = dict(zip(by_path.labels, last.tolist(), strict=True))
late = sum(by_label[f"{layer}_mlp_out"] for layer in range(23, 30))
print(f"MLPs of layers 23 to 29, direct: {late:+.2f}")
assert sum(kinds["direct"]) > sum(kinds["one head"]) and late > 0.7 * float(last.sum())
figures.paths(by_path, top_k=14, pos=-1)

# %% [markdown]
# Little of the answer's logit is written by attention heads: MLPs of the last layers write most of it. And yet the
# answer is found by induction: without the eight induction heads of notebook 4 (score above .4) it is another one, and
# without eight other heads of the same layers it stays. What a head does and what it says directly are two things;
# notebook 5 traces the first by patching.

# %%
INDUCTION = [(17, 3), (17, 4), (17, 5), (18, 6), (18, 7), (20, 6), (23, 2), (23, 7)]
OTHERS = [(17, 0), (17, 1), (17, 2), (18, 0), (18, 1), (20, 1), (23, 5), (23, 6)]
said = {}
for name, heads in (("all heads", []), ("without induction heads", INDUCTION), ("without others", OTHERS)):
    with real.intervene(*(Zero(site="z", layer=layer, head=head) for layer, head in heads)):
        probabilities = real(PROMPT)[0, -1].softmax(-1)
    said[name] = real.to_string(probabilities.argmax()[None]), float(probabilities[answer])
    print(f"{name:24} most likely {said[name][0]!r:8} probability of 'urs' {said[name][1]:.2f}")
assert said["all heads"][0] == said["without others"][0] == "urs" and said["without induction heads"][0] != "urs"
assert said["without induction heads"][1] < said["all heads"][1] / 2

# %% [markdown]
# ## Side by side
#
# The same numbers, for the circuit by hand and for SmolLM2's L16H0 -> L17H4.

# %%
hand_scores, real_scores = (head_scores(one, n_prompts=4, progress=False) for one in (by_hand, real))
hand_composition = composition_scores(by_hand, progress=False).sel(kind="K")
aligned = [
    composition_scores(one, ["K"], "aligned", fold_norms=fold, progress=False)[0]
    for one, fold in ((by_hand, False), (real, True))
]
rows = {
    "attention of the first to the previous token": (
        hand_scores["previous_token"][0, 0],
        real_scores["previous_token"][16, 0],
    ),
    "induction score of the second": (hand_scores["induction"][1, 0], real_scores["induction"][17, 4]),
    "K-composition": (hand_composition[0, 0, 1, 0], composition.sel(kind="K")[16, 0, 17, 4]),
    "K-composition, aligned": (aligned[0][0, 0, 1, 0], aligned[1][16, 0, 17, 4]),
    "copying score of the second": (hand_scores["copying"][1, 0], real_scores["copying"][17, 4]),
}
columns = {name: [round(float(pair[i]), 2) for pair in rows.values()] for i, name in enumerate(("by hand", "SmolLM2"))}
assert min(columns["by hand"][:2]) > 0.95 and min(columns["SmolLM2"][:2]) > 0.7 and columns["SmolLM2"][4] < 0.5
assert columns["SmolLM2"][3] > 0.7
figures.table({"": list(rows), **columns}, title="An induction circuit by hand, and L16H0 -> L17H4")

# %% [markdown]
# The pattern is of the same kind, and so is the way it comes about: what L16H0 writes lies where the keys of L17H4 read
# well (aligned: .82 of what is possible). What differs is the end. The head by hand writes its answer itself; the real
# one, in the middle of 30 layers, does not copy by its own weights, and leaves the writing to others.

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
# # Attention, step by step
#
# From one-hot tokens to sampled text, with every step written out in plain torch and compared with what the model of
# this package computes at the hook point of that step. Vectors are rows: $y = xW$.
#
# The model is small, has been trained for a few seconds on sentences of one kind, and has everything that a large one
# has: embedding, positions, one block of attention and MLP with norms, a tied unembedding.

# %%
import math

import torch
import torch.nn.functional as F

from interp import HookedTransformer, TransformerConfig, Vocabulary
from interp.model import Sampling
from interp.plot import figures
from interp.training import Batch, train

torch.set_num_threads(1)
torch.set_grad_enabled(False)  # `train` switches gradients on for itself

KINDS = {
    "determiner": ["a", "the"],
    "adjective": ["fluffy", "blue", "verdant", "gentle"],
    "noun": ["creature", "forest", "fox"],
    "verb": ["roamed", "saw"],
}
SENTENCE = ["determiner", "adjective", "adjective", "noun", "verb", "determiner", "adjective", "noun"]
words = Vocabulary([word for kind in KINDS.values() for word in kind])
kind_of = {word: kind for kind, members in KINDS.items() for word in members}


def sentence(generator):
    """Adjectives and nouns differ from those before them; determiners may come again."""
    left, row = {kind: list(members) for kind, members in KINDS.items()}, []
    for kind in SENTENCE:
        row.append(left[kind][int(torch.randint(len(left[kind]), (1,), generator=generator))])
        if kind in ("adjective", "noun"):
            left[kind].remove(row[-1])
    return " ".join(row)


def sentences(generator):
    tokens = words.to_tokens_and_mask([sentence(generator) for _ in range(32)])[0]
    return Batch(tokens)


print(sentence(torch.Generator().manual_seed(0)))
cfg = TransformerConfig(
    n_layers=1,
    d_model=32,
    n_heads=2,
    d_head=16,
    n_ctx=8,
    d_vocab=words.d_vocab,
    tie_word_embeddings=True,
    seed=0,
)
run = train(HookedTransformer(cfg, words), sentences, steps=300, lr=1e-2, progress=False)
model = run.model
print(f"loss {float(run.losses[0]):.2f} -> {float(run.losses[-20:].mean()):.2f} nats a token")

# %% [markdown]
# What the grammar leaves open, in nats: the choice among 4 and then 3 adjectives, 3 nouns, 2 verbs, 2 determiners, and
# the 2 adjectives and 2 nouns not used yet; divided by the 7 words that are predicted. No model can do better.

# %%
floor = sum(math.log(choices) for choices in (4, 3, 3, 2, 2, 2, 2)) / 7
print(f"at best {floor:.2f}")
assert floor - 0.02 < float(run.losses[-20:].mean()) < floor + 0.1

# %% [markdown]
# ## Tokens and positions are one-hot vectors
#
# A word is a row with a single 1 among `d_vocab` places, a position a row of the identity. Multiplied by a matrix, a
# one-hot row picks a row of it: that is all an embedding does. The two are added: the *residual stream*.

# %%
text = "a fluffy blue creature roamed the verdant forest"
logits, cache = model.run_with_cache(text)
labels = model.to_str_tokens(text)
tokens = model.to_tokens(text)[0]
n = len(tokens)

one_hot_tokens = F.one_hot(tokens, words.d_vocab).float()  # [pos, d_vocab]
one_hot_positions = torch.eye(n)  # [pos, pos]
x = one_hot_tokens @ model.W_E + one_hot_positions @ model.W_pos
assert torch.equal(x, cache["resid_pre", 0][0])
figures.heatmap(one_hot_tokens, labels, words.words, x="word", y="token", title="Tokens as one-hot rows")

# %% [markdown]
# In GPT-3 this matrix alone has 50,257 x 12,288 parameters.

# %%
gpt3 = TransformerConfig(n_layers=96, d_model=12288, n_heads=96, d_vocab=50257, n_ctx=2048, tie_word_embeddings=True)
print(f"{gpt3.n_params.embed:,}")
assert gpt3.n_params.embed == 617_558_016

# %% [markdown]
# ## Attention in three versions
#
# Every token looks at the tokens up to it and asks how much each of them matters to it: a *score* for every pair.
#
# 1. The stream itself: $x_i \cdot x_j$. Symmetric: the tokens that are most like the query win.
# 2. With weights: $q_i \cdot k_j$, $q = x W_Q$, $k = x W_K$. What a token looks for and what it offers are two things.
#    With identity weights this is version 1.
# 3. Scaled: $q_i \cdot k_j / \sqrt{d_k}$.
#
# What attention reads is the stream through a LayerNorm (mean 0, variance 1 over `d_model`, with $1/d$ and not
# $1/(d-1)$; then a gain and a bias).


# %%
def layer_norm(x, norm):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.w + norm.b


block = model.blocks[0]
attn, head = block.attn, 0
read = layer_norm(x, block.ln1)
assert torch.allclose(read, cache["normalized", 0, "ln1"][0], atol=1e-5)

q = read @ attn.W_Q[head] + attn.b_Q[head]
k = read @ attn.W_K[head] + attn.b_K[head]
version_1 = read @ read.T
version_2 = q @ k.T
version_3 = version_2 / math.sqrt(cfg.d_head)

assert torch.allclose(version_1, version_1.T)
assert (version_2 - version_2.T).abs().max() > 1
assert torch.equal(version_1, (read @ torch.eye(32)) @ (read @ torch.eye(32)).T)
visible = torch.ones(n, n).tril().bool()
assert torch.allclose(version_3[visible], cache["attn_scores", 0][0, head][visible], atol=1e-4)
figures.heatmap(version_3, labels, labels, x="key", y="query", signed=True, title="Scores of L0H0, version 3, unmasked")

# %% [markdown]
# Why the root? A product of two random vectors of $d_k$ normal numbers has a standard deviation of $\sqrt{d_k}$, 8 at
# $d_k = 64$. Unscaled, a softmax over such scores is nearly one-hot, so that hardly any gradient passes through it
# (Vaswani et al. 2017, section 3.2.1).

# %%
generator = torch.Generator().manual_seed(0)
a, b = torch.randn(2, 200_000, 64, generator=generator)
products = (a * b).sum(-1)
print(f"std of q . k at d_k = 64: {float(products.std()):.2f}; scaled {float((products / 8).std()):.3f}")
assert abs(products.std() - 8) < 0.05

# %% [markdown]
# ## Mask and softmax
#
# A query must not see keys after it: it would be told what to predict. Their scores become $-\infty$, and a softmax
# over each *row* makes the rest a distribution: the *pattern*. Rows are queries, columns are keys.

# %%
masked = version_3.masked_fill(~visible, -math.inf)
pattern = masked.softmax(dim=-1)
assert torch.allclose(pattern, cache["pattern", 0][0, head], atol=1e-5)
assert torch.allclose(pattern.sum(-1), torch.ones(n))
figures.pattern(pattern, labels, title="L0H0: pattern")

# %% [markdown]
# ### A picture with keys as rows
#
# A well-known picture of this very sentence has it the other way round: each row is a key, each column a query. In it,
# *creature* attends to *fluffy* and *blue*, by scores that differ by .4, and *forest* to *verdant*. Read with queries
# as rows, it would have an adjective look at a noun that is not there yet. Here is the head of the picture, by hand,
# with queries as rows.

# %%
asks = torch.zeros(words.d_vocab, words.d_vocab)  # [query word, key word]
for noun, adjective, score in (("creature", "fluffy", 93.0), ("creature", "blue", 93.4), ("forest", "verdant", 97.9)):
    asks[words.to_single_token(noun), words.to_single_token(adjective)] = score
scores = one_hot_tokens @ asks @ one_hot_tokens.T
grid = scores.masked_fill(~visible, -math.inf).softmax(dim=-1)
at = {word: place for place, word in enumerate(labels)}
for noun, adjective, weight in (("creature", "fluffy", 0.401), ("creature", "blue", 0.599), ("forest", "verdant", 1.0)):
    print(f"{noun} attends to {adjective}: {float(grid[at[noun], at[adjective]]):.3f}")
    assert round(float(grid[at[noun], at[adjective]]), 3) == weight
figures.pattern(grid, labels, title="Nouns attend to the adjectives before them")

# %% [markdown]
# ## Values: what is passed on
#
# A query collects the values of the keys by their weights, $z_i = \sum_{j \le i} \alpha_{ij} v_j$, $v = x W_V$. All
# heads do so in parallel. Their results side by side, times $W_O$, are added to the stream; which is the same as adding
# up what each head writes by its own part of $W_O$.

# %%
v = read @ attn.W_V[head] + attn.b_V[head]
z = pattern @ v
assert torch.allclose(z, cache["z", 0][0, :, head], atol=1e-5)

z_all = cache["z", 0][0]  # [pos, head, d_head]
side_by_side = z_all.flatten(1) @ attn.W_O.flatten(0, 1) + attn.b_O
one_by_one = sum(z_all[:, h] @ attn.W_O[h] for h in range(cfg.n_heads)) + attn.b_O
assert torch.allclose(side_by_side, one_by_one, atol=1e-5)
assert torch.allclose(side_by_side, cache["attn_out", 0][0], atol=1e-5)

# %% [markdown]
# As a matrix on the whole text, a head is $A\,x\,W_V W_O$: the pattern mixes positions, and a matrix of rank at most
# `d_head` says what is moved. Two heads whose patterns are the same are therefore one, whose matrix is the sum of the
# two. To show it, both heads here are given the pattern of the first.

# %%
OV = attn.W_V @ attn.W_O  # [head, d_model, d_model]
assert all(int(torch.linalg.matrix_rank(matrix)) == cfg.d_head for matrix in OV)
with model.hooks([(("pattern", 0), lambda both, hook: both[:, :1].expand_as(both).clone())]):
    same_pattern = model.run_with_cache(text)[1]["attn_out", 0][0]
constant = sum(attn.b_V[h] @ attn.W_O[h] for h in range(cfg.n_heads)) + attn.b_O
assert torch.allclose(same_pattern, pattern @ read @ (OV[0] + OV[1]) + constant, atol=1e-4)

# %% [markdown]
# ## The block: pre-norm and post-norm
#
# After attention comes an MLP, which works on each position by itself. Where the norms stand is a choice:
#
# - **pre-norm**: $t = x + \mathrm{MHA}(\mathrm{LN}(x))$, $y = t + \mathrm{FFN}(\mathrm{LN}(t))$. The stream itself is
#   never normalised; everything that reads it is, and once more before the unembedding.
# - **post-norm**, as in the first transformer: $t = \mathrm{LN}(x + \mathrm{MHA}(x))$,
#   $y = \mathrm{LN}(t + \mathrm{FFN}(t))$.
#
# The same weights give different outputs in the two.


# %%
def ffn(t, mlp):
    return F.gelu(t @ mlp.W_in + mlp.b_in) @ mlp.W_out + mlp.b_out


def mha(x, attn):
    heads = []
    for h in range(attn.cfg.n_heads):
        q, k, v = (x @ W[h] + b[h] for W, b in ((attn.W_Q, attn.b_Q), (attn.W_K, attn.b_K), (attn.W_V, attn.b_V)))
        scores = (q @ k.T / math.sqrt(attn.cfg.d_head)).masked_fill(~visible, -math.inf)
        heads.append(scores.softmax(dim=-1) @ v)
    return torch.cat(heads, dim=-1) @ attn.W_O.flatten(0, 1) + attn.b_O


t = x + mha(layer_norm(x, block.ln1), attn)
y = t + ffn(layer_norm(t, block.ln2), block.mlp)
assert torch.allclose(t, cache["resid_mid", 0][0], atol=1e-4)
assert torch.allclose(y, cache["resid_post", 0][0], atol=1e-4)

post_cfg = TransformerConfig(**cfg.to_dict() | {"norm_position": "post"})
post_model = HookedTransformer(post_cfg, words)
post_model.load_state_dict({name: w for name, w in model.state_dict().items() if not name.startswith("ln_final")})
t = layer_norm(x + mha(x, attn), block.ln1)
y_post = layer_norm(t + ffn(t, block.mlp), block.ln2)
_, post_cache = post_model.run_with_cache(text)
assert torch.allclose(y_post, post_cache["resid_post", 0][0], atol=1e-4)
print(f"pre- and post-norm differ by up to {float((y - y_post).abs().max()):.1f}")
assert (y - y_post).abs().max() > 1

# %% [markdown]
# ## Unembedding, tied
#
# A word's logit is the product of the stream, normed, with the word's own embedding: $u = h\,E^T$. A softmax at each
# position turns logits into probabilities of the *next* word.

# %%
u = layer_norm(y, model.ln_final) @ model.W_E.T + model.b_U
assert torch.allclose(u, logits[0], atol=1e-3)
probabilities = u.softmax(dim=-1)
assert torch.allclose(probabilities.sum(-1), torch.ones(n))
figures.heatmap(
    probabilities,
    labels,
    words.words,
    x="next word",
    y="after",
    value="probability",
    limits=(0, 1),
    title="Predictions",
)

# %% [markdown]
# The grammar has been learned: at each position nearly all probability is on words of the right kind, and after *the
# verdant* not on *creature*, which the sentence has used already.

# %%
for place, kind in enumerate(SENTENCE[1:]):
    members = [words.to_single_token(word) for word in KINDS[kind]]
    share = float(probabilities[place, members].sum())
    print(f"after {labels[place]:10} {share:.3f} on {kind}s")
    assert share > 0.97
again = float(probabilities[6, words.to_single_token("creature")])
print(f"'creature' a second time: {again:.3f}")
assert again < 0.1

# %% [markdown]
# ## Predict, sample, append
#
# To write is to repeat three steps. `model.generate` does the same, and keeps the keys and values of earlier positions
# instead of computing them again.

# %%
sampling, generator = Sampling(temperature=1.0), torch.Generator().manual_seed(1)
written = model.to_tokens("the")
for _ in range(7):
    next_logits = model(written)[:, -1]  # predict
    choice = sampling.choose(next_logits, generator)  # sample
    written = torch.cat([written, choice[:, None]], dim=1)  # append
generated = model.generate("the", max_new_tokens=7, temperature=1.0, seed=1, progress=False)
assert torch.equal(generated.tokens, written)

for seed in range(1, 6):
    text = words.to_string(model.generate("the", 7, temperature=1.0, seed=seed, progress=False).tokens[0])
    print(text)
    assert [kind_of[word] for word in text.split()] == SENTENCE

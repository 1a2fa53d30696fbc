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
# # Order without recurrence
#
# A recurrent network reads one token after another. Attention sees all of them at once: left to itself, it cannot tell
# *the dog bit the man* from *the man bit the dog*. What tells it about order is the causal mask and the code for
# positions. This notebook shows the symmetry, the matrix that shifts a sinusoidal code, and what each code costs a head
# that wants to attend to the position before.
#
# Everything is in float64, so that what is exact looks exact.

# %%
import math

import torch

from interp import HookedTransformer, TransformerConfig, Vocabulary
from interp.heads import previous_token_score
from interp.plot import figures

words = Vocabulary(["the", "dog", "bit", "man", "a"])


def random_model(attention_dir, positional_embedding_type):
    cfg = TransformerConfig(
        n_layers=2,
        d_model=32,
        n_heads=4,
        n_ctx=8,
        d_vocab=words.d_vocab,
        attention_dir=attention_dir,
        positional_embedding_type=positional_embedding_type,
        seed=0,
        init_std=0.5,
        dtype=torch.float64,
    )
    return HookedTransformer(cfg, words)


# %% [markdown]
# ## Attention does not know about order
#
# Without mask and positions, permuting the tokens permutes the outputs, and that is all: $h(Px) = P\,h(x)$ for every
# permutation $P$. Either the mask or the positions break it.

# %%
text, permutation = "the dog bit a man", torch.tensor([3, 4, 2, 0, 1])
tokens = words.to_tokens_and_mask(text)[0]
print(text, " ->  ", words.to_string(tokens[0, permutation]))
cases = {
    "no mask, no positions": random_model("bidirectional", "none"),
    "causal mask, no positions": random_model("causal", "none"),
    "no mask, learned positions": random_model("bidirectional", "standard"),
}
broken_by = {}
for name, model in cases.items():
    with torch.no_grad():
        broken_by[name] = float((model(tokens[:, permutation]) - model(tokens)[:, permutation]).abs().max())
    print(f"{name:28} max |h(Px) - P h(x)| = {broken_by[name]:.1e}")
assert broken_by["no mask, no positions"] < 1e-12
assert broken_by["causal mask, no positions"] > 0.1 and broken_by["no mask, learned positions"] > 0.1

# %% [markdown]
# Without mask and positions *bit* sees a bag of words. The mask alone already tells it who came before.

# %%
for name, model in cases.items():
    with torch.no_grad():
        one, other = (model(sentence)[0, 2] for sentence in ("the dog bit the man", "the man bit the dog"))
    print(f"{name:28} logits at 'bit' differ by {float((one - other).abs().max()):.1e}")
    assert (torch.allclose(one, other)) == (name == "no mask, no positions")

# %% [markdown]
# The pattern of a head shows it, too: in the symmetric model both `the` attend alike, and are attended to alike; in the
# others they are not.

# %%
sentence = "the dog bit the man"
patterns = {}
for name, model in cases.items():
    _, cache = model.run_with_cache(sentence, names_filter=("pattern", 0))
    patterns[name] = cache["pattern", 0][0, 0]
alike = {
    name: torch.allclose(pattern[0], pattern[3]) and torch.allclose(pattern[:, 0], pattern[:, 3])
    for name, pattern in patterns.items()
}
assert [name for name, same in alike.items() if same] == ["no mask, no positions"]
figures.pattern(
    patterns["no mask, no positions"],
    words.to_str_tokens(sentence),
    title="No mask, no positions (L0H0)",
    attention_dir="bidirectional",
)

# %% [markdown]
# ## Sinusoidal positions: one matrix shifts them all
#
# $e_k = [\sin(\omega_j k), \cos(\omega_j k)]_j$ with $\omega_j = 10000^{-2j/E}$, $j < E/2$ (Vaswani et al. 2017,
# section 3.5): one clock hand per frequency, from one turn in 6.3 positions to one in tens of thousands.

# %%
E, N = 64, 1000


def sinusoidal_table(n_positions, width):
    cfg = TransformerConfig(
        n_layers=0,
        d_model=width,
        n_heads=1,
        n_ctx=n_positions,
        d_vocab=1,
        positional_embedding_type="sinusoidal",
        dtype=torch.float64,
    )
    return HookedTransformer(cfg).W_pos


e = sinusoidal_table(N, E)
assert torch.allclose(e.square().sum(dim=1), torch.tensor(E / 2, dtype=torch.float64))  # |e_k|^2 = E / 2
rows = [str(k) for k in range(32)]
dimensions = [f"{part} {j}" for j in range(14) for part in ("sin", "cos")]
title = "Sinusoidal positions: the fastest 14 of 32 frequencies"
figures.heatmap(e[:32, :28], rows, dimensions, x="dimension", y="position", signed=True, title=title)

# %% [markdown]
# One step turns every hand by its own fixed angle, wherever it stands. A turn is linear, so one orthogonal matrix $T$
# takes every $e_k$ to $e_{k+1}$; $T^5$ shifts by five. This is what lets a head express *the position before* by
# weights: $W_Q$ carries $T^{-1}$.


# %%
def turns(angles):
    """The block-diagonal matrix that turns each pair [sin, cos] of a row vector by its angle."""
    cos, sin = angles.cos(), angles.sin()
    return torch.block_diag(*torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], dim=-2))


frequencies = 10_000.0 ** (-torch.arange(0, E, 2, dtype=torch.float64) / E)
T = turns(frequencies)
T5 = torch.linalg.matrix_power(T, 5)
errors = {
    "T is orthogonal": T @ T.T - torch.eye(E),
    "e_k T = e_(k+1)": e[:-1] @ T - e[1:],
    "e_k T^5 = e_(k+5)": e[:-5] @ T5 - e[5:],
}
for name, error in errors.items():
    print(f"{name:18} to {float(error.abs().max()):.0e}, over {len(error)} rows")
    assert error.abs().max() < 2e-13

# %% [markdown]
# So $e_i \cdot e_j$ depends on $i - j$ alone, and is largest at $i = j$.

# %%
products = e @ e.T
distances = torch.arange(0, 101)
along = torch.stack([products.diagonal(offset=int(d)).mean() for d in distances])
assert max(float(products.diagonal(offset=int(d)).std()) for d in distances) < 1e-11
assert along.argmax() == 0
figures.curves(
    {"e_i . e_j": (distances, along)}, x="distance i - j", y="product", title="Sinusoidal: products by distance"
)

# %% [markdown]
# ## What a previous-token head costs, by position code
#
# Let $c_i$ be the code of position $i$, and $M$ a matrix with $c_i M$ = what a query at $i$ looks for. The head's
# scores are $\beta\, c_i M c_j^T$, and the sharpness $\beta$ must be large enough for the softmax to leave all but
# 0.1 % to $j = i - 1$. Five codes:
#
# - **one-hot**: $M$ shifts the ones by one place; nothing is near anything.
# - **quadratic**: $c_i = (i, i^2, 1)$; the scores are $-(i - 1 - j)^2$ up to a term without $j$.
# - **circle**: one clock hand, one turn in $N + 1$ positions.
# - **sinusoidal**: $M = T^{-1}$, all frequencies or the fastest eight.
# - **rotary**: no code in the stream; queries and keys are one constant vector, turned by the model.


# %%
def one_hot(n):
    return torch.eye(n, dtype=torch.float64), torch.diag(torch.ones(n - 1, dtype=torch.float64), diagonal=-1)


def quadratic(n):
    i = torch.arange(n, dtype=torch.float64)
    M = torch.tensor([[2, 0, 0], [0, 0, 0], [-2, -1, 0]], dtype=torch.float64)  # (i, i^2, 1) M = (2 (i - 1), -1, 0)
    return torch.stack([i, i**2, torch.ones_like(i)], dim=1), M


def hands(n, angles):
    at = torch.arange(n)[:, None] * angles
    return torch.stack([at.sin(), at.cos()], dim=-1).flatten(1), turns(angles).T


def circle(n):
    return hands(n, torch.tensor([2 * math.pi / (n + 1)], dtype=torch.float64))


codes = {
    "one-hot": one_hot,
    "quadratic": quadratic,
    "circle": circle,
    "sinusoidal 64": lambda n: hands(n, frequencies),
    "its fastest 8": lambda n: hands(n, frequencies[:8]),
}
assert torch.allclose(hands(N, frequencies)[0], e)

EPS = 1e-3


def scores_of(code, n):
    c, M = code(n)
    return c @ M @ c.T


def weight_left(scores, sharpness):
    """What the last position, which has the most keys to choose from, gives to the one before."""
    return float((sharpness * scores[-1]).softmax(dim=-1)[-2])


def sharpness_needed(scores):
    """The least sharpness with a weight of 1 - EPS, by bisection."""
    low, high = 0.0, 1.0
    while weight_left(scores, high) < 1 - EPS:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if weight_left(scores, middle) >= 1 - EPS else (middle, high)
    return high


# %%
sizes = (16, 64, 512)
needed, largest, rank = {}, {}, {}
for name, code in codes.items():
    tables = [scores_of(code, n) for n in sizes]
    needed[name] = [sharpness_needed(scores) for scores in tables]
    largest[name] = [float(scores.abs().max()) for scores in tables]
    rank[name] = [int(torch.linalg.matrix_rank(code(n)[1])) for n in sizes]

print(f"{'sharpness at N =':16}" + "".join(f"{n:>10}" for n in sizes) + "    largest raw score               rank of M")
for name in codes:
    print(
        f"{name:16}"
        + "".join(f"{value:10.4g}" for value in needed[name])
        + "   "
        + "".join(f"{value:10.3g}" for value in largest[name])
        + "   "
        + "".join(f"{value:5}" for value in rank[name])
    )

# %% [markdown]
# One-hot codes need $\ln((N-1)(1-\epsilon)/\epsilon)$, because all other keys are equally wrong; and a wide head, since
# the shift has rank $N - 1$. Quadratic and sinusoidal codes need the same at every $N$: only the nearest keys compete.
# The quadratic code does it with rank 2, but its scores grow as $N^2 - 1$, which single precision must be able to tell
# apart. A single clock hand has rank 2 as well and scores no larger than 1, so its neighbours on the circle come ever
# closer.


# %%
def close(name, expected, digits=2):
    assert all(round(value, digits) == want for value, want in zip(needed[name], expected, strict=True)), needed[name]


close("one-hot", [9.61, 11.05, 13.14])
close("quadratic", [7.60] * 3)
close("circle", [113, 1628, 101325], digits=0)
close("sinusoidal 64", [7.02] * 3)
close("its fastest 8", [7.09] * 3)
formula = [math.log((n - 1) * (1 - EPS) / EPS) for n in sizes]
assert all(abs(a - b) < 1e-9 for a, b in zip(needed["one-hot"], formula, strict=True))
assert largest["quadratic"] == [n**2 - 1 for n in sizes]
assert rank["one-hot"] == [n - 1 for n in sizes]
assert rank["quadratic"] == [2, 2, 2] and rank["circle"] == [2, 2, 2] and rank["its fastest 8"] == [16] * 3

# %% [markdown]
# Over more lengths, on logarithmic axes: where the need for sharpness grows, and where it does not.

# %%
lengths = [16, 32, 64, 128, 256, 512]
need = {name: [sharpness_needed(scores_of(code, n)) for n in lengths] for name, code in codes.items()}
for name in ("quadratic", "sinusoidal 64", "its fastest 8"):
    assert max(need[name]) - min(need[name]) < 0.01
figure = figures.curves(
    {name: (lengths, values) for name, values in need.items()},
    x="N",
    y="sharpness",
    title="Sharpness for a previous-token weight of 99.9 %",
)
figure.update_xaxes(type="log", tickvals=lengths).update_yaxes(type="log", tickvals=[10, 100, 1000, 10_000, 100_000])

# %% [markdown]
# ## Rotary positions, in a model
#
# Rotary models (Su et al. 2021) write no position into the stream: they turn queries and keys by their position. Give
# every token the same content, let $W_K$ put the same vector $(1, 0)$ in every pair of dimensions, and turn the queries
# back by one: $W_Q = \alpha R_{-1} W_K$. The score is $\alpha \sum_m \cos(\omega_m (i - 1 - j))$ for any $N$: the wider
# the head, the more frequencies, the smaller $\alpha$.


# %%
def rotary_model(d_head, n_ctx, alpha):
    """One head whose queries and keys are constant but for the rotation; this package pairs dimensions m, m + half."""
    cfg = TransformerConfig(
        n_layers=1,
        d_model=1,
        n_heads=1,
        d_head=d_head,
        n_ctx=n_ctx,
        d_vocab=1,
        attn_only=True,
        normalization_type=None,
        attn_scale=1.0,
        positional_embedding_type="rotary",
        dtype=torch.float64,
    )
    model = HookedTransformer(cfg)
    step = 10_000.0 ** (-torch.arange(0, d_head, 2, dtype=torch.float64) / d_head)
    with torch.no_grad():
        model.embed.W_E.fill_(1.0)
        attn = model.blocks[0].attn
        attn.W_K[0, 0] = torch.cat([torch.ones(d_head // 2), torch.zeros(d_head // 2)])
        attn.W_Q[0, 0] = alpha * torch.cat([(-step).cos(), (-step).sin()])
    return model


def rotary_pattern(d_head, n_ctx, alpha):
    tokens = torch.zeros(1, n_ctx, dtype=torch.long)
    _, cache = rotary_model(d_head, n_ctx, alpha).run_with_cache(tokens, names_filter=["*attn_scores", "*pattern"])
    return cache["attn_scores", 0][0, 0], cache["pattern", 0][0, 0]


for d_head, expected in ((16, 14.76), (64, 7.02), (128, 3.99)):
    alphas = [sharpness_needed(rotary_pattern(d_head, n, 1.0)[0]) for n in sizes]
    weights = [float(rotary_pattern(d_head, n, alphas[0] + 0.01)[1][-1, -2]) for n in sizes]
    print(
        f"d_head {d_head:3}: alpha {alphas[0]:.2f} at N = 16, {alphas[-1]:.2f} at 512; least weight {min(weights):.4f}"
    )
    assert all(round(alpha, 2) == expected for alpha in alphas)
    assert min(weights) >= 1 - EPS

# %% [markdown]
# At $d_{head} = 64$ this is the sinusoidal code's 7.02: the same frequencies, added up in the same way. The pattern is
# a clean stripe at every length; position 0 has nothing before it and keeps itself.

# %%
_, pattern = rotary_pattern(64, 24, 7.03)
print(f"previous-token score {float(previous_token_score(pattern)):.4f}")
assert previous_token_score(pattern) > 0.999
figures.pattern(pattern, [str(i) for i in range(24)], title="Rotary previous-token head, d_head 64")

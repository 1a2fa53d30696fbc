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
# # "Attention Is All You Need" in one page
#
# The transformer of Vaswani et al. 2017 has two stacks. An *encoder* reads a source, each position seeing all others. A
# *decoder* writes a target word by word: each position sees those before it, and by *cross-attention* the encoder's
# last stream. Which word of the source does this word of the target come from? One looks at the cross-attention.
#
# Here such a model, one layer and one head in each stack, is trained to write its source backwards. Its cross-attention
# is compared with that of a circuit that does the same and that was written by hand. The last part looks at an encoder
# alone, a real one: why does MiniLM find two sentences similar?

# %%
import torch

from circuits import gallery
from interp import HookedEncoderDecoder, HookedTransformer
from interp.heads import head_scores_of, score_table
from interp.lens import direct_attribution
from interp.metrics import LogitDifference
from interp.patching import sweep
from interp.plot import attention, figures
from interp.similarity import cosine_similarity, similarity_attribution
from interp.training import Batch, train

torch.set_num_threads(1)  # the model is small, and the same number of threads repeats a run bit for bit

# %% [markdown]
# ## Two stacks
#
# Everything is as in the paper: norms after each addition (`norm_position="post"`), sinusoidal positions, embeddings
# times the root of their width and shared by both stacks and the unembedding, ReLU. A word is a letter. `!` begins
# every text, `.` ends it.

# %%
by_hand = gallery.pair("reverse_source")
vocabulary = by_hand.build().vocabulary
START, END = vocabulary.to_single_token("!"), vocabulary.to_single_token(".")
D_MODEL, N_CTX = 64, 8

stack = {
    "n_layers": 1,
    "n_heads": 1,
    "d_model": D_MODEL,
    "n_ctx": N_CTX,
    "d_vocab": vocabulary.d_vocab,
    "norm_position": "post",
    "positional_embedding_type": "sinusoidal",
    "act_fn": "relu",
    "embed_scale": D_MODEL**0.5,
    "init_std": D_MODEL**-0.5,
}
untrained = HookedEncoderDecoder(
    {
        "encoder": stack | {"seed": 0},
        "decoder": stack | {"seed": 1, "tie_word_embeddings": True},
        "start_token": START,
        "stop_token": END,
        "share_embeddings": True,
    },
    tokenizer=vocabulary,
)
print(f"{untrained.cfg.n_params.total:,} parameters; `untrained.hook_map()` shows all hook points, among them")
print(*(name for name in untrained.hook_map() if "cross_attn" in name), sep="\n")

# %% [markdown]
# ## Training
#
# A batch says what the encoder reads (`source`) and what the decoder reads, which is the target from the start on. What
# it is to predict at each position is the next word of the target.


# %%
def padded(rows):
    """Ids and masks [batch, N_CTX]; shorter rows are padded at their end."""
    ids = torch.tensor([[*row, *[0] * (N_CTX - len(row))] for row in rows])
    return ids, torch.tensor([[i < len(row) for i in range(N_CTX)] for row in rows])


def batch_of(texts):
    source, source_mask = padded([vocabulary.to_tokens(text)[0].tolist() for text in texts])
    answers = [[vocabulary.to_single_token(word) for word in by_hand.reference(text)] for text in texts]
    target, target_mask = padded([[START, *answer] for answer in answers])
    return Batch(target, attention_mask=target_mask, source=source, source_mask=source_mask)


def random_texts(generator, n=64):
    lengths = torch.randint(2, 7, (n,), generator=generator).tolist()
    letters = torch.randint(0, 4, (n, 6), generator=generator).tolist()
    return ["!" + "".join("abcd"[i] for i in row[:length]) + "." for row, length in zip(letters, lengths, strict=True)]


run = train(untrained, lambda generator: batch_of(random_texts(generator)), 1200, lr=3e-3, warmup=100, progress=False)
model = run.model
figures.loss_curves({"loss, nats a word": run.losses}, title="A model of two stacks learns to write backwards")

# %% [markdown]
# It writes by itself now: the encoder runs once, then the decoder reads what it has written. Of all 5,461 texts of up
# to six letters nearly all come out right.

# %%
texts = list(by_hand.inputs())
n_right = 0
for first in range(0, len(texts), 512):
    batch = batch_of(texts[first : first + 512])
    written = model.generate(batch.source, N_CTX - 1, source_mask=batch.source_mask, progress=False).tokens
    written = torch.nn.functional.pad(written, (0, N_CTX - written.shape[1]))
    n_right += int(((written == batch.tokens) | ~batch.attention_mask).all(dim=1).sum())
print(f"{n_right} of {len(texts)} right")
assert n_right > 0.93 * len(texts)
model.generate("!dabbcd.", N_CTX - 1, progress=False).texts

# %% [markdown]
# ## Its cross-attention, beside that of a circuit written by hand
#
# The circuit of the gallery has an encoder that counts its letters and looks up where each is wanted, and one cross
# head whose keys are those places (`circuits/gallery/reverse_source.py`). Nobody told the trained head anything. On the
# left the weights were declared, on the right they were found.

# %%
hand_built = by_hand.build().compile()
SOURCE, TARGET = "!abcadb.", "bdacba."
rows, columns = hand_built.to_target_str_tokens(TARGET), hand_built.encoder.to_str_tokens(SOURCE)
found = {}
for name, its_model in (("written by hand", hand_built), ("trained", model)):
    _, cache = its_model.run_with_cache(SOURCE, TARGET)
    found[name] = cache["pattern", 0, "cross_attn"][0, 0]
figures.patterns(
    torch.stack(list(found.values())), rows, columns, names=list(found), title="Which letter of the source is read"
)

# %% [markdown]
# The same for all texts: how much of the trained head's attention lies on the letter that the hand-built one reads.

# %%
whole = batch_of(texts)
of_hand, of_trained = (
    its_model.run_with_cache(
        whole.source,
        whole.tokens,
        return_type=None,
        names_filter=("pattern", 0, "cross_attn"),
        source_mask=whole.source_mask,
        target_mask=whole.attention_mask,
    )[1]["pattern", 0, "cross_attn"][:, 0]
    for its_model in (hand_built, model)
)
writes = whole.attention_mask[:, :-1] & whole.attention_mask[:, 1:]  # the end is not read on from
shared = float((of_hand * of_trained).sum(dim=-1)[:, :-1][writes].mean())
same = float((of_hand.argmax(-1) == of_trained.argmax(-1))[:, :-1][writes].float().mean())
print(f"attention on the same letter: {shared:.2f}; the same letter first: {same:.3f}")
assert shared > 0.8 and same > 0.93

# %% [markdown]
# Each head of both stacks, in the explorer: choose the stack above. Point at a word of the target to see where it comes
# from, or at a word of the source to see who reads it.

# %%
_, cache = model.run_with_cache(SOURCE, TARGET)
attention(cache, rows, source_tokens=columns, title="Reversing abcadb")

# %% [markdown]
# ## What happens at one word
#
# `cache.decoder` and `cache.encoder` are ordinary caches, so whatever is known from models of one stack works on them.
# Here, the logit of each right word, as a sum over who wrote it. The cross head itself says nothing: it brings the
# letter, in the encoder's terms, and the MLP after it says the word.

# %%
answers = torch.tensor([[vocabulary.to_single_token(word) for word in [*TARGET, "."]]])[:, : len(rows)]
split = direct_attribution(cache.decoder, answers)
means = split["attribution"].isel(prompt=0)[:, : len(TARGET)].mean("pos")
print(means.to_series().round(2).to_string())
assert float(means.sel(component="0_mlp_out")) > 3 > 10 * abs(float(means.sel(component="0_cross_attn_out")))

# %% [markdown]
# And by intervention: two sources differ in their last letter, which is the first that is written. Patched one place at
# a time, what carries it? In the encoder's stream the place of that letter, all of it and nothing else; in the decoder,
# the cross head at the first position.

# %%
clean, corrupted = ("!abcadb.", "b"), ("!abcadc.", "b")
metric = LogitDifference("b", "c", pos=0)
restored = sweep(model, corrupted, clean, metric, ("resid_post", "encoder"), normalize=True, progress=False)
head = sweep(model, corrupted, clean, metric, ("z", "cross_attn"), normalize=True, progress=False)
print(head.values.round(2))
assert restored[0, 6] > 0.95 and abs(restored.values[0, :5]).max() < 0.05 and head[0, 0] > 0.95
figures.sweep(restored, title="Restoring one place of the encoder's stream")

# %% [markdown]
# ## A circuit that translates
#
# Cross-attention drawn for two languages shows lines that cross where the order of words differs. This circuit of the
# gallery translates word by word and puts an adjective behind its noun; it is right on all 19,607 sequences of up to
# five words of its language.

# %%
translator = gallery.pair("translate").build().compile()
english = "<s> the red house sees ."
french = translator.generate(english, 6, progress=False).texts[0]
print(english, "->", french)
assert french == "la maison rouge voit"
_, cache = translator.run_with_cache(english, french)
figures.pattern(
    cache["pattern", 0, "cross_attn"][0, 0],
    translator.to_target_str_tokens(french),
    translator.encoder.to_str_tokens(english),
    title="Adjectives move",
)

# %% [markdown]
# ## An encoder alone: MiniLM
#
# MiniLM (Wang et al. 2020; all-MiniLM-L6-v2) makes one vector of a sentence: the mean of its last stream over the
# tokens. It has 6 layers of 12 heads and no unembedding. It is needed once on this machine: `interp fetch minilm`
# downloads it.
#
# Its attention looks both ways, so its heads are scored for both: attention to the token before, to the one after, to
# the token itself, to the special tokens at both ends. One head is a nearly perfect previous-token head, as in the
# language models of the other notebooks.

# %%
minilm = HookedTransformer.from_pretrained("minilm")
texts = ["The cat sat on the mat because it was tired.", "A sleepy kitten rested on the rug.", "Interest rates rose."]
_, cache = minilm.run_with_cache(texts[0], return_type=None)
scores = head_scores_of(
    cache, texts[0], scores=["previous_token", "next_token", "own_token", "first_token", "last_token"]
)
for name in scores.data_vars:
    if not name.endswith("_se"):
        best = score_table(scores, name, top_k=1)
        print(f"{name:14} {best.index[0]:5} {best[name].iloc[0]:.4f}")
assert score_table(scores, "previous_token", top_k=1).index[0] == "L0H2" and scores["previous_token"][0, 2] > 0.999
attention(cache, texts[0], scores, head=(0, 2), title="MiniLM")

# %% [markdown]
# ## Why these two sentences are similar
#
# The cosine of two pooled vectors is a dot product, and a pooled vector is a sum of what every part of the model wrote.
# So the cosine is a sum as well, with one row for each head, MLP and embedding, and no approximation anywhere.

# %%
cosines = cosine_similarity(minilm, texts)
print(cosines.numpy().round(3))


def shares_with(other):
    """What each part of MiniLM writes for the cosine of the cat on the mat with another text."""
    return similarity_attribution(minilm, texts[0], other)["attribution"].isel(prompt=0).to_series()


kitten, rates = (shares_with(text) for text in texts[1:])
print(f"{len(kitten)} rows, which sum to {kitten.sum():.4f}")
assert len(kitten) == 82 and abs(kitten.sum() - float(cosines[0, 1])) < 1e-6
maps = [[[shares[f"L{i}H{j}"] for j in range(12)] for i in range(6)] for shares in (kitten, rates)]
figures.heatmaps(
    torch.tensor(maps),
    ["the kitten on the rug", "interest rates"],
    [f"layer {i}" for i in range(6)],
    [f"H{j}" for j in range(12)],
    title="What each head adds to the cosine with the cat on the mat",
    value="part of the cosine",
    signed=True,
)

# %% [markdown]
# The last layer makes the similarity, above all two or three of its heads, and hardly anything of it is left for a
# sentence about interest rates. Embeddings and the other layers add little by themselves: what they do, they do through
# the last one.

# %%
for part, share in kitten.reindex(kitten.abs().sort_values(ascending=False).index).head(8).items():
    print(f"{part:8} {share:+.3f}   interest rates {rates[part]:+.3f}")

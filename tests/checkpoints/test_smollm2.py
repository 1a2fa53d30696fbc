"""SmolLM2-135M-Instruct from its GGUF file: the logits of transformers, and the tokens it was trained on."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import regex
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from interp import HookedTransformer, TokenError, Tokenizer
from interp.checkpoints.gguf_file import GGUFFile
from interp.text.tokenizer import BYTE_OF

CORPUS = [
    "When Mary and John went to the store, John gave a drink to",
    "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n",
    "for (int i = 0; i < 10; i++) {\n\t\tsum += a[i];\n}\r\n",
    '{"key": [1, 2.50, -3e10], "none": null}',
    "0123456789 3.14159 2024-01-31 1,000,000 ½ ² Ⅷ ٣",
    "call   42 times,  7\n\n  13",
    "naïve café, Ångström, crème brûlée, Übermut",
    "Zażółć gęślą jaźń",
    "Съешь ещё этих мягких французских булок",
    "速い茶色の狐が怠け者の犬を飛び越える。",
    "敏捷的棕色狐狸跳过了懒狗，价格是３０元。",  # noqa: RUF001
    "다람쥐 헌 쳇바퀴에 타고파",
    "مرحبا بالعالم",
    "🐈 🤷🏽‍♀️ 👩‍👩‍👧‍👦 🇯🇵 :-)",
    "e\u0301 and é are not the same bytes",
    "    four,        eight, and trailing   ",
    "\n\n\n\ttabs\t\tand\n\n newlines \n \n",
    "I'm, you're, it's, we'll, they'd, WE'RE, DON'T",
    "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n",
    "The quick brown fox jumps over the lazy dog. " * 8,
]
GPT2_SPLIT = regex.compile(r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


@pytest.fixture(scope="module")
def original(smollm2_path: Path) -> Any:
    """transformers' own reading of the file."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        smollm2_path.parent, gguf_file=smollm2_path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.fixture(scope="module")
def reference(smollm2_path: Path) -> Callable[[str], list[int]]:
    """How SmolLM2 tokenizes, spelt out: special tokens, single digits, GPT-2's split, then merges by rank."""
    metadata = GGUFFile(smollm2_path).metadata
    words = metadata["tokenizer.ggml.tokens"]
    ids = {word: i for i, word in enumerate(words)}
    ranks = {tuple(pair.split(" ")): rank for rank, pair in enumerate(metadata["tokenizer.ggml.merges"])}
    special = [w for w, kind in zip(words, metadata["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    special_split = regex.compile("(" + "|".join(map(regex.escape, special)) + ")")
    character = {byte: char for char, byte in BYTE_OF.items()}

    def merged(piece: str) -> list[int]:
        parts = [character[byte] for byte in piece.encode()]
        while len(parts) > 1:
            rank, at = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(itertools.pairwise(parts)))
            if rank == len(ranks):
                break
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        return [ids[part] for part in parts]

    def tokenize(text: str) -> list[int]:
        found = []
        for part in special_split.split(text):
            if part in special:
                found.append(ids[part])
                continue
            for piece in regex.split(r"(\p{N})", part):
                found += [i for word in GPT2_SPLIT.findall(piece) for i in merged(word)]
        return found

    return tokenize


def test_smollm2_gives_the_logits_of_transformers(smollm2: HookedTransformer, original: Any):
    for text in CORPUS:
        tokens = smollm2.to_tokens(text)
        with torch.no_grad():
            ours, theirs = smollm2(tokens), original(tokens).logits
        # Either side is about 2e-6 off float64, at times 9e-6.
        assert float((ours - theirs).abs().max() / theirs.abs().max()) < 3e-5, text


def test_greedy_generation_equals_transformers_token_by_token(smollm2: HookedTransformer, original: Any):
    for prompt in ("Once upon a time there was a little dragon who", "The capital of France is"):
        tokens = smollm2.to_tokens(prompt)
        theirs = original.generate(tokens, max_new_tokens=64, do_sample=False, eos_token_id=2, pad_token_id=2)
        assert smollm2.generate(tokens, 64, stop_tokens=[2]).tokens.tolist() == theirs.tolist()


def test_smollm2_says_mary(smollm2: HookedTransformer):
    with torch.no_grad():
        probabilities = smollm2(CORPUS[0])[0, -1].softmax(-1)
    assert float(probabilities[smollm2.to_single_token(" Mary")]) == pytest.approx(0.92, abs=0.005)


@pytest.mark.parametrize("text", CORPUS)
def test_smollm2_tokenizes_as_it_was_trained(
    smollm2: HookedTransformer, reference: Callable[[str], list[int]], text: str
):
    assert smollm2.to_tokens(text)[0].tolist() == reference(text)


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cn", "Cc"]) | st.sampled_from("\n\t\r 0a"), min_size=1)


@given(text=ANY_TEXT)
def test_smollm2_tokenizes_any_text_as_it_was_trained(
    smollm2: HookedTransformer, reference: Callable[[str], list[int]], text: str
):
    assert smollm2.to_tokens(text)[0].tolist() == reference(text)
    assert smollm2.to_string(smollm2.to_tokens(text)) == text


@pytest.mark.parametrize("char", ["\U00040000", "\x1d"])
def test_smollm2_has_no_token_for_some_bytes_and_leaves_nothing_out_in_silence(smollm2: HookedTransformer, char: str):
    with pytest.raises(TokenError, match=re.escape(f"character 2 of the text, {char!r}, has a byte without a token")):
        smollm2.to_tokens(f"a {char}")


def test_smollm2_tokenizes_as_transformers_does_but_for_spaces_before_numbers(
    smollm2: HookedTransformer, smollm2_path: Path
):
    """transformers takes the file's split "smollm" for GPT-2's, and keeps a space before a number with that number."""
    theirs = transformers.AutoTokenizer.from_pretrained(smollm2_path.parent, gguf_file=smollm2_path.name)
    for text in CORPUS:
        if not regex.search(r"\s\s\p{N}|\s[^\P{N}0-9]", text):
            assert smollm2.to_tokens(text)[0].tolist() == theirs(text)["input_ids"], text


def test_smollm2_has_the_tokenizer_of_its_file(smollm2: HookedTransformer):
    codec = smollm2.tokenizer
    assert isinstance(codec, Tokenizer)
    assert (codec.bos, codec.eos, codec.pad, codec.prepends_bos) == ("<|im_start|>", "<|im_end|>", "<|im_end|>", False)
    assert codec.d_vocab == smollm2.cfg.d_vocab == 49152

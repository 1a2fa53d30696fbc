"""Texts: every token is in exactly one place of one row, in order, and what cannot be read is named."""

import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_corpus
import torch
from grid import SMALL, build
from hypothesis import given
from hypothesis import strategies as st

from interp import ConfigError, HookedTransformer, TokenError, Tokenizer, TransformerConfig, Vocabulary
from interp.data import TextRow, Texts


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny_corpus.tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> HookedTransformer:
    fields: dict[str, Any] = SMALL | {"d_vocab": tokenizer.d_vocab, "n_ctx": 32}
    return build(TransformerConfig(**fields), 1, tokenizer)


def placed(rows: Iterator[TextRow]) -> list[tuple[int, int, int, int]]:
    """Row, position, text and id of every token."""
    found = []
    for number, row in enumerate(rows):
        n = int(row.mask.sum())
        assert row.mask.tolist() == [True] * n + [False] * (len(row.mask) - n)
        assert row.text[n:].eq(-1).all() and row.pos.tolist() == list(range(len(row.pos)))
        found += [(number, p, int(t), int(i)) for p, (t, i) in enumerate(zip(row.text[:n], row.ids[:n], strict=True))]
    return found


# ---------------------------------------------------------------------------------------------- rows

ids_of_texts = st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=8).filter(any)


@given(corpus=ids_of_texts, n_ctx=st.integers(1, 7))
def test_packed_rows_hold_all_tokens_of_all_texts_in_order(corpus: list[list[int]], n_ctx: int):
    rows = Texts(corpus).rows(None, n_ctx)
    found = placed(rows)
    wanted = [(number, token) for number, ids in enumerate(corpus) for token in ids]
    assert [(text, token) for _, _, text, token in found] == wanted
    assert [(row, pos) for row, pos, _, _ in found] == [divmod(i, n_ctx) for i in range(len(wanted))]
    assert rows.n_tokens == len(wanted) and rows.n_rows == -(-len(wanted) // n_ctx)
    assert (rows.n_texts, rows.n_empty) == (len(corpus), sum(not ids for ids in corpus))


@given(corpus=ids_of_texts, n_ctx=st.integers(1, 7))
def test_a_text_that_has_rows_of_its_own_goes_on_in_further_ones(corpus: list[list[int]], n_ctx: int):
    found = placed(Texts(corpus).rows(None, n_ctx, packed=False))
    assert [(text, token) for _, _, text, token in found] == [(i, t) for i, ids in enumerate(corpus) for t in ids]
    cut = [ids[at : at + n_ctx] for ids in corpus for at in range(0, len(ids), n_ctx)]
    assert [(row, pos) for row, pos, _, _ in found] == [(r, p) for r, ids in enumerate(cut) for p in range(len(ids))]


def test_packed_texts_are_separated_by_the_bos_and_others_follow_the_tokenizers_habit(tokenizer: Tokenizer):
    corpus, bos = tiny_corpus.texts(), tokenizer.bos_id
    plain = [tokenizer.encode(text) for text in corpus]
    habit = tiny_corpus.tokenizer(prepend_bos=True)
    for options, reader, begun in (
        ({}, tokenizer, True),
        ({"prepend_bos": False}, tokenizer, False),
        ({"packed": False}, tokenizer, False),
        ({"packed": False}, habit, True),
        ({"packed": False, "prepend_bos": True}, tokenizer, True),
    ):
        found = placed(Texts(corpus).rows(reader, 16, **options))
        wanted = [(i, t) for i, ids in enumerate(plain) if ids for t in ([bos, *ids] if begun else ids)]
        assert [(text, token) for _, _, text, token in found] == wanted


def test_a_text_that_begins_with_the_bos_gets_no_second_one_and_spelt_special_tokens_are_these(tokenizer: Tokenizer):
    text = f"{tiny_corpus.BOS}the cat{tiny_corpus.PAD}"
    (row,) = Texts([text]).rows(tokenizer, 16)
    assert row.ids[row.mask].tolist() == tokenizer.encode(text)
    assert row.ids[0] == tokenizer.bos_id and tokenizer.to_single_token(tiny_corpus.PAD) in row.ids[row.mask]


def test_hostile_texts_come_back_token_by_token(tokenizer: Tokenizer):
    corpus = ["\x00", "a\x00b", "\u2028 \r\n\t", "\U0010ffff", "\ufeff", "é" * 5000, " "]
    rows = list(Texts(corpus).rows(tokenizer, 8, prepend_bos=False))
    for number, text in enumerate(corpus):
        assert tokenizer.to_string(torch.cat([row.ids[row.text == number] for row in rows])) == text


def test_models_bring_their_tokenizer_and_limits(model: HookedTransformer, tokenizer: Tokenizer):
    corpus = tiny_corpus.texts()
    assert placed(Texts(corpus).rows(model, 8)) == placed(Texts(corpus).rows(tokenizer, 8))
    with pytest.raises(ConfigError, match=r"n_ctx = 33; allowed: 1 to 32"):
        Texts(corpus).rows(model, 33)
    with pytest.raises(TokenError, match=rf"text 1: token {model.cfg.d_vocab} at place 2; allowed: 0 to"):
        list(Texts([[1], [1, 2, model.cfg.d_vocab]]).rows(model, 8))


def test_a_vocabulary_reads_texts_though_it_does_not_pad():
    words = Vocabulary(["a", "b", "c", "."], sep=" ", bos=".")
    found = placed(Texts(["a b", "", "c"]).rows(words, 3))
    assert [(text, token) for *_, text, token in found] == [(0, 3), (0, 0), (0, 1), (2, 3), (2, 2)]


def test_ids_are_taken_in_any_form():
    corpus = [[1, 2], (3,), np.array([4, 5], dtype=np.int16), torch.tensor([6]), range(7, 9)]
    assert [token for *_, token in placed(Texts(corpus).rows(None, 4))] == list(range(1, 9))
    assert [token for *_, token in placed(Texts(torch.arange(6).view(2, 3)).rows(None, 4))] == list(range(6))


# ---------------------------------------------------------------------------------------------- what is refused

Given: Any = Texts
"""Without the annotations that say what it takes."""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda t: Given("one text"), "several texts"),
        (lambda t: Given({"text": "one"}), "several texts"),
        (lambda t: Given(3), "several texts"),
        (lambda t: Given(["a"]).rows(3), "model = 3; allowed: a HookedTransformer, a tokenizer, or None"),
        (lambda t: Given(["a"]).rows(t, 0), "n_ctx = 0; allowed: 1 or more"),
        (lambda t: Given(["a"]).rows(t, packed="no"), "packed = 'no'"),
        (lambda t: Given(["a"]).rows(t, n_context=3), "did you mean n_ctx="),
        (lambda t: Given([[1]]).rows(None, prepend_bos=True), "no tokenizer with a bos"),
        (lambda t: list(Given(["a"]).rows(None)), "text 0 is text, and there is no tokenizer"),
        (lambda t: list(Given(["a", "b\ud800"]).rows(t)), "text 1: character 1 of the text is half of a surrogate"),
        (lambda t: list(Given(["a", 3]).rows(t)), "text 1: 3 is neither a text nor a list of token ids"),
        (lambda t: list(Given([None]).rows(t)), "text 0: None is neither"),
        (lambda t: list(Given([b"a"]).rows(t)), "text 0: b'a' is neither"),
        (lambda t: list(Given([[1, 2.5]]).rows(t)), "text 0: token ids: 2.5 is no token id"),
        (lambda t: list(Given([[[1], [2]]]).rows(t)), "text 0: one sequence of token ids"),
        (lambda t: list(Given([[1, -2]]).rows(t)), "text 0: token -2 at place 1; allowed: 0 or more"),
        (lambda t: list(Given([[2**70]]).rows(t)), "text 0: .*beyond 64 bits"),
        (lambda t: list(Given([]).rows(t)), "no token in the corpus: 0 texts"),
        (lambda t: list(Given(["", []]).rows(t)), "no token in the corpus: 2 texts, 2 of them empty"),
    ],
    ids=range(19),
)
def test_what_is_no_corpus_is_named(make: Callable[[Any], Any], said: str, tokenizer: Tokenizer, as_installed: None):
    with pytest.raises((ConfigError, TokenError), match=said):
        make(tokenizer)


def test_an_iterator_is_read_once_and_then_refused(tokenizer: Tokenizer):
    once, again = Texts(text for text in tiny_corpus.texts()), Texts(tiny_corpus.texts())
    assert placed(once.rows(tokenizer, 8)) == placed(again.rows(tokenizer, 8)) == placed(again.rows(tokenizer, 8))
    with pytest.raises(ConfigError, match="an iterator, which can be read once"):
        list(once.rows(tokenizer, 8))


def test_a_corpus_is_never_held_as_a_whole():
    def peak(n_texts: int) -> int:
        rows = Texts(list(range(100)) for _ in range(n_texts)).rows(None, 64)
        tracemalloc.start()
        assert sum(int(row.mask.sum()) for row in rows) == 100 * n_texts
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    peak(10)
    few = peak(500)
    assert min(peak(5000) for _ in range(3)) < 1.2 * few  # what else the process allocates meanwhile counts as well


def test_a_text_is_not_read_before_it_is_needed(tokenizer: Tokenizer):
    read = []

    def corpus() -> Iterator[str]:
        for number in range(10_000):
            read.append(number)
            yield "the cat"

    next(Texts(corpus()).rows(tokenizer, 8))
    assert len(read) <= 256


# ---------------------------------------------------------------------------------------------- files


def test_folders_globs_and_files_are_read_in_the_order_of_their_paths(tmp_path: Path, tokenizer: Tokenizer):
    (tmp_path / "b").mkdir()
    for name, text in {"c.md": "three", "a.txt": "one\r\ntwo", "b/x.py": "x = 1\n", "b/none.png": "\x00"}.items():
        (tmp_path / name).write_bytes(text.encode())
    lines = [json.dumps({"text": "l1", "ids": [1, 2]}), "", json.dumps({"ids": [3], "text": "l2"})]
    (tmp_path / "d.jsonl").write_bytes("\r\n".join(["\ufeff" + lines[0], *lines[1:]]).encode())
    assert list(Texts.read(tmp_path)) == ["one\r\ntwo", "x = 1\n", "three", "l1", "l2"]
    assert list(Texts.read(str(tmp_path / "**" / "*.py"))) == ["x = 1\n"]
    assert list(Texts.read([tmp_path / "c.md", tmp_path / "a.txt", tmp_path / "c.md"])) == ["three", "one\r\ntwo"]
    assert list(Texts.read(tmp_path / "b" / "none.png")) == ["\x00"]
    of_ids = Texts.read(tmp_path / "d.jsonl", column="ids")
    assert [token for *_, token in placed(of_ids.rows(None, 4))] == [1, 2, 3]
    assert placed(of_ids.rows(None, 4)) == placed(of_ids.rows(None, 4))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"caf\xe9", "a.txt: this is no text in UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}', "a.jsonl: this is no text in UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}', r"a.jsonl, line 2: there is no column 'text' among txt; did you"),
        ("a.jsonl", b'{"text": "a"}\n\n["b"]', "a.jsonl, line 3: this is .*not an object with fields"),
        ("a.jsonl", b'{"text": "a"', "a.jsonl, line 1: this is no JSON"),
        ("a.jsonl", b'{"text": "a", "text": "b"}', "a.jsonl, line 1: a column is there twice: text, text"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: this is no JSON"),
        ("a.jsonl", b'{"text": null}', "a.jsonl, line 1: None is neither a text nor"),
        ("a.jsonl", b'{"text": "\\ud800"}', "a.jsonl, line 1: character 0 .* surrogate"),
        ("a.txt", b"", "no token in the corpus: 1 texts, 1 of them empty"),
        ("a.csv", b"text\na", "a.csv: allowed are text files"),
        ("a.png", b"", r"has no files that end in .*; endings there: \.png"),
    ],
    ids=range(12),
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(
    name: str, content: bytes, said: str, tmp_path: Path, tokenizer: Tokenizer, as_installed: None
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((ConfigError, TokenError), match=said):
        list(Texts.read(tmp_path / name if name != "a.png" else tmp_path).rows(tokenizer, 8))


def test_a_file_that_is_not_there_or_not_readable_is_named(tmp_path: Path, as_installed: None):
    (tmp_path / "corpus.txt").write_text("a")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"corpsu.txt does not exist; did you mean 'corpus.txt'"):
        Texts.read(tmp_path / "corpsu.txt")
    with pytest.raises(ConfigError, match=r"the glob '.*\*.rst' matches no file"):
        Texts.read(tmp_path / "*.rst")
    for paths in ([], 3, [3]):
        with pytest.raises(ConfigError, match="allowed: a file, a folder, a glob"):
            Texts.read(paths)  # pyright: ignore
    with pytest.raises(ConfigError, match=r"gone.txt cannot be read: No such file"):
        list(Texts.read(tmp_path))


def test_one_line_of_megabytes_is_one_text(tmp_path: Path, tokenizer: Tokenizer):
    path, n = tmp_path / "long.txt", 3_000_000
    path.write_bytes(b"the cat sat;" * (n // 12))
    n_ids, rows = 0, Texts.read(path).rows(tokenizer, 4096)
    for row in rows:
        assert row.text[row.mask].eq(0).all()
        n_ids += int(row.mask.sum())
    assert rows.n_texts == 1 and n_ids == rows.n_tokens == 1 + len(tokenizer.encode("the cat sat;")) * (n // 12)

"""Pairs of prompts: as values, in files, and as a model's tokens."""

import copy
import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp import ConfigError, HookedTransformer, InterpError, ShapeError, TokenError, TransformerConfig, Vocabulary
from interp.data import PairTokens, PromptPairs
from interp.metrics import Logit, LogitDifference

CLEAN, CORRUPTED, CORRECT, INCORRECT = ["ab", "abc", "ba"], ["bb", "abb", "bb"], ["a", "b", "c"], ["b", "c", "a"]
PAIRS = PromptPairs(CLEAN, CORRUPTED, CORRECT, INCORRECT)
OF_IDS = PromptPairs([[0, 1], [0, 1, 2], [1, 0]], [[1, 1], [0, 1, 1], [1, 1]], [0, 1, 2], [1, 2, 0])


def model(tokenizer: Any = Vocabulary("abc!", bos="!")) -> HookedTransformer:  # noqa: B008
    return HookedTransformer(TransformerConfig(n_layers=1, d_model=8, n_heads=2, n_ctx=5, d_vocab=4, seed=0), tokenizer)


# ---------------------------------------------------------------------- values


def test_pairs_are_equal_by_content_and_nothing_else():
    by_other_types = PromptPairs(tuple(CLEAN), iter(CORRUPTED), CORRECT, INCORRECT, names=["x", "y", "z"])
    assert by_other_types == PAIRS and hash(by_other_types) == hash(PAIRS) and by_other_types.digest == PAIRS.digest
    of_numpy = PromptPairs(np.array(["a"]), np.array(["b"]), np.array(["c"]))
    assert of_numpy == PromptPairs(["a"], ["b"], ["c"]) and type(of_numpy.clean[0]) is str
    assert PromptPairs(torch.tensor([[1, 2]]), np.array([[1, 3]]), torch.tensor([2])) == PromptPairs(
        [(1, 2)], [range(1, 4, 2)], [np.int64(2)]
    )
    for copied in (copy.copy, copy.deepcopy, lambda pairs: pickle.loads(pickle.dumps(pairs))):
        assert copied(PAIRS) == PAIRS and copied(PAIRS).digest == PAIRS.digest and copied(PAIRS).names == PAIRS.names
    with pytest.raises(dataclasses.FrozenInstanceError):
        PAIRS.clean = ()  # pyright: ignore


def test_the_digest_differs_with_every_cell_and_every_column():
    columns: dict[str, list[Any]] = {"clean": CLEAN, "corrupted": CORRUPTED, "correct": CORRECT, "incorrect": INCORRECT}
    others = [PAIRS, OF_IDS, PAIRS[::-1], PAIRS[:2], PromptPairs(CLEAN, CORRUPTED, CORRECT)]
    others.append(PromptPairs(CORRUPTED, CLEAN, CORRECT, INCORRECT))
    others.append(PromptPairs(CLEAN, CORRUPTED, INCORRECT, CORRECT))
    for column, cells in columns.items():
        for row in range(3):
            others.append(PromptPairs(**columns | {column: [*cells[:row], "new", *cells[row + 1 :]]}))
    for answers in (["1"], [1], ["1 "]):
        others.append(PromptPairs(["a"], ["b"], answers))
    for prompt in ("1", [1], "[1]", [1, 2], [12]):
        others.append(PromptPairs([prompt], ["b"], ["c"]))
    assert len({one.digest for one in others}) == len(set(others)) == len(others)


@pytest.mark.apart
def test_the_digest_is_the_same_in_every_process():
    code = (f"from interp.data import PromptPairs; print(PromptPairs({CLEAN}, {CORRUPTED}, {CORRECT}, {INCORRECT})"
            ".digest)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == PAIRS.digest


def test_slices_and_lists_of_rows_are_pairs_and_keep_what_messages_call_them():
    assert PAIRS[1:] == PromptPairs(CLEAN[1:], CORRUPTED[1:], CORRECT[1:], INCORRECT[1:])
    assert PAIRS[[2, 0]] == PAIRS[np.array([-1, 0])] == PAIRS[::-2] and PAIRS[[1, 1]].clean == ("abc", "abc")
    assert PAIRS[1:].names == ("pair 1", "pair 2") and PAIRS[:] == PAIRS and len(PAIRS[[2, 0]]) == 2
    assert PromptPairs(CLEAN, CORRUPTED, CORRECT)[:1].incorrect is None


@pytest.mark.apart
def test_rows_that_are_none_are_refused():
    for rows, said in ((slice(3, None), "none of the 3 pairs"), ([], "none of the 3 pairs"), ([3], "-3 to 2"),
                       (1, r"take pairs\[\[1\]\]"), ("ab", "a list of integers"), ([True], "a list of integers"),
                       (None, "a list of integers"), (np.array([True, False]), "a list of integers")):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            PAIRS[rows]  # pyright: ignore


def test_pairs_say_how_many_they_are_and_what_the_first_is():
    assert repr(PAIRS) == (
        "PromptPairs(3 pairs, the first: clean='ab', corrupted='bb', correct='a', incorrect='b')"
    )  # fmt: skip
    assert repr(OF_IDS[:1]) == "PromptPairs(1 pair: clean=(0, 1), corrupted=(1, 1), correct=0, incorrect=1)"


def test_the_metric_is_of_each_pairs_own_answers():
    assert PAIRS.metric == LogitDifference(CORRECT, INCORRECT)
    assert PromptPairs(CLEAN, CORRUPTED, CORRECT).metric == Logit(CORRECT)
    got = PAIRS[[0, 2]].metric(model()(["ab", "ba"]), model())
    for row, prompt, correct, incorrect in ((0, "ab", "a", "b"), (1, "ba", "c", "a")):
        assert torch.equal(got[[row]], LogitDifference(correct, incorrect)(model()([prompt, prompt]), model())[:1])


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no pairs": ({"clean": [], "corrupted": [], "correct": [], "incorrect": None}, "there are no pairs"),
    "fewer": ({"clean": CLEAN[:2]}, "2 clean, 3 corrupted, 3 correct, 3 incorrect"),
    "names": ({"names": ["x"]}, "1 names"),
    "a text": ({"clean": "abc"}, "clean is 'abc'; allowed: a list"),
    "none": ({"correct": None}, "correct is None; allowed: a list"),
    "empty prompt": ({"corrupted": ["bb", "", "bb"]}, "pair 1: corrupted is empty"),
    "no ids": ({"corrupted": ["bb", [], "bb"]}, "pair 1: corrupted is empty"),
    "empty answer": ({"correct": ["a", "b", ""]}, "pair 2: correct is empty"),
    "an id for a prompt": ({"clean": [5, "b", "c"]}, "pair 0: clean is 5; allowed: a text, or a list of token ids"),
    "ids of several": ({"clean": ["ab", [[1], [2]], "ba"]}, "pair 1: clean is"),
    "texts in a prompt": ({"clean": ["ab", ["a", "b"], "ba"]}, "pair 1: clean is"),
    "no integer": ({"clean": ["ab", [1.0, 2.0], "ba"]}, "pair 1: clean is"),
    "truth values": ({"clean": ["ab", [True], "ba"]}, "pair 1: clean is"),
    "ids for an answer": ({"correct": ["a", [1], "c"]}, "pair 1: correct is [1]; allowed: a text of one token, or a"),
    "a truth value": ({"incorrect": ["b", True, "a"]}, "pair 1: incorrect is True"),
    "no answer": ({"incorrect": ["b", None, "a"]}, "pair 1: incorrect is None"),
    "negative prompt": ({"clean": ["ab", [3, -1], "ba"]}, "pair 1: clean has the token id -1"),
    "negative answer": ({"correct": ["a", -2, "c"]}, "pair 1: correct has the token id -2"),
    "equal prompts": ({"clean": ["ab", "abb", "ba"]}, "pair 1: clean and corrupted are both 'abb'"),
    "equal answers": ({"correct": ["a", "b", "a"]}, "pair 2: correct and incorrect are both 'a'"),
}  # fmt: skip


@pytest.mark.apart
def test_columns_that_are_no_pairs_are_refused_by_the_name_of_the_pair():
    columns = {"clean": CLEAN, "corrupted": CORRUPTED, "correct": CORRECT, "incorrect": INCORRECT}
    for what, (given, said) in WRONG.items():
        with pytest.raises(InterpError) as raised:
            PromptPairs(**columns | given)
        assert said in str(raised.value), what


# ---------------------------------------------------------------------- files

ODD = ["new\nline", "return\r\nreturn", "lone\rreturn", 'a "quoted", word', " spaces ", "line\u2028separator",
       "next\x85line", "form\x0cfeed", "\ufeffmark", "é 漢 🙂", "a\x00b", "\\n", "'", "1", "[1]", "null"]  # fmt: skip


def test_every_text_comes_back_from_either_kind_of_file(tmp_path: Path):
    odd = PromptPairs(ODD, [f"{text}." for text in ODD], ODD[::-1], [f"{text}," for text in ODD[::-1]])
    for pairs in (odd, odd[:1], PromptPairs(ODD, [f"{text}." for text in ODD], ODD)):
        for name in ("x.csv", "new/x.JSONL"):
            pairs.save(tmp_path / name)
            assert PromptPairs.read(str(tmp_path / name)) == pairs
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.JSONL"]


def test_ids_and_halves_of_characters_are_kept_by_jsonl_and_refused_by_csv(tmp_path: Path):
    mixed = PromptPairs(["a", [0, 1]], [[2, 3], "b"], [1, "1"], ["2", 2])
    for pairs, said in ((OF_IDS, "is token ids"), (mixed, "is token ids"),
                        (PromptPairs(["\ud800"], ["a"], ["b"]), "is no character")):  # fmt: skip
        pairs.save(tmp_path / "x.jsonl")
        assert PromptPairs.read(tmp_path / "x.jsonl") == pairs
        with pytest.raises(ConfigError, match=said):
            pairs.save(tmp_path / "x.csv")
        assert not (tmp_path / "x.csv").exists()
    with pytest.raises(ConfigError, match=r"'x.json'; allowed: a file whose name ends in .csv or .jsonl"):
        PAIRS.save("x.json")


def test_files_of_other_programs_are_read(tmp_path: Path):
    wanted = PromptPairs(["ab", 'a\n"b"'], ["bb", " b"], ["a", "b"], ["b", "a"])
    files: dict[str, str] = {
        "spreadsheet.csv": '\ufeffclean,corrupted,correct,incorrect\r\nab,bb,a,b\r\n"a\n""b""", b,b,a\r\n',
        "other order.csv": 'incorrect,correct,corrupted,clean\nb,a,bb,ab\n\n"a",b, b,"a\n""b"""',
        "mark.jsonl": "\ufeff" + "\r\n".join(
            json.dumps({"correct": c, "clean": a, "corrupted": b, "incorrect": d})
            for a, b, c, d in zip(wanted.clean, wanted.corrupted, wanted.correct, wanted.incorrect or (), strict=True)
        ) + "\r\n \r\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode("utf-8"))
        assert PromptPairs.read(tmp_path / name) == wanted, name
    # A separator that is no end of a line stands unescaped inside of a JSON text.
    (tmp_path / "x.jsonl").write_text('{"clean": "a\u2028b", "corrupted": "a\x85b", "correct": "c"}', encoding="utf-8")
    assert PromptPairs.read(tmp_path / "x.jsonl").clean == ("a\u2028b",)


HEAD = b"clean,corrupted,correct\n"
ROW = b'{"clean": "a", "corrupted": "b", "correct": "c"}\n'
FILES: dict[str, tuple[str, bytes, str]] = {
    "empty cell": ("x.csv", HEAD + b"a,b,c\na,,c\n", "x.csv, line 3: corrupted is empty"),
    "empty cell of an object": ("x.jsonl", ROW + b'{"clean": "", "corrupted": "b", "correct": "c"}',
                                "line 2: clean is empty"),
    "column twice": ("x.csv", b"clean,corrupted,correct,correct\na,b,c,c\n", "a column is there twice"),
    "field twice": ("x.jsonl", b'{"clean": "a", "clean": "b"}', "x.jsonl, line 1: a column is there twice"),
    "near": ("x.jsonl", b'{"clean": "a", "corupted": "b"}', "unknown column 'corupted'; allowed: clean, corrupted, "
             "correct, incorrect; did you mean 'corrupted'"),
    "unnamed": ("x.csv", b"clean,corrupted,correct,\na,b,c,\n", "x.csv, line 1: unknown column ''"),
    "semicolons": ("x.csv", b"clean;corrupted;correct\r\na;b;c\r\n", "x.csv, line 1: there is one column, "
                   "'clean;corrupted;correct'; allowed: clean,corrupted,correct,incorrect, with commas between them"),
    "after a quoted line": ("x.csv", HEAD + b'"a\na",b,c\na,a,c\n', "x.csv, line 4: clean and corrupted are both 'a'"),
    "null": ("x.jsonl", b'{"clean": "a", "corrupted": "b", "correct": "c", "incorrect": null}', "incorrect is None"),
    "true": ("x.jsonl", b'{"clean": "a", "corrupted": "b", "correct": true}', "correct is True"),
    "a number": ("x.jsonl", b'{"clean": [1, 2.5], "corrupted": "b", "correct": "c"}', "clean is [1, 2.5]"),
    "an object": ("x.jsonl", b'{"clean": {"a": 1}, "corrupted": "b", "correct": "c"}', "clean is dict of a"),
    "negative": ("x.jsonl", b'{"clean": [-3], "corrupted": "b", "correct": "c"}', "line 1: clean has the token id -3"),
    "deep": ("x.jsonl", b'{"clean": ' + b"[" * 100_000, "line 1: this is no JSON"),
    "two in a line": ("x.jsonl", ROW[:-1] + ROW, "line 1: this is no JSON"),
    "some without": ("x.jsonl", ROW.replace(b"}", b', "incorrect": "d"}') + ROW, "line 2: incorrect is missing"),
    "some with": ("x.jsonl", ROW + ROW.replace(b"}", b', "incorrect": "d"}'), "line 2: incorrect is given here, but"),
    "fewer cells": ("x.csv", HEAD.replace(b"\n", b",incorrect\n") + b"a,b,c\n", "line 2: 3 entries under 4 columns"),
    "UTF-16": ("x.csv", "clean".encode("utf-16"), "this is no text in UTF-8"),
}  # fmt: skip


def test_a_file_that_is_no_pairs_is_refused_by_file_and_line(tmp_path: Path):
    for what, (name, held, said) in FILES.items():
        (tmp_path / name).write_bytes(held)
        with pytest.raises(InterpError) as raised:
            PromptPairs.read(tmp_path / name)
        assert said in str(raised.value), what
    with pytest.raises(FileNotFoundError):
        PromptPairs.read(tmp_path / "nothing.csv")


# ---------------------------------------------------------------------- tokens


def test_texts_and_ids_become_the_tokens_that_the_model_reads():
    wanted = PairTokens([[0, 1], [0, 1, 2], [1, 0]], [[1, 1], [0, 1, 1], [1, 1]], [0, 1, 2], [1, 2, 0])
    assert PAIRS.tokens(model()) == OF_IDS.tokens(model()) == OF_IDS.tokens(model(None)) == wanted
    assert wanted.lengths == [2, 3, 2] and wanted.n_pos == 3
    assert PromptPairs(CLEAN, CORRUPTED, CORRECT).tokens(model()).incorrect is None
    for ids, text in zip(PAIRS.tokens(model()).clean, CLEAN, strict=True):
        assert ids == model().to_tokens(text)[0].tolist()


def test_rows_are_grouped_by_length_the_longest_first():
    tokens = PAIRS.tokens(model())
    assert tokens.groups(range(3)) == [[1], [0, 2]] and tokens.groups(range(1)) == [[0]]
    assert tokens.groups([2, 0]) == [[2, 0]] and tokens.groups(range(0)) == []


def test_a_batch_of_all_pairs_is_padded_on_the_left_and_says_so():
    tokens = PAIRS.tokens(model())
    for batch, prompts in ((tokens.clean_batch(), tokens.clean), (tokens.corrupted_batch(), tokens.corrupted)):
        for ids, real, prompt in zip(batch.ids, batch.is_token, prompts, strict=True):
            assert ids[real].tolist() == prompt and real.tolist() == sorted(real.tolist()) and len(ids) == 3
    assert PAIRS[1:2].tokens(model()).clean_batch().attention_mask is None


def test_pairs_that_a_model_cannot_read_are_all_found_before_it_runs(monkeypatch: pytest.MonkeyPatch):
    small = model()
    monkeypatch.setattr(HookedTransformer, "forward", lambda *_, **__: pytest.fail("it ran"))
    one: dict[str, list[Any]] = {"clean": ["ab"], "corrupted": ["bb"], "correct": ["a"], "incorrect": ["b"]}
    for given, kind, said in (
        ({"clean": ["abc"]}, ShapeError, "pair 0: the clean prompt has 3 tokens, the corrupted one 2; positions must "
         "correspond, so make them equally long: a|b|c and b|b"),
        ({"clean": [[0, 1, 9]]}, TokenError, "pair 0: token 9 at batch 0, pos 2; allowed: 0 to 3"),
        ({"clean": ["aaaaaa"]}, TokenError, "pair 0: a sequence of 6 tokens is longer than the context"),
        ({"clean": ["ax"]}, TokenError, "pair 0: unknown word 'x'"),
        ({"correct": ["ab"]}, TokenError, "pair 0: 'ab' is 2 tokens"),
        ({"correct": [4]}, TokenError, "pair 0: correct 4 is no token"),
        ({"correct": [2**70]}, TokenError, "pair 0: correct"),
        ({"correct": [1]}, TokenError, "pair 0: the two answers 1 and 'b' are the same"),
        ({"clean": [[1, 1]]}, TokenError, "pair 0: the two prompts (1, 1) and 'bb' are the same"),
    ):  # fmt: skip
        with pytest.raises(kind) as raised:
            PromptPairs(**one | given).tokens(small)
        assert said in str(raised.value)
    uneven = PromptPairs(["ab", "abc", "ba", "c"], ["bb", "ab", "bb", "ab"], ["a"] * 4, names=["x", "y", "z", "w"])
    with pytest.raises(ShapeError, match=r"^y: the clean prompt has 3 tokens.*\(1 more of the 4 pairs are refused\)$"):
        uneven.tokens(small)
    with pytest.raises(TokenError, match="no tokenizer"):
        PAIRS.tokens(model(None))
    with pytest.raises(ShapeError, match=r"equally long: \[0, 1\] and \[1\]"):
        PromptPairs([[0, 1]], [[1]], [0]).tokens(model(None))

"""The library: every program on all texts of several lengths, in causal and in bidirectional circuits."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import pytest

from circuits import Circuit, Space, copy, match
from circuits.library import (
    count_less_freq,
    detect_pattern,
    fraction,
    histogram,
    length,
    reverse,
    shift_by,
    shuffle_dyck,
    sort,
    sort_by_frequency,
)
from circuits.verify import Expected, every_text
from interp import ConfigError

Direction = Literal["causal", "bidirectional"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
ALPHABETS = (("ab", 5), ("abc", 4), ("abcde", 3))
Words = Callable[[Sequence[str]], Sequence[Expected]]
"""What is right for each word of a text."""


def texts(letters: Iterable[str], most: int) -> list[str]:
    return [text for n in range(1, most + 1) for text in every_text(letters, n)]


def nothing(text: str) -> Expected:
    return None


def agrees(c: Circuit, inputs: Iterable[str], right: Words, at_start: Callable[[str], Expected] = nothing) -> None:
    """Model and interpreter say what is right, at every word and at the start of every text."""
    report = c.verify(list(inputs), lambda text: [at_start(text[1:]), *right(text[1:])], progress=False)
    assert report.ok, report


def saying(c: Circuit, counted: Space) -> Circuit:
    """The circuit, saying a count as a word."""
    c.direct(copy(counted, c.out, lambda n, word: word == str(n)))
    return c


def so_far(whole: Callable[[str], Expected]) -> Words:
    """What is right in a causal circuit, from what is right for a whole text."""
    return lambda text: [whole("".join(text[: i + 1])) for i in range(len(text))]


def at_every_word(whole: Callable[[str], Expected]) -> Words:
    """What is right in a bidirectional circuit, from what is right for a whole text."""
    return lambda text: [whole("".join(text))] * len(text)


# ---------------------------------------------------------------------------------------------- counting


def test_the_length_is_that_of_the_text_or_of_the_text_so_far():
    for letters, most in ALPHABETS:
        for direction in DIRECTIONS:
            c = Circuit(f"!{letters}012345", most + 1, "!", direction)
            causal = direction == "causal"
            right = so_far(lambda text: str(len(text))) if causal else lambda text: [str(len(text))] * len(text)
            start = (lambda _: "0") if causal else lambda text: str(len(text))
            agrees(saying(c, length(c)), texts(letters, most), right, start)


def test_a_histogram_counts_the_words_like_ones_own():
    for letters, most in ALPHABETS:
        causal, whole = (Circuit(f"!{letters}012345", most + 1, "!", direction) for direction in DIRECTIONS)
        agrees(saying(whole, histogram(whole)), texts(letters, most), lambda text: [str(text.count(w)) for w in text])
        agrees(saying(causal, histogram(causal)), texts(letters, most), so_far(lambda text: str(text.count(text[-1]))))


def test_a_histogram_counts_the_labels_of_a_space_and_says_nothing_where_there_is_none():
    c = Circuit("!aebx01234", 5, "!", "bidirectional")
    kind = c.embed("kind", {"a": "vowel", "e": "vowel", "b": "consonant"})

    def right(text: Sequence[str]) -> list[str | None]:
        kinds = ["vowel" if word in "ae" else word for word in text]
        return [None if one == "x" else str(kinds.count(one)) for one in kinds]

    agrees(saying(c, histogram(c, kind)), texts("aebx", 4), right)


def test_rare_words_are_counted():
    for (letters, most), n in zip(ALPHABETS, (3, 2, 1), strict=True):
        c = Circuit(f"!{letters}012345", most + 1, "!", "bidirectional")

        def rare(text: Sequence[str], n: int = n) -> str:
            return str(sum(text.count(word) <= n for word in text))

        counted = saying(c, count_less_freq(c, n))
        agrees(counted, texts(letters, most), at_every_word(rare), rare)


def test_rare_words_are_counted_as_they_came():
    c = Circuit("!ab012345", 6, "!")

    def rare(text: str) -> str:
        return str(sum(text[: i + 1].count(word) <= 1 for i, word in enumerate(text)))

    agrees(saying(c, count_less_freq(c, 1)), texts("ab", 5), so_far(rare), lambda _: "0")


def test_a_fraction_is_the_mean_of_a_number_over_the_words():
    for direction in DIRECTIONS:
        c = Circuit("!abc%", 5, "!", direction)
        assert fraction(c, 2 * c.tok["a"] - c.tok["b"], writes=c.out["%"]) == c.out["%"]

        def mean(text: Sequence[str]) -> dict[str, float]:
            return {"%": (2 * text.count("a") - text.count("b")) / len(text)}

        right, start = (so_far(mean), lambda _: {}) if direction == "causal" else (at_every_word(mean), mean)
        agrees(c, texts("abc", 4), right, start)


def test_a_fraction_of_labels_of_several_spaces_counts_them_all():
    c = Circuit("!abc%", 5, "!")
    vowel = c.embed("vowel", {"a": "yes"})
    share = fraction(c, c.tok["b"] + 3 * vowel["yes"])
    c.number(c.out["%"], share)
    right = so_far(lambda text: {"%": (text.count("b") + 3 * text.count("a")) / len(text)})
    agrees(c, texts("abc", 4), right, lambda _: {})


def test_a_fraction_counts_the_keys_that_it_is_told():
    c = Circuit("!abc%", 5, "!", "bidirectional")
    fraction(c, c.tok["a"], writes=c.out["%"], where=match(c.one, c.tok, {"1": ["a", "b"]}))
    inputs = [text for text in texts("abc", 4) if set(text) & set("ab")]

    def share(text: Sequence[str]) -> dict[str, float]:
        return {"%": text.count("a") / (text.count("a") + text.count("b"))}

    agrees(c, inputs, lambda text: [share(text)] * len(text), share)


# ---------------------------------------------------------------------------------------------- order


def test_words_are_sorted_and_equal_ones_are_kept():
    for letters, most in ALPHABETS:
        for descending in (False, True):
            c = Circuit(f"!{letters}", most + 1, "!", "bidirectional")
            assert sort(c, writes=c.out, descending=descending) == c.out
            agrees(c, texts(letters, most), lambda text, down=descending: sorted(text, reverse=down))


def test_unique_keys_take_a_layer_less():
    c = Circuit("!abcde", 6, "!", "bidirectional")
    sort(c, writes=c.out, unique=True)
    agrees(c, ("!" + "".join(one) for n in range(1, 6) for one in itertools.permutations("abcde", n)), sorted)
    ties = Circuit("!abcde", 6, "!", "bidirectional")
    sort(ties, writes=ties.out)
    assert (c.n_layers, ties.n_layers) == (2, 3)


def test_values_are_sorted_by_keys_of_another_space_and_words_without_a_key_are_left_out():
    c = Circuit("!abcx", 5, "!", "bidirectional")
    size = c.embed("size", {"c": 1, "a": 2, "b": 3})
    sort(c, keys=size, values=c.tok, writes=c.out)

    def right(text: Sequence[str]) -> list[str | None]:
        ordered = sorted((word for word in text if word != "x"), key="cab".index)
        return [*ordered, *[None] * (len(text) - len(ordered))]

    agrees(c, texts("abcx", 4), right)


def test_equal_keys_keep_the_order_of_their_values():
    c = Circuit("!abAB", 5, "!", "bidirectional")
    sort(c, keys=c.embed("letter", {"a": 1, "A": 1, "b": 2, "B": 2}), writes=c.out)
    agrees(c, texts("abAB", 4), lambda text: sorted(text, key=str.lower))


def test_words_are_sorted_by_their_frequency():
    for letters, most in ALPHABETS:
        c = Circuit(f"!{letters}", most + 1, "!", "bidirectional")
        sort_by_frequency(c, writes=c.out)
        agrees(c, texts(letters, most), lambda text: sorted(text, key=lambda word: -text.count(word)))


def test_texts_of_any_length_are_reversed():
    for letters, most in ALPHABETS:
        c = Circuit(f"!{letters}", most + 1, "!", "bidirectional")
        reverse(c, writes=c.out)
        agrees(c, texts(letters, most), lambda text: text[::-1])


def test_forty_words_are_sorted_and_reversed_too():
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN"
    mixed = "!" + "".join(letters[17 * i % 40] for i in range(40))
    for declare, right in ((sort, list(letters)), (reverse, list(mixed[:0:-1]))):
        c = Circuit(f"!{letters}", 41, "!", "bidirectional")
        declare(c, writes=c.out)
        agrees(c, [mixed], lambda _, right=right: right)


# ---------------------------------------------------------------------------------------------- finding


def test_words_are_shifted_both_ways():
    shifts: list[tuple[Direction, int]] = [("causal", 1), ("causal", 3), ("bidirectional", 2), ("bidirectional", -1)]
    for direction, n in shifts:
        c = Circuit("!abc", 5, "!", direction)
        shift_by(c, n, writes=c.out)

        def right(text: Sequence[str], n: int = n) -> list[str | None]:
            return [text[i - n] if 0 <= i - n < len(text) else None for i in range(len(text))]

        start = (lambda _: None) if n > 0 else lambda text: text[0]
        agrees(c, texts("abc", 4), right, start)


def test_a_pattern_is_found_where_it_ends():
    for pattern in ("a", "ab", "aab", "abab"):
        c = Circuit("!abTF", 6, "!")
        detect_pattern(c, pattern, writes=c.out, answers=("T", "F"))
        right = so_far(lambda text, pattern=pattern: "T" if text.endswith(pattern) else "F")
        agrees(c, texts("ab", 5), right, lambda _: "F")
        assert c.n_layers == 1


def test_a_pattern_of_labels_of_a_space_is_found():
    c = Circuit("!aebTF", 5, "!")
    kind = c.embed("kind", {"a": "vowel", "e": "vowel", "b": "consonant"})
    found = detect_pattern(c, ["consonant", "vowel"], values=kind, answers=("T", "F"))
    c.direct(copy(found, c.out, {"T": "T", "F": "F"}))
    right = so_far(lambda text: "T" if len(text) > 1 and text[-2] == "b" and text[-1] in "ae" else "F")
    agrees(c, texts("aeb", 4), right, lambda _: "F")


def test_brackets_of_each_kind_are_balanced_for_themselves():
    def balanced(text: str, pairs: Sequence[str]) -> str:
        for opening, closing in pairs:
            depths = list(itertools.accumulate((word == opening) - (word == closing) for word in text))
            if depths and (min(depths) < 0 or depths[-1]):
                return "F"
        return "T"

    for pairs, most in ((["()"], 8), (["()", "[]"], 5)):
        for direction in DIRECTIONS:
            c = Circuit("!()[]xTF", most + 1, "!", direction)
            shuffle_dyck(c, pairs, writes=c.out, answers=("T", "F"))

            def whole(text: str, pairs: Sequence[str] = pairs) -> str:
                return balanced(text, pairs)

            causal = direction == "causal"
            right, start = (so_far(whole), lambda _: "T") if causal else (at_every_word(whole), whole)
            agrees(c, texts("".join(pairs) + "x" * (len(pairs) == 2), most if len(pairs) == 1 else 4), right, start)


# ---------------------------------------------------------------------------------------------- all of them


def test_a_program_is_used_twice_under_two_names():
    c = Circuit("!abc", 5, "!", "bidirectional")
    frequent = sort(c, keys=histogram(c), values=c.tok, descending=True, name="frequent")
    backwards = reverse(c, values=frequent, writes=c.out)
    assert backwards == c.out and frequent.name == "frequent/sorted"
    rare = c.readout("rare", c.tok)
    assert sort(c, keys=histogram(c, name="once more"), writes=rare, name="rarest") == rare
    agrees(c, texts("abc", 4), lambda text: sorted(text, key=lambda word: -text.count(word))[::-1])


def test_a_second_use_under_the_same_name_is_refused():
    for declare in (length, histogram, sort, sort_by_frequency, reverse):
        c = Circuit("!ab", 4, "!", "bidirectional")
        declare(c)
        with pytest.raises(ConfigError, match=r"twice|taken"):
            declare(c)


def test_what_needs_the_whole_text_is_refused_where_words_do_not_see_it():
    for program, name in ((sort, "sort"), (reverse, "reverse"), (sort_by_frequency, "sort")):
        with pytest.raises(ConfigError, match=f"^{name}: attention_dir = 'causal', .*allowed: 'bidirectional'"):
            program(Circuit("!ab", 4, bos="!"))


@pytest.mark.usefixtures("as_installed")
def test_what_is_not_there_is_refused_by_name():
    c, other = (Circuit("!ab()", 5, "!", "bidirectional") for _ in range(2))
    elsewhere = other.space("elsewhere", "ab")
    with pytest.raises(ConfigError, match=r"'first/pattern'.*no label 'z'"):
        detect_pattern(c, "az", name="first")
    with pytest.raises(ConfigError, match=r"match\(one, histogram|count_less_freq.*relates no label"):
        count_less_freq(c, 0)
    whole: Any = c.tok
    with pytest.raises(ConfigError, match=r"fraction: of = .*allowed: a coordinate such as c.tok\['x'\]"):
        fraction(c, whole)
    with pytest.raises(ConfigError, match=r"'tok' has no label '\['"):
        shuffle_dyck(c, ["[]"], name="brackets")
    for declare in (
        lambda: sort(c, keys=elsewhere),
        lambda: shift_by(c, 1, values=elsewhere),
        lambda: histogram(c, elsewhere),
        lambda: fraction(c, elsewhere["a"]),
    ):
        with pytest.raises(ConfigError, match="not one of this circuit's"):
            declare()


def test_a_sum_over_a_space_of_one_label_reaches_as_far_as_its_largest_label():
    c = Circuit("!ab", 5, "!")
    n, total = length(c), c.space("total", ["number"])
    given = c.function("as it is", sum((i * n[i] for i in range(2, 5)), 1 * n[1]), total, lambda u: u, knots=2)
    assert (given.knots[0], given.knots[-1]) == (0, 4)

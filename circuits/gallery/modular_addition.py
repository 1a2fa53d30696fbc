"""Addition modulo a prime by Fourier features: "23 100" is followed by 10 (modulo 113).

Every number is a point on a few circles, cos and sin of 2 pi k n / p for some frequencies k. Products of the two
numbers' features, summed as the trigonometric identities say, are those of their sum, and the logit of each word c is
the sum over k of cos(2 pi k (a + b - c) / p), which is largest for the right one. This is what Nanda et al. 2023
("Progress measures for grokking via mechanistic interpretability") found in a transformer that had learned it. A table
of all pairs would take 12,769 entries.
"""

from math import cos, pi, sin

from circuits import Circuit, copy, match, shift
from circuits.verify import Expected

VARIANTS = {
    "modular_addition": {"modulus": 113, "frequencies": (12, 13, 30, 45, 52)},
    "modular_addition_23": {"modulus": 23, "frequencies": (2, 7, 10)},
}


def build(modulus: int, frequencies: tuple[int, ...]) -> Circuit:
    """One layer, with an MLP of products."""
    numbers = [str(n) for n in range(modulus)]
    c = Circuit(["!", *numbers], n_ctx=3, bos="!")
    turns = [2 * pi * k / modulus for k in frequencies]
    wave = c.embed("wave", {n: [f(turn * int(n)) for turn in turns for f in (cos, sin)] for n in numbers})
    first = c.space("first", wave)
    c.head("first", qk=match(c.pos, c.pos, shift(1)), ov=copy(wave, first))
    for i, (k, turn) in enumerate(zip(frequencies, turns, strict=True)):
        cosine = copy(c.one, c.out, [[0.0] + [cos(turn * n) for n in range(modulus)]])
        sine = copy(c.one, c.out, [[0.0] + [sin(turn * n) for n in range(modulus)]])
        for a, b, writes in ((0, 0, cosine), (1, 1, -cosine), (0, 1, sine), (1, 0, sine)):
            name = f"{'cs'[a]}{'cs'[b]} {k}"
            c.product(name, first[2 * i + a], wave[2 * i + b], writes, error=0.01, over=(-1, 1))
    return c


def reference(text: str, modulus: int, frequencies: tuple[int, ...]) -> list[Expected]:
    """The sum at the second number; whatever before."""
    first, second = map(int, text.split()[1:])
    return [..., ..., str((first + second) % modulus)]


def inputs(modulus: int, frequencies: tuple[int, ...]) -> list[str]:
    """All pairs of numbers."""
    return [f"! {first} {second}" for first in range(modulus) for second in range(modulus)]

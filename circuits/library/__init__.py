"""The library: programs that others are built from, as functions on a circuit.

Each function declares its parts in a circuit and returns the space (or the coordinate) that holds the result at each
position. Where the result is to go somewhere else, such as `c.out`, say so by `writes=`. What a function declares lies
in a scope of its name, so that a second use takes a name of its own:

    c = Circuit("!abc", n_ctx=9, bos="!", attention_dir="bidirectional")
    sort_by_frequency(c, writes=c.out)
    sort(c, keys=histogram(c), values=c.tok, name="by count")

What a text holds are its words, without the start. In a causal circuit every position sees the words so far, itself
included; in a bidirectional one it sees them all. The programs are those of the library of Tracr (Lindner et al. 2023,
"Tracr: Compiled Transformers as a Laboratory for Interpretability"), which come from RASP (Weiss et al. 2021,
"Thinking Like Transformers").
"""

from circuits.library.counting import count_less_freq, fraction, histogram, length
from circuits.library.finding import detect_pattern, shift_by, shuffle_dyck
from circuits.library.order import reverse, sort, sort_by_frequency

__all__ = [
    "count_less_freq",
    "detect_pattern",
    "fraction",
    "histogram",
    "length",
    "reverse",
    "shift_by",
    "shuffle_dyck",
    "sort",
    "sort_by_frequency",
]

"""Limits: how many inputs are run unasked, and what is said of more."""

import math

from interp.errors import ConfigError

MANY = 10**6
"""The most inputs that are run unasked."""

LONG = 3600.0
"""The most seconds that are spent unasked."""

EXACT = 10**15
"""Numbers from here on are said as powers of ten."""

TRIAL = 256
"""Texts a batch while the time for a text is measured: the first batch warms up, the second is timed."""


def too_many(count: int | None, most: int, seconds_each: float, shorter: bool) -> ConfigError:
    """The error for inputs that would take too long: how many, how long, and what to say instead.

    Args:
        count: how many inputs there are; None for more than `most`, which is as far as they were counted.
        most: how many are allowed.
        seconds_each: the time that one takes.
        shorter: whether shorter texts are a way out.
    """
    sample = f"sample={min(10_000, most)} for a random sample"
    if count is None:
        many, takes = f"more than {most:,}", f"more than {duration(seconds_each * most)}"
        ways = [f"a list for inputs= and {sample}", "their number as limit= to run them all"]
    else:
        many, takes = amount(count), f"about {duration(seconds_each * count)}"
        ways = [sample, *["a smaller length="] * shorter, *[f"limit={count} to run them all"] * (count < EXACT)]
    return ConfigError(f"verify: there are {many} inputs, which would take {takes}; give {', or '.join(ways)}")


def amount(count: int) -> str:
    """A number of inputs in digits, or as a power of ten where it has too many of them."""
    return f"{count:,}" if count < EXACT else f"about 10^{len(str(count)) - 1}"


def duration(seconds: float) -> str:
    """A time in words, to one or two digits, such as "3 minutes" or "1.5 hours"."""
    units = (("year", 365 * 86400.0), ("day", 86400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))
    name, size = next(((name, size) for name, size in units if seconds >= 1.5 * size), units[-1])
    number = max(seconds / size, 0.1)
    if number >= 1e9:
        return f"10^{math.floor(math.log10(number))} {name}s"
    return f"{number:,.0f} {name}s" if number >= 9.5 else f"{number:.2g} {name}s"

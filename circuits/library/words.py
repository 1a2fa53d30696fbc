"""The words of a text, without the start."""

from circuits import Circuit
from circuits.language import Coordinate, Label, Space
from interp.errors import ConfigError


def labels_of_words(c: Circuit, space: Space) -> list[Label]:
    """The labels that a space can have at a word: all but those of the start, in the space of words and of places."""
    at_start = {c.tok.name: c.bos, c.pos.name: 0}.get(space.name) if c.bos is not None else None
    return [label for label in space.labels if label != at_start]


def check_sees_all(c: Circuit, name: str) -> None:
    """Raise `ConfigError` for a circuit whose words cannot see what comes after them, which a program needs."""
    if c.attention_dir != "bidirectional":
        raise ConfigError(
            f"{name}: attention_dir = {c.attention_dir!r}, where the first word cannot know the last; allowed: "
            "'bidirectional'"
        )


def words(c: Circuit) -> list[Coordinate]:
    """What is 1 at a word and 0 at the start, as a gate."""
    return [c.tok[word] for word in labels_of_words(c, c.tok)]

"""How well one colour can be told from another, by the definition of WCAG 2.1, apart from the package's own."""


def contrast(one: str, other: str) -> float:
    """The ratio of contrast of two colours, such as "#ffffff": from 1, of equal ones, to 21."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    light = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]

"""What can be measured of the texts of a page: their size, their contrast, and whether each can be read."""

from typing import Any

from browsing import Explorer

CONTRAST = """
  const light = (color) => {
    const hex = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
    const [r, g, b] = (color[0] === '#' ? hex : color.match(/[\\d.]+/g).slice(0, 3)).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
"""
"""The ratio of contrast of two colours as WCAG 2.1 defines it, for the scripts below."""

FAULTS = (
    "(root) => {"
    + CONTRAST
    + """
  const found = [];
  const paper = getComputedStyle(document.body).backgroundColor;
  const texts = [...root.querySelectorAll('h2, p, figcaption, td, th, li, svg text')].filter((one) =>
    one.textContent.trim() && getComputedStyle(one).visibility !== 'hidden' && one.getBoundingClientRect().width > 0
    && !one.closest('.modebar'));
  const corners = (one) => { // on screen, of a text that may be turned, without the air above and below its letters
    if (!one.getBBox) {
      const { left, top, right, bottom } = one.getBoundingClientRect();
      return [[left, top], [right, top], [right, bottom], [left, bottom]];
    }
    const { x, y, width, height } = one.getBBox(), m = one.getScreenCTM(), air = height * 0.17;
    return [[x, y + air], [x + width, y + air], [x + width, y + height - air], [x, y + height - air]]
      .map(([x, y]) => [m.a * x + m.c * y + m.e, m.b * x + m.d * y + m.f]);
  };
  const apart = (one, other) => { // whether a line along a side of one of two rectangles parts them
    for (const side of [one, other]) for (let i = 0; i < 4; i++) {
      const [[x1, y1], [x2, y2]] = [side[i], side[(i + 1) % 4]], length = Math.hypot(y1 - y2, x2 - x1) || 1;
      const along = (p) => (p[0] * (y1 - y2) + p[1] * (x2 - x1)) / length;
      const [a, b] = [one.map(along), other.map(along)];
      if (Math.max(...a) <= Math.min(...b) + 1 || Math.max(...b) <= Math.min(...a) + 1) return true;
    }
    return false;
  };
  const places = texts.map(corners), bar = root.querySelector('.modebar'), tools = bar && corners(bar);
  texts.forEach((one, i) => {
    const style = getComputedStyle(one), said = one.textContent, own = one.previousElementSibling;
    if (parseFloat(style.fontSize) < 10) found.push(['small', said, style.fontSize]);
    const box = own && own.tagName === 'rect' && own.getAttribute('stroke') && one.tagName === 'text';
    const seen = contrast(one.tagName === 'text' ? style.fill : style.color, box ? getComputedStyle(own).fill : paper);
    const inside = one.classList.contains('inside') || one.closest('.textpoint'); // on a cell: see test_svg_axes.py
    if (seen < 4.5 && !inside) found.push(['faint', said, seen]);
    const frame = one.closest('.drawing svg') || one.closest('.svg-container');
    if (frame) {
      const { left, right, top, bottom } = frame.getBoundingClientRect();
      if (places[i].some(([x, y]) => x < left - 1 || x > right + 1 || y < top - 1 || y > bottom + 1))
        found.push(['clipped', said]);
    }
    if (tools && !apart(tools, places[i])) found.push(['under the tools', said]);
    for (let j = i + 1; j < texts.length; j++)
      if (!apart(places[i], places[j]) && !one.contains(texts[j]) && !texts[j].contains(one))
        found.push(['overlapping', said, texts[j].textContent]);
  });
  return found;
}"""
)
"""A script that says of a figure which texts are below 10 px, below a contrast of 4.5, cut off, or in others' way."""

TOPS = """(figures) => figures.flatMap((one) => {
  const map = one.querySelector('.drawing image') || one.querySelector('.heatmaplayer image');
  return map ? [[one.getBoundingClientRect().top, map.getBoundingClientRect().top]] : [];
})"""
"""A script that says where figures with maps begin, and where the maps in them do."""

WRITTEN = """host => {
    const { fillText } = CanvasRenderingContext2D.prototype;
    host.written = [];
    CanvasRenderingContext2D.prototype.fillText = function (text, x, y, most) {
        const { font, fillStyle, textAlign, canvas } = this;
        const from = { left: 0, start: 0, center: 0.5, right: 1 }[textAlign];
        const wide = Math.min(most ?? Infinity, this.measureText(text).width), m = this.getTransform(), below = [];
        for (const part of [0.1, 0.5, 0.9]) {
            const { x: at, y: on } = m.transformPoint({ x: x + wide * (part - from), y: y - 4 });
            const [r, g, b, a] = this.getImageData(at, on, 1, 1).data;
            below.push(a ? `rgb(${r}, ${g}, ${b})` : null);
        }
        const ends = [0, 1].map((part) => m.transformPoint({ x: x + wide * (part - from), y: y - 4 }));
        const inside = ends.every((p) => p.x > -1 && p.y > -1 && p.x < canvas.width + 1 && p.y < canvas.height + 1);
        const size = +/([\\d.]+)px/.exec(font)[1], squeezed = wide / this.measureText(text).width;
        host.written.push({ text, size, squeezed, fillStyle, below, inside });
        fillText.call(this, text, x, y, ...(most ? [most] : []));
    };
}"""
"""Notes every text that a canvas gets: its size, how much it is squeezed, what it stands on, whether it is cut off."""

LOOKS = (
    "host => {"
    + CONTRAST
    + """
    const ground = (e) => {
        const { backgroundColor: c, backgroundImage: i } = getComputedStyle(e);
        if (i.startsWith("repeating")) return i.match(/rgb\\([^)]*\\)/g);
        return /, 0\\)$/.test(c) ? ground(e.parentElement) : [c];
    };
    const section = host.shadowRoot.querySelector("section"), frame = section.getBoundingClientRect();
    const paper = getComputedStyle(section).backgroundColor, found = [];
    for (const e of section.querySelectorAll("*")) {
        const texts = [...e.childNodes].filter((n) => n.nodeType === 3 && n.textContent.trim());
        if (e.localName === "style" || !texts.length || !e.checkVisibility()) continue;
        const { color, fontSize } = getComputedStyle(e), lines = document.createRange();
        lines.selectNodeContents(e);
        const cut = [...lines.getClientRects()].some((r) => r.right > frame.right + 1), size = parseFloat(fontSize);
        for (const below of ground(e)) found.push([contrast(color, below), size, cut, 1, e.textContent]);
    }
    for (const { text, size, squeezed, fillStyle, below, inside } of host.written || [])
        for (const colour of below) found.push([contrast(fillStyle, colour || paper), size, !inside, squeezed, text]);
    if (host.written) host.written.length = 0;
    return found;
}"""
)
"""Of every text that is seen: its contrast, its size, whether it is cut off, how much it is squeezed, and the text."""


def check_looks(page: Explorer, fewest: int, what: object) -> None:
    """No text is too faint, too small, cut off or squeezed."""
    found = page.host.evaluate(LOOKS)
    assert len(found) > fewest
    contrast, size = (min(found, key=lambda one, i=i: one[i]) for i in (0, 1))
    assert contrast[0] >= 4.5, (what, contrast)
    assert size[1] >= 10, (what, size)
    assert [one for one in found if one[2] or one[3] < 0.75] == [], what


def check_fits(page: Any) -> None:
    """A page is no wider than its window."""
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0

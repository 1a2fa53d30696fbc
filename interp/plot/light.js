/* Notes under the pointer, and at the arrow keys, of the figures of light.py. */
(() => {
  const unpack = async (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
    return JSON.parse(await new Response(stream).text());
  };
  const start = async (drawing) => {
    const svg = drawing.querySelector('svg'), { texts, grids, points } = await unpack(drawing.dataset.notes);
    const tip = document.createElement('div');
    tip.className = 'tip'; tip.hidden = true; tip.setAttribute('role', 'status');
    drawing.append(tip);
    const mark = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
    mark.setAttribute('class', 'mark'); mark.setAttribute('visibility', 'hidden');
    svg.append(mark);
    let here = null; // [grid, row, column] or [point]

    const hide = () => { tip.hidden = true; mark.setAttribute('visibility', 'hidden'); };
    const cell = ([g, r, c]) => {
      const [x, y, w, h, rows, columns, notes] = grids[g], dx = w / columns, dy = h / rows;
      return { note: notes[r * columns + c], x: x + c * dx, y: y + r * dy, w: dx, h: dy };
    };
    const spot = ([i]) => ({ note: points[i][2], x: points[i][0] - 5, y: points[i][1] - 5, w: 10, h: 10 });
    const show = (place, said) => {
      here = place;
      const { note, x, y, w, h } = place.length === 3 ? cell(place) : spot(place);
      if (note < 0 && !said) return hide();
      for (const [name, value] of Object.entries({ x, y, width: w, height: h, visibility: 'visible' }))
        mark.setAttribute(name, value);
      tip.textContent = note < 0 ? 'blank' : texts[note];
      tip.hidden = false;
      const room = drawing.clientWidth + drawing.scrollLeft - tip.offsetWidth - 4;
      tip.style.left = `${Math.max(drawing.scrollLeft, Math.min(x + w + 8, room))}px`;
      const under = y + h + 8, above = y - tip.offsetHeight - 8;
      tip.style.top = `${under + tip.offsetHeight > svg.clientHeight && above > 0 ? above : under}px`;
    };
    const at = (event) => {
      const box = svg.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
      for (let g = 0; g < grids.length; g++) {
        const [left, top, w, h, rows, columns] = grids[g];
        const r = Math.floor((y - top) / h * rows), c = Math.floor((x - left) / w * columns);
        if (r >= 0 && r < rows && c >= 0 && c < columns) return [g, r, c];
      }
      let best = null, least = 15;
      points.forEach(([px, py], i) => {
        const far = Math.hypot(px - x, py - y);
        if (far < least) { least = far; best = [i]; }
      });
      return best;
    };
    const moved = (key) => {
      const [dr, dc] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key];
      if (!grids.length) {
        let i = here ? here[0] + dr + dc : 0; // from one note to the next
        while (here && points[i] && points[i][2] === points[here[0]][2]) i += dr + dc;
        return points[i] ? [i] : here;
      }
      if (!here) return [0, 0, 0];
      let [g, r, c] = here;
      const [, , , , rows, columns] = grids[g];
      r = Math.max(0, Math.min(rows - 1, r + dr)); c += dc;
      if (c < 0 && g > 0) { g -= 1; c = columns - 1; } else if (c >= columns && g + 1 < grids.length) { g += 1; c = 0; }
      return [g, r, Math.max(0, Math.min(columns - 1, c))];
    };
    svg.addEventListener('pointermove', (event) => { const place = at(event); place ? show(place) : hide(); });
    svg.addEventListener('pointerleave', hide);
    svg.addEventListener('blur', hide);
    svg.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') return hide();
      if (!event.key.startsWith('Arrow') || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      show(moved(event.key), true);
    });
    drawing.dataset.lit = '';
  };
  for (const drawing of document.querySelectorAll('.drawing[data-notes]')) if (drawing.dataset.notes) start(drawing);
})();

// The attention explorer: a map of all heads, one head large, the tokens as a strip, and the numbers behind a cell.
//
// One function that draws with explorer_canvas.js what explorer_data.js reads, for pages, notebooks and a widget. `meta`
// is what explorer_page.py makes. Nothing asks the network; tokens and names only become text. When all is drawn, `host`
// has data-ready (milliseconds since the page began) and `explorer`, to read and set what is shown.
//
// One stack of heads is shown at a time: self-attention of an encoder or a decoder, over one list of tokens, or
// cross-attention, whose queries are tokens of the target and whose keys are tokens of the source. A side is 0 for
// queries and 1 for keys, and a pair is [query, key], each null where there is none.
//
// In this file: the state, the stack, elements, the map of heads, one head, tokens and numbers, what changes them
// (`change` draws anew what a change touches), a reader's hands, files, the beginning.
function attentionExplorer(host, meta, onSelect) {
	const { runs, texts, stacks } = meta, NONE = [null, null];

	// stack, kind (value), run (2: difference, 3: side by side): what is drawn
	// role: the side of the tokens in the strip; drop, tail: without the first, the last token; own: colours of each head
	// view (1: map of keys), by (badge, -1: any), sort (ORDERS), only (filter), least (threshold): the map
	// head, headLocked, pair (under the pointer), lock (the locked pair)
	const state = { stack: meta.stack, kind: meta.kind, run: meta.run, role: 0, drop: false, tail: false, own: false, view: 0,
		by: meta.sort, sort: +(meta.sort >= 0), only: false, least: 0.3, head: 0, headLocked: false, pair: NONE, lock: NONE };

	// ---- the stack that is shown

	let stack, data, heads, layers, scores, causal, cross, all, KINDS, SIDES;
	let tokens, rows, columns, widest; // labels of both sides, how many queries and keys there are, pixels of the labels
	let hand = 0; // in cross-attention, the side of the token at hand
	const decoded = [], left = []; // by stack: its data; the head that was shown when the reader left it

	const code = (head) => `L${layers[floor(head / heads)]}${cross ? "X" : "H"}${head % heads}`;
	const name = (head) => code(head) + (stack.names[head] ? ` ${stack.names[head]}` : ""); // as declared, where it is
	const role = () => (cross ? hand : state.role);
	const words = (side, run = state.run) => (run === 1 && texts[stack.texts[side]].patched) || tokens[side]; // that a run read

	function enter(next) { // show another stack; returns what that changes of the state
		const before = stack, { by, lock, headLocked } = state, named = before && by >= 0 && scores[by].name;
		if (before) left[stacks.indexOf(before)] = { head: state.head, headLocked };
		stack = next;
		({ heads, layers, scores, causal, cross } = stack);
		data = decoded[stacks.indexOf(stack)];
		tokens = stack.texts.map((text) => texts[text].tokens);
		[rows, columns] = tokens.map((list) => list.length);
		widest = [0, 1].map((side) => min(90, max(...[...words(side, 0), ...words(side, 1)].map((token) => breadth(short(token))))));
		all = range(layers.length * heads);
		KINDS = ["attention", "attention × |v W_O|", `contribution to ${stack.answer}`];
		SIDES = cross ? ["target", "source"] : ["query", "key"];
		furnish();
		const kind = stack.why[state.kind] ? 0 : state.kind, opened = { head: stack.head, headLocked: false, kind };
		if (!before) return opened;
		const kept = stack.texts.map((text, side) => { // a locked token stays locked where the new stack has it
			if (!cross && side !== state.role) return null;
			return before.cross ? (lock[before.texts.indexOf(text)] ?? null) : before.texts[0] === text ? lock[state.role] : null;
		});
		const locked = kept.some((i) => i !== null) ? kept : NONE;
		return { ...opened, ...left[stacks.indexOf(stack)], pair: locked, lock: locked, by: scores.findIndex((s) => s.name === named),
			sort: scores.length || state.sort > 2 ? state.sort : 0, tail: state.tail && !causal };
	}

	// The keys that are dropped: the first, the last or both.
	const dropped = () => [...new Set(stack.ends.filter((_, i) => [state.drop, state.tail][i]))];
	const look = () => ({ kind: state.kind, run: state.run, gone: dropped() });
	const signed = () => state.kind > 1 || state.run > 1;
	const shades = () => scales[+signed()];
	const largest = (values) => values.reduce((top, v) => max(top, abs(v) || 0), 0);

	// What one query of a head gives to every key. Of a pooled head, what its block has.
	function line(head, q) {
		const block = pools[head];
		if (!block) return new Float32Array(columns).fill(NaN);
		if (data.whole(head)) return data.row(head, q, look());
		const from = floor((q * block.high) / rows) * block.wide;
		return Float32Array.from(range(columns), (k) => block.values[from + floor((k * block.wide) / columns)]);
	}

	// ---- elements

	const radios = (label, name, options) => `<fieldset><legend>${label}</legend>${options.map((text, i) =>
		`<label><input type=radio name=${name} value=${i}><span>${escaped(text)}</span></label>`).join("")}</fieldset>`;
	const check = (name, text) => `<label class=${name}><input type=checkbox name=${name}>${text}</label> `;
	const ORDERS = ["by layer", "by badge", "by badge, either sign", "by the locked cell"], HOW = ". Arrow keys move, Enter locks, Escape unlocks.";
	const MODES = ["attention", "value-weighted", "logit contribution"], RUNS = [...runs, "difference", "side by side"];
	const keyed = (role) => `tabindex=0 role=${role}`, list = (name) => `<b></b><div class=${name} ${keyed("listbox")}></div>`;
	const root = el("section", { ariaLabel: meta.summary, style: `--said:${runs.length > 1 ? 400 : 240}px`, innerHTML: `<style>${meta.style}</style>
<header>${stacks.length > 1 ? radios("heads", "stack", stacks.map((s) => s.label)) : ""}
${radios("value", "kind", MODES)}${runs.length > 1 ? radios("run", "run", RUNS) : ""}
${radios("token as", "role", ["query", "key"])}
${check("drop", "drop first token")}${check("tail", "drop last token")}${check("own", "scale each head")}
${radios("map of", "view", ["heads", "keys of one query"])}<span class=scores>
<label>order <select name=sort>${ORDERS.map((text, i) => `<option value=${i}>${text}`).join("")}</select></label>
<label class=badge>badge <select name=by></select></label>
<label class=least>at least <input type=range name=least max=1 step=.01></label><output></output>
${check("only", "filter")}</span>
<span>save ${["PNG", "SVG", "HTML"].map((kind) => `<button aria-label="save ${kind}">${kind}</button>`).join(" ")}</span>
<span class=why></span></header><div class=tokens>${list("sources")}${list("strip")}</div><main>
<div class=map><canvas class=top></canvas><canvas class=heads ${keyed("application")}></canvas><i></i></div><div class=one>
<canvas ${keyed("application")}></canvas><div class=said><div class=legend></div>
<div class=readout role=status aria-live=polite></div></div></div></main>` });
	const find = (what) => root.querySelector(what), [above, map, big] = root.querySelectorAll("canvas");
	const [box, ring, strip, sources, legend, readout] = [".map", ".map i", ".strip", ".sources", ".legend", ".readout"].map(find);
	const lists = [strip, sources]; // in self-attention the first alone, whose tokens are queries or keys
	const sideOf = (list) => (cross ? lists.indexOf(list) : state.role);
	root.prepend(el("h2", {}, meta.title), ...meta.notes.map((note) => el("p", { className: "note" }, note)));

	function furnish() { // controls and tokens of the stack
		lists.forEach((list, side) => {
			const label = texts[stack.texts[side]].name, heading = list.previousSibling, gone = side > 0 && !cross;
			list.replaceChildren(...(gone ? [] : tokens[side].map((_, i) => el("bdi", { id: `${"ts"[side]}${i}`, role: "option" }))));
			Object.assign(list, { hidden: gone, ariaLabel: `${label[0] ? label[0].toUpperCase() + label.slice(1) + " t" : "T"}okens${HOW}` });
			Object.assign(heading, { hidden: gone || !label, textContent: label });
		});
		root.querySelectorAll("[name=kind]").forEach((input, i) => {
			input.disabled = !!stack.why[i];
			input.parentNode.title = stack.why[i];
		});
		const lacking = MODES.map((mode, i) => stack.why[i] && `${mode} (${stack.why[i]})`).filter(Boolean);
		find(".why").textContent = lacking.length ? `Not offered: ${lacking.join("; ")}.` : "";
		find("[name=role]").closest("fieldset").hidden = cross;
		find(".tail").hidden = causal;
		find(".badge").hidden = !scores.length;
		[1, 2].forEach((i) => (find("[name=sort]").options[i].hidden = !scores.length));
		const option = (value, text) => el("option", { value }, text);
		find("[name=by]").replaceChildren(option(-1, "any"), ...scores.map((s, i) => option(i, `${s.short}: ${s.name}`)));
	}

	const spell = (v) => (signed() ? plus : fixed)(v);
	const drawn = () => KINDS[state.kind] + (runs.length > 1 ? `, ${RUNS[state.run]}` : ""); // for those who do not see it

	// ---- the map of heads

	const TALLEST = 660; // pixels of the map that are seen without scrolling
	let room, per, thumb; // pixels for the map; heads in a row of it; pixels of a thumbnail
	let order, pools, top = 1, links = []; // links: of each head, what the locked query gives to the locked key
	const linking = () => state.sort === 3 && both(state.lock); // the order is that of the attention between two tokens
	const chosen = () => scores.filter((_, i) => state.by < 0 || state.by === i), part = (s, head) => s.values[head] / s.unit;
	const badges = (head) => chosen().filter((s) => abs(part(s, head)) >= (linking() ? 0.3 : state.least));
	const rank = (head) => max(...chosen().map((s) => (state.sort > 1 ? abs(part(s, head)) : part(s, head))));
	function worded(score, head) { // as it is, with its sign where some are negative
		const v = score.values[head];
		return (score.signed && v > 0 ? "+" : "") + (score.unit === 1 ? minus(unsigned(v.toFixed(2))) : rounded(v, 3));
	}
	const topOf = (head) => (state.own && pools[head]?.top) || top;
	const unit = () => (state.kind || state.run > 1 ? top : 1); // of the threshold on links

	function arrange() {
		order = all;
		if (state.sort > 2 && !linking()) return;
		const size = (head) => abs(links[head]) || 0;
		links = linking() ? all.map((head) => line(head, state.lock[0])[state.lock[1]]) : [];
		const kept = linking() ? (head) => size(head) >= state.least * unit() : (head) => badges(head).length;
		const filtered = state.only && (state.sort || (state.view && scores.length)); // else the others fade
		order = all.filter((head) => !filtered || kept(head));
		if (state.sort) order.sort(linking() ? (a, b) => size(b) - size(a) || a - b : (a, b) => rank(b) - rank(a) || a - b);
	}
	function fit() { // thumbnails to the room that there is: a layer in one row, or in several of equal length
		const width = host.clientWidth || 980;
		room = max(120, width > 760 ? width * 0.52 : width - 52);
		const least = ceil(heads / floor(room / 36)), rows = range(least).map((i) => least + i).find((n) => heads % n === 0);
		per = ceil(heads / (rows || least));
		thumb = max(30, min(96, floor(room / per) - 6));
	}
	function measure() { // what depends on the values of all heads
		fit();
		pools = all.map((head) => data.coarse(head, ceil(thumb * ratio), look()));
		pools.forEach((p) => p && (p.top = largest(p.values)));
		top = signed() || state.kind ? largest(pools.map((p) => p?.top)) || 1 : 1;
	}
	const spot = (i) => (state.view ? [0, i * ROW] : [(i % per) * (thumb + 6), floor(i / per) * (thumb + 18)]);

	function drawMap(follow) {
		const { sort, view, least } = state, scaled = chosen().filter((s) => s.unit !== 1), several = scaled.length > 1;
		find(".least").hidden = find(".only").hidden = !scores.length && sort < 3;
		find("output").textContent = linking() ? `${rounded(least * unit())} at the locked cell` : sort > 2 ? "(click a cell to lock it)"
			: !scores.length ? "" : least.toFixed(2) + (scaled.length ? ` of ${several ? "each score's largest size" : "the largest size"}` +
				(chosen().length > 1 ? ", where one exceeds 1" : `, ${rounded(scaled[0].unit, 3)}`) : "");
		above.hidden = !view;
		(view ? drawKeys : drawHeads)();
		drawRing(follow);
	}

	function drawHeads() {
		const pen = sheet(map, per * (thumb + 6), ceil(order.length / per || 1) * (thumb + 18), palette.ink);
		map.ariaLabel = `Map of ${order.length} heads: ${drawn()}${HOW}`;
		if (!order.length) pen.fillText("no such head", 0, 16);
		pen.textAlign = "center";
		order.forEach((head, i) => {
			const [x, y] = spot(i).map((v) => v + 3), mine = badges(head), whole = data.whole(head);
			pen.globalAlpha = scores.length && state.only && !state.sort && !mine.length ? 0.15 : 1;
			draw(pen, tile, pools[head] && bitmap(pools[head], topOf(head), shades()), x, y, thumb, thumb);
			pen.globalAlpha = 1;
			pen.font = 10 + FONT;
			pen.fillText(fitting(pen, name(head), thumb - 9 * !whole) + (whole ? "" : " ▦"), x + thumb / 2, y + thumb + 11, thumb);
			pen.font = `bold 10${FONT}`;
			if (linking() && pools[head]) chip(pen, spell(links[head]).replace(/(\.\d\d)\d*$/, "$1"), palette.on, palette.paper, x, y, thumb, true);
			mine.slice(0, floor(thumb / 12)).forEach((score, j) => {
				const text = score.short + (thumb < 40 ? "" : ` ${worded(score, head).replace("0.", ".")}`);
				chip(pen, text, score.color, "#fff", x, y + j * 12, thumb);
			});
		});
	}

	// The other map: heads down, keys across, for one query. Which head looks where from here?
	const ROW = 14;
	let grid = {};
	const asker = () => state.lock[0] ?? state.pair[0] ?? max(...range(rows).filter((i) => !stack.padding[0].includes(i)));

	function drawKeys() {
		const query = asker(), named = (head) => name(head) + (data.whole(head) ? "" : " ▦");
		const asked = `what ${SIDES[0]} ${query} “${short(words(0)[query])}” gives to each ${SIDES[1]}`;
		const left = 12 + min(room / 3, max(...all.map((head) => breadth(named(head)))));
		const across = min(28 * columns, room - left), dx = across / columns, turned = widest[1] + 4 > dx;
		grid = { left, dx, query, wide: left + across };
		map.ariaLabel = `Map of ${order.length} heads and their keys: ${asked}; ${drawn()}${HOW}`;
		const heading = sheet(above, max(grid.wide, breadth(asked)), turned ? widest[1] + 24 : 32, palette.ink); // stays in view
		heading.font = `bold 11${FONT}`;
		heading.fillText(asked, 0, 11);
		labels(heading, 1, dx, (k) => [left + (k + 0.5) * dx + 4 * turned, (turned ? widest[1] + 24 : 32) - 5], turned);
		const pen = sheet(map, grid.wide, max(2, order.length) * ROW, palette.ink), shares = new Float32Array(order.length * columns);
		order.forEach((head, i) => shares.set(line(head, query).map((v) => v / topOf(head)), i * columns));
		const picture = data.pool(shares, order.length, order.length, ceil(across * ratio));
		if (order.length) draw(pen, tile, bitmap(picture, 1, shades()), left, 0, across, order.length * ROW);
		else pen.fillText("no such head", 0, 16);
		order.forEach((head, i) => {
			const mark = named(head).slice(name(head).length);
			pen.fillText(fitting(pen, name(head), left - 8 - pen.measureText(mark).width) + mark, 4, i * ROW + 11);
		});
	}

	function drawRing(follow) {
		const at = order.indexOf(state.head), [x, y] = spot(at), under = state.view ? above.clientHeight : 0;
		ring.className = state.headLocked ? "locked" : "";
		const [wide, high] = state.view ? [grid.wide, ROW + 4] : [thumb + 4, thumb + 4];
		ring.style = `left:${x + !state.view}px;top:${y + under + (state.view ? -2 : 1)}px;width:${wide}px;height:${high}px;display:${at < 0 ? "none" : ""}`;
		const step = state.view ? ROW : thumb + 18; // from row to row; the map shows whole rows, and none is cut off at the top
		box.style.maxHeight = `${under + step * max(1, floor((TALLEST - under) / step))}px`;
		const least = max(box.scrollTop, y + under + high + 14 - box.clientHeight);
		if (follow) box.scrollTop = min(y, step * ceil(least / step));
	}

	// ---- one head

	let values, lost, block, picture, frame; // block: the head's values as drawn, pooled where it is large

	// Pictures of the head in either run, on one scale and with the colours of their own kind.
	let trio = false, scale = 1;
	function bothRuns() {
		const { kind, head } = state, found = [0, 1].map((run) => data.coarse(head, 1024, { ...look(), run }));
		scale = kind ? max(...found.map((one) => (one ? largest(one.values) : 0))) || 1 : 1;
		return found.map((one) => one && bitmap(one, scale, scales[+(kind > 1)]));
	}

	// Tokens of a side beside its rows or above its columns of `size` pixels, the i-th at `at(i)`: as many as there is room
	// for, among them the one at hand.
	function labels(pen, side, size, at, turned, mine = null, run = state.run) {
		const every = ceil(12 / size), room = side && !turned ? size : widest[side];
		words(side, run).forEach((token, i) => {
			if (i !== mine && (i % every || (mine !== null && abs(i - mine) < every))) return;
			pen.save();
			pen.font = (i === mine ? "bold 11" : "11") + FONT;
			pen.textAlign = turned ? "left" : side ? "center" : "right";
			pen.translate(...at(i));
			if (turned) pen.rotate(-Math.PI / 2);
			pen.fillText(short(token), 0, 0, room);
			pen.restore();
		});
	}

	function drawHead() {
		const width = max(300, min(trio ? 1100 : 640, big.parentNode.clientWidth)), gone = dropped().length, rest = gone ? max(50, breadth("dropped") + 8) : 4;
		const many = trio ? 3 : 1, between = 10, left = widest[0] + 10; // many: panels, the two runs and their difference
		const space = (width - left - rest - between * (many - 1)) / many;
		const [most, least] = [columns, rows].map((n) => min(space / n, max(240 / n, 64))); // cells, at most thrice as long one way
		const dx = min(most, 3 * least), dy = min(least, 3 * most), across = dx * columns, down = dy * rows, step = across + between;
		const turned = widest[1] + 4 > dx, over = (turned ? widest[1] + 24 : 32) + 12 * !!trio; // wide columns need no turning
		const last = left + step * (many - 1), pen = sheet(big, max(280, last + across + rest), over + down + 4, palette.ink);
		const title = name(state.head) + (data.whole(state.head) ? "" : ", pooled");
		frame = { left, above: over, dx, dy, step, many };
		big.ariaLabel = `Head ${title}: ${drawn()}; ${SIDES[0]} down, ${SIDES[1]} across${HOW}`;
		[...(trio || []), picture].forEach((one, i) => draw(pen, tile, one, left + step * i, over, across, down));
		if (trio) RUNS.slice(0, 3).forEach((text, i) => pen.fillText(text, left + step * i, 26, across));
		pen.fillStyle = palette.soft;
		pen.fillText(`${SIDES[0]} ↓   ${SIDES[1]} →`, breadth(title) * 1.2 + 12, 12);
		pen.fillStyle = palette.ink;
		pen.font = `bold 13${FONT}`;
		pen.fillText(title, 0, 12);
		labels(pen, 0, dy, (i) => [left - 5, over + (i + 0.5) * dy + 4], false, state.pair[0]);
		for (const panel of range(many))
			labels(pen, 1, dx, (i) => [left + step * panel + (i + 0.5) * dx + 4 * turned, over - 5], turned, state.pair[1], trio ? panel : state.run);
		pen.font = 11 + FONT;
		if (dx >= 34 && dy >= 20 && !trio) drawNumbers(pen, left, over, dx, dy);
		if (gone) { // beside each query, what it gave to the tokens that are dropped
			const most = (state.kind ? largest(lost) || 1 : 1) / 40;
			pen.fillText("dropped", last + across + 4, over - 5);
			lost.forEach((v, q) => pen.fillRect(last + across + 5, over + (q + 0.1) * dy, abs(v) / most || 0, dy * 0.8));
		}
		pen.strokeStyle = palette.mark;
		pen.lineWidth = 1.5;
		const [q, k] = state.pair;
		for (const x of range(many).map((i) => left + step * i)) {
			if (q !== null) pen.strokeRect(x, over + q * dy, across, dy);
			if (k !== null) pen.strokeRect(x + k * dx, over, dx, down);
		}
	}

	function drawNumbers(pen, left, over, dx, dy) { // in the cells, with as many digits as the largest head needs
		const most = topOf(state.head), digits = most > 99 ? 0 : min(5, max(2, 1 - floor(Math.log10(most))));
		pen.textAlign = "center";
		values.forEach((v, i) => {
			if (isNaN(v)) return;
			const text = unsigned(v.toFixed(digits));
			pen.fillStyle = inkOn(colour(v, most, shades()));
			pen.fillText(minus(text), left + ((i % columns) + 0.5) * dx, over + (floor(i / columns) + 0.5) * dy + 4, dx - 2);
		});
		pen.textAlign = "left";
		pen.fillStyle = palette.ink;
	}

	function drawLegend() {
		const bar = (label, top, signs) => el("span", {}, el("b", {}, label), el("div", { className: "scale" },
			el("i", { style: `--scale:${palette[signs ? "signed" : "positive"]}` }),
			...(signs ? [-1, -0.25, 0, 0.25, 1] : [0, 0.06, 0.25, 0.56, 1]).map((x) => el("span", {}, rounded(x * top)))));
		const { kind, run, head } = state, what = KINDS[kind];
		legend.replaceChildren(trio ? bar(`${what}, ${runs.join(" and ")}`, scale, kind > 1) : "",
			bar(what + (run > 1 ? `, ${runs[1]} − ${runs[0]}` : ""), topOf(head), signed()),
			el("span", { className: "masked" }, dropped().length ? "masked or dropped" : "masked"));
	}

	// ---- tokens and numbers

	const across = (side, at, i) => values[side ? i * columns + at : at * columns + i]; // from the token at hand to others
	function nameTokens() {
		lists.forEach((list, side) => [...list.children].forEach((token, i) => {
			token.textContent = words(side)[i];
			token.title = `${i} “${words(side)[i]}”`;
		}));
	}
	function drawStrips() {
		for (const list of lists) {
			const { pair } = state, side = sideOf(list), of = cross ? 1 - side : side, at = pair[of]; // whose row colours the list
			if (pair[side] === null) list.removeAttribute("aria-activedescendant");
			else list.setAttribute("aria-activedescendant", `${"ts"[lists.indexOf(list)]}${pair[side]}`);
			[...list.children].forEach((token, i) => {
				const v = at === null || !data.whole(state.head) ? null : across(of, at, i), rgb = v !== null && !isNaN(v) && colour(v, topOf(state.head), shades());
				token.className = [i === pair[side] && "at", !cross && i === pair[1 - side] && "other", v !== null && !rgb && "masked",
					stack.padding[side].includes(i) && "padding"].filter(Boolean).join(" ");
				token.style = rgb ? `background:rgb(${rgb});color:${inkOn(rgb)}` : "";
				token.ariaSelected = i === pair[side];
			});
		}
	}

	function drawReadout() {
		const { pair, head, headLocked, lock, drop, tail } = state, [q, k] = pair, lines = [], two = runs.length > 1, gone = dropped();
		const side = cross && pair[hand] === null ? 1 - hand : role(), one = pair[side], held = lock === NONE ? "" : " (locked)";
		const ends = ["first", "last"].filter((_, i) => [drop, tail][i]).join(" and "), many = ends.length > 5 ? "s" : "";
		const apart = (word) => (/[\u0590-\u08ff\ufb1d-\ufefc]/.test(word) ? `\u2068${word}\u2069` : word); // from right to left
		const say = (...text) => lines.push(el("p", {}, ...text)), quote = (side, i) => `${i} “${apart(words(side)[i])}”`;
		const full = (side, i) => {
			const other = +(state.run !== 1), there = words(side, other)[i];
			return `${SIDES[side]} ${quote(side, i)}${there === words(side)[i] ? "" : ` (${runs[other]}: “${apart(there)}”)`}`;
		};
		say(el("b", {}, name(head)), headLocked ? " (locked) " : " ", scores.map((s) => `${s.name} ${worded(s, head)}`).join(", "));
		const took = lost.filter((v, i) => v === v && (cross || !gone.includes(i))); // of queries that are kept
		if (!data.whole(head) && !block) say("pooled to save space: from such a head no token can be dropped");
		else if (!data.whole(head)) {
			say("▦ pooled to save space: each block of tokens shows its largest entry");
			const sizes = [block.high, block.wide], cell = pair.map((i, side) => floor((i * sizes[side]) / tokens[side].length));
			const bounds = (side) => [cell[side], cell[side] + 1].map((i) => ceil((i * tokens[side].length) / sizes[side]));
			const span = (side) => ((from, to) => `${from} to ${to - 1}`)(...bounds(side));
			if (both(pair)) say(`largest of queries ${span(0)}, keys ${span(1)}: ${spell(block.values[cell[0] * block.wide + cell[1]])}`);
		}
		else if (q !== null && k !== null) {
			say(`${full(0, q)} → ${full(1, k)}${held}`);
			const of = (kind, drop, what = "values", at = q * columns + k) => runs.map((_, r) => data.single(r, head, kind, drop)[what][at]);
			const rows = [["A", of(0, [])]];
			if (ends) rows.push([`A without the ${ends} token${many}`, of(0, gone)], [`A of the ${ends} token${many}`, of(0, gone, "lost", q)]);
			if (stack.norms) rows.push(["|v W_O|", runs.map((_, r) => data.factor(r, 1)(head, k))], ["A |v W_O|", of(1, [])]);
			if (stack.answer) rows.push([KINDS[2], of(2, [])]);
			const row = (label, cells) => el("tr", {}, el("th", {}, label), ...cells.map((c) => el("td", {}, c)));
			lines.push(el("table", {}, two ? row("", [...runs, "difference"]) : "", ...rows.map(([label, v]) =>
				row(label, [...v.map(label === KINDS[2] ? plus : fixed), ...(two ? [plus(v[1] - v[0])] : [])]))));
		} else if (one !== null) {
			const by = (i) => abs(across(side, one, i)) || 0;
			const best = range(tokens[1 - side].length).filter(by).sort((a, b) => by(b) - by(a) || a - b).slice(0, 6);
			const told = best.map((i) => `${quote(1 - side, i)} ${spell(across(side, one, i))}`).join(" · ");
			say(`${full(side, one)}${held}: ${told || "nothing"}`);
			if (ends && !side) say(`dropped with the ${ends} token${many}: ${spell(lost[one])}`);
		} else if (took.length) {
			const mean = took.reduce((a, b) => a + b / took.length, 0);
			say(`dropped with token${many} ${gone.map((k) => quote(1, k)).join(" and ")}: ${spell(mean)} of a ${SIDES[0]} on average`);
		} else say("Point at a token or a cell; a click locks, Escape unlocks.");
		readout.replaceChildren(...lines);
	}

	// ---- what changes it

	const DEPTH = { all: 3, stack: 3, kind: 3, run: 3, drop: 3, tail: 3, by: 2, sort: 2, only: 2, least: 2, own: 2, view: 2, head: 1 };
	function change(what, follow) {
		const moved = what.stack !== undefined && stacks[what.stack] !== stack;
		Object.assign(state, moved && enter(stacks[what.stack]), what);
		for (const control of root.querySelectorAll("[name]")) {
			const value = state[control.name];
			if (control.type === "radio") control.checked = +control.value === value;
			else control[control.type === "checkbox" ? "checked" : "value"] = value;
		}
		const wants = (state.sort > 2 && "lock" in what) || (state.view && asker() !== grid.query); // another cell or query
		const level = max(wants ? 2 : 0, ...Object.keys(what).map((key) => DEPTH[key] || 0)); // how much to draw anew
		if (level > 2) measure(), nameTokens();
		if (level > 1) arrange();
		if (level > 1) drawMap(follow || "view" in what);
		else drawRing(follow);
		if (level) {
			({ values, lost } = data.matrix(state.head, look()));
			block = data.coarse(state.head, 1024, look());
			picture = block && bitmap(block, topOf(state.head), shades());
			trio = state.run > 2 && bothRuns();
			drawLegend();
		}
		drawHead();
		drawStrips();
		drawReadout();
		if (onSelect && (moved || "headLocked" in what || "lock" in what)) onSelect(selection());
	}
	const selection = () => {
		const { head, headLocked: on, lock: [query, key] } = state;
		return { stack: stack.name, layer: on ? layers[floor(head / heads)] : null, head: on ? head % heads : null, query, key };
	};
	root.oninput = ({ target: { name, type, checked, value } }) => change({ [name]: type === "checkbox" ? checked : +value });

	const lockHead = (head) => change({ head, headLocked: !(state.headLocked && head === state.head) });
	const lockPair = (pair) => change({ lock: `${pair}` === `${state.lock}` ? NONE : pair, pair });
	const preview = (pair) => `${pair}` === `${state.pair}` || change({ pair });
	const both = ([q, k]) => q !== null && k !== null;
	const mine = (side, i, other = null) => (side ? [other, i] : [i, other]);
	const beside = (side) => (cross ? state.lock[1 - side] : null); // a token of the other list that is locked

	const headAt = ({ offsetX, offsetY }) => {
		if (state.view) return order[floor(offsetY / ROW)];
		const column = floor(offsetX / (thumb + 6));
		return column < per ? order[floor(offsetY / (thumb + 18)) * per + column] : undefined;
	};
	const cellAt = ({ offsetX, offsetY }) => {
		const panel = max(0, min(frame.many - 1, floor((offsetX - frame.left) / frame.step)));
		const pair = [(offsetY - frame.above) / frame.dy, (offsetX - frame.left - frame.step * panel) / frame.dx].map(floor);
		return pair.every((i, side) => i >= 0 && i < tokens[side].length) && pair;
	};
	const keyAt = ({ offsetX }) => { // in the map of keys, the cell of one query
		const k = floor((offsetX - grid.left) / grid.dx);
		return state.view && k >= 0 && k < columns && [grid.query, k];
	};
	map.onpointermove = (e) => {
		const head = state.headLocked ? state.head : (headAt(e) ?? state.head), pair = (!both(state.lock) && keyAt(e)) || state.pair;
		if (head !== state.head) change({ head, pair });
		else preview(pair);
	};
	map.onclick = (e) => {
		const head = headAt(e), pair = keyAt(e);
		if (head === undefined) return;
		if (pair) change({ head, headLocked: true, pair, lock: pair });
		else lockHead(head);
	};
	map.onpointerleave = () => state.view && preview(state.lock);
	big.onpointermove = (e) => both(state.lock) || preview(cellAt(e) || state.lock);
	big.onclick = (e) => cellAt(e) && lockPair(cellAt(e));
	big.onpointerleave = () => preview(state.lock);
	for (const list of lists) {
		const tokenAt = (e) => [...list.children].indexOf(e.target);
		list.onpointerleave = big.onpointerleave;
		list.onpointerover = (e) => { // a token alone, or as the other side of a locked one
			const side = sideOf(list), held = state.lock[side], i = tokenAt(e);
			if (i < 0 || both(state.lock) || (cross && held !== null)) return;
			hand = side;
			preview(held === null ? mine(side, i, beside(side)) : mine(side, held, i));
		};
		list.onclick = (e) => {
			const side = sideOf(list), i = tokenAt(e);
			hand = side;
			if (i >= 0) lockPair(mine(side, i, beside(side)));
		};
	}

	root.onkeydown = (e) => {
		if (e.altKey || e.ctrlKey || e.metaKey) return; // the browser's own
		const { head, headLocked, pair, lock } = state, on = e.target, side = sideOf(on), held = both(pair);
		const clamp = (i, side) => max(0, min(tokens[side].length - 1, i));
		const [down, right] = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[e.key] || [];
		if (e.key === "Escape") change({ headLocked: false, lock: NONE, pair: NONE });
		else if (![map, big, ...lists].includes(on)) return;
		else if (down === undefined) {
			if (e.key !== "Enter" && e.key !== " ") return;
			if (on === map && state.view && held) change({ headLocked: true, lock: pair });
			else if (on === map) lockHead(head);
			else lockPair(on === big ? pair : mine(side, pair[side], beside(side)));
		} else if (on === map && state.view && right) { // from key to key of the query
			const next = [grid.query, clamp((pair[1] ?? (right > 0 ? -1 : columns)) + right, 1)];
			change({ pair: next, lock: both(lock) ? next : lock });
		} else if (on === map) {
			const next = order[order.indexOf(head) + (state.view ? down : down * per + right)];
			if (next !== undefined) change({ head: next, headLocked }, true);
		} else {
			const steps = held ? [clamp(pair[0] + down, 0), clamp(pair[1] + right, 1)] : pair.map((i) => i || 0);
			if (on !== big) hand = side;
			const step = () => mine(side, clamp((pair[side] ?? -down - right) + down + right, side), beside(side));
			const next = on === big ? steps : step();
			change({ pair: next, lock: lock === NONE ? lock : next });
		}
		e.preventDefault();
		e.stopPropagation(); // a notebook's shortcuts would act on the cell
	};

	// ---- files

	const SAVE = {
		PNG() {
			const over = state.view ? above.height : 0, wide = max(map.width, over && above.width);
			const out = el("canvas", { width: wide + big.width + 24, height: max(over + map.height, big.height) + 16 });
			const pen = out.getContext("2d");
			pen.fillStyle = palette.paper;
			pen.fillRect(0, 0, out.width, out.height);
			if (over) pen.drawImage(above, 8, 8);
			pen.drawImage(map, 8, 8 + over);
			pen.drawImage(big, wide + 16, 8);
			return new Promise((done) => out.toBlob(done));
		},
		SVG() { // the head that is shown
			const cell = max(12, min(48, 600 / max(rows, columns))), [high, wide] = [rows, columns].map((n) => cell * n);
			const area = `x="90" y="90" width="${wide}" height="${high}"`, { ink, paper, hatch } = palette, at = (i) => 94 + (i + 0.5) * cell;
			const text = (side) => words(side).map((token, i) => `<text ${side ? `transform="translate(${at(i)} 85) rotate(-90)"`
				: `x="85" y="${at(i)}" text-anchor="end"`}>${escaped(short(token))}</text>`).join("");
			return `<svg xmlns="http://www.w3.org/2000/svg" width="${wide + 98}" height="${high + 98}" font-family="sans-serif" ` +
				`font-size="11" fill="${ink}"><title>${escaped(`${name(state.head)}: ${drawn()}`)}</title><path fill="${paper}" d="M0 0h${wide + 98}v${high + 98}H0"/>` +
				`<rect ${area} fill="${hatch}"/><image ${area} preserveAspectRatio="none" style="image-rendering:pixelated" ` +
				`href="${picture ? picture.toDataURL() : "data:,"}"/>${text(0)}${text(1)}</svg>`;
		},
		HTML() { // this explorer alone
			const still = host.querySelector("figure")?.outerHTML || "", data = JSON.stringify(meta).replace(/</g, "\\u003c");
			return `<!doctype html><html lang="en"><meta charset="utf-8"><title>${escaped(meta.title)}</title><div id="a">${still}` +
				`</div><script>${attentionScripts}\nattentionScripts()(document.getElementById("a"),${data})<\/script></html>`;
		},
	};
	find("header").onclick = async ({ target: { textContent: kind, localName } }) => {
		if (localName !== "button") return;
		const link = el("a", { href: URL.createObjectURL(new Blob([await SAVE[kind]()])), download: `attention.${kind.toLowerCase()}` });
		link.click();
		setTimeout(() => URL.revokeObjectURL(link.href), 1e4);
	};

	// ---- begin

	let shade, palette, scales, tile; // of the theme; scales: of amounts, and of signed values
	function restyle() {
		shade = theme();
		palette = meta.palette[shade];
		scales = [shadesOf(palette.positive, false), shadesOf(palette.signed, true)];
		tile = hatched(palette);
		root.style.colorScheme = shade;
		for (const name in palette) root.style.setProperty(`--${name}`, palette[name]);
		change({ ...state, all: true }, true);
	}
	return Promise.all(stacks.map((stack) => attentionData(meta, stack))).then((found) => {
		decoded.push(...found);
		Object.assign(state, enter(stacks[meta.stack]), { headLocked: meta.locked });
		if (meta.lock) {
			const side = +(meta.lock[0] === null);
			hand = side;
			Object.assign(state, { pair: meta.lock, lock: meta.lock, role: side });
		}
		host.attachShadow({ mode: "open" }).append(root); // which hides the still picture
		restyle();
		const again = () => theme() === shade || restyle(), watch = new MutationObserver(again);
		for (const one of [document.documentElement, document.body]) watch.observe(one, { attributes: true });
		system.onchange = again;
		let width = host.clientWidth;
		new ResizeObserver(() => host.clientWidth === width || ((width = host.clientWidth), change({ all: true }))).observe(host);
		const number = (layer, head) => layers.indexOf(layer) * heads + head;
		host.explorer = { state, change, selection, heads: () => heads, spot, frame: () => frame, order: () => order, grid: () => grid, line,
			matrix: (layer, head) => data.matrix(number(layer, head), look()),
			coarse: (layer, head) => data.coarse(number(layer, head), 1024, look()) };
		host.dataset.ready = round(performance.now());
	}).catch((error) => host.append(el("p", {}, `The explorer failed: ${error}`)));
}

// The attention explorer: a map of all heads, one head large, the tokens as a strip, and the numbers behind a cell.
//
// One function without dependencies, for pages, notebooks and a widget. `meta` is what explorer.py makes. Nothing asks
// the network; tokens and names only become text. When all is drawn, `host` has data-ready (milliseconds since the page
// began) and `explorer`, to read and set what is shown.
function attentionExplorer(host, meta, onSelect) {
	const { abs, ceil, floor, max, min, round } = Math;
	const { n, heads, layers, tokens, scores, first, causal, runs, answer, norms, levels } = meta;
	const range = (length) => Array.from({ length }, (_, i) => i), all = range(layers.length * heads);
	const KINDS = ["attention", "attention × |v W_O|", `contribution to ${answer}`], SIDES = ["query", "key"];
	const SHARE = range(levels + 2).map((code) => (code > levels ? NaN : (code / levels) ** 2)); // NaN: masked
	const place = new Map((meta.kept || all).map((head, i) => [head, i]));
	const NONE = [null, null]; // a pair of positions, [query, key]
	const layerOf = (head) => floor(head / heads), name = (head) => `L${layers[layerOf(head)]}H${head % heads}`;
	const state = { kind: meta.kind, run: 0, role: 0, drop: false, own: false, by: meta.sort, sort: meta.sort >= 0, only: false,
		least: 0.3, head: meta.head, headLocked: false, pair: NONE, lock: NONE };

	// ---- values

	let parts; // one a run: codes of the patterns, and what turns a share into each kind of value

	async function unpack() {
		const text = atob(meta.data), bytes = new Uint8Array(text.length);
		for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
		const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
		const buffer = await new Response(inflated).arrayBuffer();
		let at = 0;
		const take = (Kind, wanted, length) => runs.map(() => {
			const part = new Kind(buffer, at, wanted ? length : 0);
			at += part.byteLength;
			return part;
		});
		const normTops = take(Float32Array, norms, all.length), effectTops = take(Float32Array, answer, all.length);
		const queries = take(Float32Array, answer, layers.length * n);
		const sizes = take(Uint16Array, norms, all.length * n), effects = take(Int16Array, answer, all.length * n);
		const codes = take(levels > 254 ? Uint16Array : Uint8Array, 1, place.size * (causal ? (n * (n + 1)) / 2 : n * n));
		parts = codes.map((code, r) => ({ code, factors: [
			() => 1,
			(head, k) => (sizes[r][head * n + k] / 4095) * normTops[r][head],
			(head, k, q) =>
				(effects[r][head * n + k] / 2047) * effectTops[r][head] * queries[r][layerOf(head) * n + q],
		] }));
	}

	// One head of one run: [query * n + key], NaN where masked, and what dropping the first token took from each query.
	function single(run, head, kind, drop) {
		const values = new Float32Array(n * n).fill(NaN), lost = new Float32Array(n).fill(NaN);
		const { code, factors } = parts[run], factor = factors[kind];
		if (!place.has(head)) return { values, lost };
		for (let k = 0, i = (place.get(head) * code.length) / place.size; k < n; k++)
			for (let q = causal ? k : 0; q < n; q++, i++) values[q * n + k] = SHARE[code[i]] * factor(head, k, q);
		for (let q = 0; drop && q < n; q++) {
			const row = values.subarray(q * n, q * n + n);
			lost[q] = row[first];
			row[first] = NaN;
			if (kind) continue; // amounts are left out; shares are divided again
			const rest = row.reduce((sum, v) => sum + (v || 0), 0);
			row.forEach((v, k) => (row[k] = rest ? v / rest : NaN));
		}
		return { values, lost };
	}

	function matrix(head) {
		const { run, kind, drop } = state, clean = single(run % 2, head, kind, drop);
		if (run < 2) return clean;
		const patched = single(1, head, kind, drop);
		const minus = (a, b) => a.map((v, i) => (isNaN(v) && isNaN(b[i]) ? NaN : (v || 0) - (b[i] || 0)));
		return { values: minus(patched.values, clean.values), lost: minus(patched.lost, clean.lost) };
	}

	function pool(values, side) { // the entry of largest size in each block, so that a thin stripe survives
		if (side >= n) return { values, side: n };
		const out = new Float32Array(side * side).fill(NaN), to = range(n).map((i) => floor((i * side) / n));
		for (let q = 0, i = 0; q < n; q++)
			for (let k = 0; k < n; k++, i++) {
				const at = to[q] * side + to[k], v = values[i];
				if (v === v && !(abs(v) <= abs(out[at]))) out[at] = v;
			}
		return { values: out, side };
	}

	const largest = (values) => values.reduce((top, v) => max(top, abs(v) || 0), 0);
	const signed = () => state.kind > 1 || state.run > 1;

	// ---- colours

	const system = matchMedia("(prefers-color-scheme: dark)");
	function theme() {
		const { body, documentElement: html } = document, code = /vscode-(?:high-contrast-)?(light|dark|high)/.exec(body.className);
		const named = { true: "light", false: "dark" }[body.dataset.jpThemeLight] || html.getAttribute("theme");
		return /dark|high/.test(named || (code ? code[1] : system.matches && "dark")) ? "dark" : "light";
	}
	let shade, palette, colours, packed, tile;
	const stops = () => palette[signed() ? "signed" : "positive"];

	function mix() { // 256 colours between the palette's stops
		const corners = stops().map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
		colours = range(256).map((i) => {
			const x = (i / 255) * (corners.length - 1), at = min(floor(x), corners.length - 2);
			return corners[at].map((c, j) => round(c + (x - at) * (corners[at + 1][j] - c)));
		});
		packed = Uint32Array.from(colours, ([r, g, b]) => (255 << 24) | (b << 16) | (g << 8) | r);
	}
	function shadeOf(v, top) { // by the root of the size, so that weak attention shows
		const t = min(1, Math.sqrt(abs(v) / top)) * Math.sign(v);
		return round((signed() ? (t + 1) / 2 : t) * 255);
	}
	const colour = (v) => colours[shadeOf(v, topOf(state.head))];
	const light = (rgb) => rgb.reduce((sum, c, i) => sum + [0.2126, 0.7152, 0.0722][i] * (c / 255) ** 2.2, 0);
	const inkOn = (rgb) => (light(rgb) > 0.179 ? "#000" : "#fff"); // at .179 both have the same contrast

	function bitmap({ values, side }, top) {
		const canvas = el("canvas", { width: side, height: side }), image = new ImageData(side, side);
		const pixels = new Uint32Array(image.data.buffer);
		values.forEach((v, i) => v === v && (pixels[i] = packed[shadeOf(v, top)]));
		canvas.getContext("2d").putImageData(image, 0, 0);
		return canvas;
	}
	function draw(pen, picture, x, y, side) { // on a hatched ground, which shows where entries are masked
		pen.fillStyle = pen.createPattern(tile, "repeat");
		pen.fillRect(x, y, side, side);
		if (picture) pen.drawImage(picture, x, y, side, side);
		pen.fillStyle = palette.ink;
	}

	// ---- elements

	function el(tag, props = {}, ...inside) {
		const made = Object.assign(document.createElement(tag), props);
		made.append(...inside);
		return made;
	}
	const radios = (label, name, options, why = []) => `<fieldset><legend>${label}</legend>${options.map((text, i) =>
		`<label title="${why[i] || ""}"><input type=radio name=${name} value=${i} ${why[i] ? "disabled" : ""}>` +
		`<span>${text}</span></label>`).join("")}</fieldset>`;
	const check = (name, text) => `<label><input type=checkbox name=${name}>${text}</label> `;
	const keyed = (role, what) => `tabindex=0 role=${role} aria-label="${what}. Arrow keys move, Enter locks, Escape unlocks."`;
	const root = el("section", { ariaLabel: meta.summary, innerHTML: `<style>${meta.style}</style>
<header>${radios("value", "kind", ["attention", "value-weighted", "logit contribution"], meta.why)}
${runs.length > 1 ? radios("run", "run", [...runs, "difference"]) : ""}${radios("token is", "role", SIDES)}
${check("drop", "drop first token")}${check("own", "scale each head")}<span>save ${["PNG", "SVG", "HTML"].map((kind) =>
	`<button aria-label="save ${kind}">${kind}</button>`).join(" ")}</span><span class=scores><label>badge <select name=by>
<option value=-1>any</select></label> <label>at least <input type=range name=least max=1 step=.01> <output></output></label>
${check("sort", "sort")}${check("only", "filter")}</span></header><div class=strip ${keyed("listbox", "Tokens")}></div><main>
<div class=map><canvas ${keyed("application", `Map of ${all.length} heads`)}></canvas><i></i></div><div class=one>
<canvas ${keyed("application", "One head: queries down, keys across")}></canvas><div class=legend></div>
<div class=readout role=status aria-live=polite></div></div></main>` });
	const find = (what) => root.querySelector(what), [map, big] = root.querySelectorAll("canvas");
	const [box, ring, strip, legend, readout] = [".map", ".map i", ".strip", ".legend", ".readout"].map(find);
	strip.append(...tokens.map((token, i) => el("bdi", { id: `t${i}`, role: "option", title: `${i} “${token}”` }, token)));
	if (scores.length) find("select").append(...scores.map((s, i) => el("option", { value: i }, `${s.short}: ${s.name}`)));
	else find(".scores").remove();
	root.prepend(el("h2", {}, meta.title), ...meta.notes.map((note) => el("p", { className: "note" }, note)));

	const fixed = (v) => (isNaN(v) ? "masked" : v && abs(v) < 1e-3 ? v.toExponential(2) : v.toFixed(4)).replaceAll("-", "−");
	const plus = (v) => (v > 0 ? "+" : "") + fixed(v), spell = (v) => (signed() ? plus : fixed)(v);

	// ---- the map of heads

	const ratio = min(2, devicePixelRatio || 1), FONT = "px system-ui, sans-serif";
	let thumb, order, pools, top;
	const chosen = () => scores.filter((_, i) => state.by < 0 || state.by === i), part = (s, head) => s.values[head] / s.unit;
	const badges = (head) => chosen().filter((s) => part(s, head) >= state.least);
	const rank = (head) => max(...chosen().map((s) => part(s, head)));
	const topOf = (head) => (state.own && pools[head].top) || top;

	function arrange() {
		const width = host.clientWidth || 980, room = width > 760 ? width * 0.54 : width - 26;
		thumb = max(30, min(96, floor(room / heads) - 6));
		order = all.filter((head) => !(state.sort && state.only) || badges(head).length);
		if (state.sort) order.sort((a, b) => rank(b) - rank(a) || a - b);
	}
	function measure() { // what depends on the values of all heads
		mix();
		pools = all.map((head) => place.has(head) && pool(matrix(head).values, ceil(thumb * ratio)));
		pools.forEach((p) => p && (p.top = largest(p.values)));
		top = signed() || state.kind ? largest(pools.map((p) => p.top)) || 1 : 1;
	}
	const spot = (i) => [(i % heads) * (thumb + 6), floor(i / heads) * (thumb + 18)];

	function sheet(canvas, width, height) {
		Object.assign(canvas, { width: width * ratio, height: height * ratio, style: `width:${width}px;height:${height}px` });
		const pen = canvas.getContext("2d");
		pen.scale(ratio, ratio);
		pen.imageSmoothingEnabled = false;
		return pen;
	}

	function drawMap(follow) {
		const pen = sheet(map, heads * (thumb + 6), ceil(order.length / heads || 1) * (thumb + 18));
		pen.textAlign = "center";
		order.forEach((head, i) => {
			const [x, y] = spot(i).map((v) => v + 3), mine = badges(head);
			pen.globalAlpha = state.only && !mine.length ? 0.15 : 1;
			draw(pen, pools[head] && bitmap(pools[head], topOf(head)), x, y, thumb);
			pen.font = 10 + FONT;
			if (!pools[head]) pen.fillText("left out", x + thumb / 2, y + thumb / 2, thumb);
			pen.fillText(name(head), x + thumb / 2, y + thumb + 11, thumb);
			pen.font = `bold 9${FONT}`;
			mine.slice(0, floor(thumb / 12)).forEach((score, j) => {
				const text = score.short + (thumb < 40 ? "" : part(score, head).toFixed(2).replace("0.", " ."));
				const wide = min(thumb, pen.measureText(text).width + 6);
				pen.fillStyle = score.color;
				pen.fillRect(x + thumb - wide, y + j * 12, wide, 11);
				pen.fillStyle = "#fff";
				pen.fillText(text, x + thumb - wide / 2, y + j * 12 + 8.5, wide - 2);
			});
		});
		if (scores.length) find("output").textContent = state.least.toFixed(2);
		drawRing(follow);
	}

	function drawRing(follow) {
		const at = order.indexOf(state.head), [x, y] = spot(at);
		ring.className = state.headLocked ? "locked" : "";
		ring.style = `left:${x + 1}px;top:${y + 1}px;width:${thumb + 4}px;height:${thumb + 4}px;display:${at < 0 ? "none" : ""}`;
		if (follow) box.scrollTop = min(y, max(box.scrollTop, y + thumb + 18 - box.clientHeight));
	}

	// ---- one head

	let values, lost, picture, frame;
	const short = (i) => (tokens[i].length > 12 ? [...tokens[i]].slice(0, 11).join("") + "…" : tokens[i]);

	function drawHead() {
		const wide = max(300, min(640, big.parentNode.clientWidth)), rest = state.drop ? 50 : 4;
		const left = min(84, 10 + 6.5 * max(...range(n).map((i) => short(i).length))), above = left + 16;
		const side = min(wide - left - rest, max(240, 64 * n)), cell = side / n, every = ceil(12 / cell);
		const pen = sheet(big, wide, above + side + 4), write = (text, x, y, align, most) => {
			pen.textAlign = align || "left";
			pen.fillText(text, x, y, most);
		};
		frame = { left, above, cell };
		draw(pen, picture, left, above, side);
		pen.font = `bold 13${FONT}`;
		write(name(state.head), 0, 12);
		state.pair.forEach((mine, along) => range(n).forEach((i) => { // tokens, as many as there is room for
			if (i !== mine && (i % every || (mine !== null && abs(i - mine) < every))) return;
			pen.save();
			pen.font = (i === mine ? "bold 11" : "11") + FONT;
			pen.translate(...(along ? [left + (i + 0.5) * cell + 4, above - 5] : [left - 5, above + (i + 0.5) * cell + 4]));
			if (along) pen.rotate(-Math.PI / 2);
			write(short(i), 0, 0, along ? "left" : "right", left - 9);
			pen.restore();
		}));
		pen.font = 11 + FONT;
		if (cell >= 40) values.forEach((v, i) => {
			if (isNaN(v)) return;
			pen.fillStyle = inkOn(colour(v));
			write(v.toFixed(2), left + ((i % n) + 0.5) * cell, above + (floor(i / n) + 0.5) * cell + 4, "center");
		});
		if (state.drop) { // beside each query, what it gave to the first token
			const unit = (state.kind ? largest(lost) || 1 : 1) / 40;
			pen.fillStyle = palette.ink;
			write("dropped", left + side + 4, above - 5);
			lost.forEach((v, q) => pen.fillRect(left + side + 5, above + (q + 0.1) * cell, abs(v) / unit || 0, cell * 0.8));
		}
		pen.strokeStyle = palette.mark;
		pen.lineWidth = 1.5;
		const [q, k] = state.pair;
		if (q !== null) pen.strokeRect(left, above + q * cell, side, cell);
		if (k !== null) pen.strokeRect(left + k * cell, above, cell, side);
	}

	function drawLegend() {
		const ticks = (signed() ? [-1, -0.25, 0, 0.25, 1] : [0, 0.06, 0.25, 0.56, 1]).map((x) => x * topOf(state.head));
		legend.replaceChildren(el("b", {}, KINDS[state.kind] + (state.run > 1 ? ", patched − clean" : "")),
			el("div", { className: "scale" }, el("i", { style: `--scale:${stops()}` }),
				...ticks.map((v) => el("span", {}, `${+v.toPrecision(2)}`.replace("-", "−")))),
			el("span", { className: "masked" }, state.drop ? "masked or dropped" : "masked"));
	}

	// ---- tokens and numbers

	const across = (at, i) => values[state.role ? i * n + at : at * n + i]; // between the token at hand and another
	function drawStrip() {
		const { role, pair } = state, at = pair[role];
		strip.setAttribute("aria-activedescendant", `t${at}`);
		[...strip.children].forEach((token, i) => {
			const v = at === null ? null : across(at, i), rgb = v !== null && !isNaN(v) && colour(v);
			token.className = [i === at && "at", i === pair[1 - role] && "other", v !== null && !rgb && "masked",
				meta.padding.includes(i) && "padding"].filter(Boolean).join(" ");
			token.style = rgb ? `background:rgb(${rgb});color:${inkOn(rgb)}` : "";
			token.ariaSelected = i === at;
		});
	}

	function drawReadout() {
		const { pair, head, headLocked, lock, drop, role } = state, [q, k] = pair, one = pair[role], lines = [];
		const held = lock === NONE ? "" : " (locked)", other = meta.patchedTokens || tokens, both = runs.length > 1;
		const say = (...text) => lines.push(el("p", {}, ...text)), quote = (i) => `${i} “${tokens[i]}”`;
		const side = (s, i) => `${SIDES[s]} ${quote(i)}${other[i] === tokens[i] ? "" : ` (patched: “${other[i]}”)`}`;
		say(el("b", {}, name(head)), headLocked ? " (locked) " : " ", scores.map((s) => `${s.name} ${s.values[head].toFixed(2)}`).join(", "));
		if (!place.has(head)) say("left out of the page, see above");
		else if (q !== null && k !== null) {
			say(`${side(0, q)} → ${side(1, k)}${held}`);
			const of = (kind, drop, what = "values", at = q * n + k) => runs.map((_, r) => single(r, head, kind, drop)[what][at]);
			const rows = [["A", of(0)]];
			if (drop) rows.push(["A without the first token", of(0, true)], ["A of the first token", of(0, true, "lost", q)]);
			if (norms) rows.push(["|v W_O|", parts.map((p) => p.factors[1](head, k))], ["A |v W_O|", of(1)]);
			if (answer) rows.push([KINDS[2], of(2)]);
			const row = (label, cells) => el("tr", {}, el("th", {}, label), ...cells.map((c) => el("td", {}, c)));
			lines.push(el("table", {}, both ? row("", [...runs, "difference"]) : "", ...rows.map(([label, v]) =>
				row(label, [...v.map(label === KINDS[2] ? plus : fixed), ...(both ? [plus(v[1] - v[0])] : [])]))));
		} else if (one !== null) {
			const by = (i) => abs(across(one, i)) || 0, best = range(n).filter(by).sort((a, b) => by(b) - by(a) || a - b);
			say(`${side(role, one)}${held}: ${best.slice(0, 6).map((i) => `${quote(i)} ${spell(across(one, i))}`).join(" · ") || "nothing"}`);
			if (drop && !role) say(`dropped with the first token: ${spell(lost[one])}`);
		} else if (drop && first < n - 1) {
			const took = lost.filter((v, i) => v === v && i !== first), mean = took.reduce((a, b) => a + b / took.length, 0);
			say(`dropped with token ${quote(first)}: ${spell(mean)} of a query on average`);
		} else say("Point at a token or a cell; a click locks, Escape unlocks.");
		readout.replaceChildren(...lines);
	}

	// ---- what changes it

	const DEPTH = { all: 3, kind: 3, run: 3, drop: 3, by: 2, sort: 2, only: 2, least: 2, own: 2, head: 1 };
	function change(what, follow) {
		Object.assign(state, what);
		for (const control of root.querySelectorAll("[name]")) {
			const value = state[control.name];
			if (control.type === "radio") control.checked = +control.value === value;
			else control[control.type === "checkbox" ? "checked" : "value"] = value;
		}
		const level = max(...Object.keys(what).map((key) => DEPTH[key] || 0)); // how much to draw anew
		if (level > 1) arrange();
		if (level > 2) measure();
		if (level > 1) drawMap(follow);
		else drawRing(follow);
		if (level) {
			({ values, lost } = matrix(state.head));
			picture = bitmap(pool(values, 1024), topOf(state.head));
			drawLegend();
		}
		drawHead();
		drawStrip();
		drawReadout();
		if (onSelect && ("headLocked" in what || "lock" in what)) onSelect(selection());
	}
	const selection = () => {
		const { head, headLocked: on, lock: [query, key] } = state;
		return { layer: on ? layers[layerOf(head)] : null, head: on ? head % heads : null, query, key };
	};
	root.oninput = ({ target: { name, type, checked, value } }) => change({ [name]: type === "checkbox" ? checked : +value });

	const lockHead = (head) => change({ head, headLocked: !(state.headLocked && head === state.head) });
	const lockPair = (pair) => change({ lock: `${pair}` === `${state.lock}` ? NONE : pair, pair });
	const preview = (pair) => `${pair}` === `${state.pair}` || change({ pair });
	const both = ([q, k]) => q !== null && k !== null;
	const mine = (i, other = null) => (state.role ? [other, i] : [i, other]);

	const headAt = ({ offsetX, offsetY }) => {
		const column = floor(offsetX / (thumb + 6));
		return column < heads ? order[floor(offsetY / (thumb + 18)) * heads + column] : undefined;
	};
	const cellAt = ({ offsetX, offsetY }) => {
		const pair = [(offsetY - frame.above) / frame.cell, (offsetX - frame.left) / frame.cell].map(floor);
		return pair.every((i) => i >= 0 && i < n) && pair;
	};
	const tokenAt = (e) => [...strip.children].indexOf(e.target);
	map.onpointermove = (e) => state.headLocked || (headAt(e) ?? state.head) === state.head || change({ head: headAt(e) });
	map.onclick = (e) => headAt(e) === undefined || lockHead(headAt(e));
	big.onpointermove = (e) => both(state.lock) || preview(cellAt(e) || state.lock);
	big.onclick = (e) => cellAt(e) && lockPair(cellAt(e));
	big.onpointerleave = strip.onpointerleave = () => preview(state.lock);
	strip.onpointerover = (e) => { // a token alone, or as the other side of a locked one
		const held = state.lock[state.role], i = tokenAt(e);
		if (i >= 0 && !both(state.lock)) preview(held === null ? mine(i) : mine(held, i));
	};
	strip.onclick = (e) => tokenAt(e) < 0 || lockPair(mine(tokenAt(e)));

	const clamp = (i) => max(0, min(n - 1, i));
	root.onkeydown = (e) => {
		const { head, headLocked, pair, lock, role } = state, on = e.target, held = both(pair);
		const [down, right] = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[e.key] || [];
		if (e.key === "Escape") change({ headLocked: false, lock: NONE, pair: NONE });
		else if (![map, big, strip].includes(on)) return;
		else if (down === undefined) {
			if (e.key !== "Enter" && e.key !== " ") return;
			if (on === map) lockHead(head);
			else lockPair(on === big ? pair : mine(pair[role]));
		} else if (on === map) {
			const next = order[order.indexOf(head) + down * heads + right];
			if (next !== undefined) change({ head: next, headLocked }, true);
		} else {
			const steps = held ? [clamp(pair[0] + down), clamp(pair[1] + right)] : pair.map((i) => i || 0);
			const next = on === big ? steps : mine(clamp((pair[role] ?? -down - right) + down + right));
			change({ pair: next, lock: lock === NONE ? lock : next });
		}
		e.preventDefault();
		e.stopPropagation(); // a notebook's shortcuts would act on the cell
	};

	// ---- files

	const escaped = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
	const SAVE = {
		PNG() {
			const out = el("canvas", { width: map.width + big.width + 24, height: max(map.height, big.height) + 16 });
			const pen = out.getContext("2d");
			pen.fillStyle = palette.paper;
			pen.fillRect(0, 0, out.width, out.height);
			pen.drawImage(map, 8, 8);
			pen.drawImage(big, map.width + 16, 8);
			return new Promise((done) => out.toBlob(done));
		},
		SVG() { // the head that is shown
			const cell = max(12, min(48, 600 / n)), side = cell * n, at = (i) => 94 + (i + 0.5) * cell;
			const area = `x="90" y="90" width="${side}" height="${side}"`, { ink, paper, hatch } = palette, size = side + 98;
			return `<svg xmlns="http://www.w3.org/2000/svg" width="${size}" height="${size}" font-family="sans-serif" font-size="11" ` +
				`fill="${ink}"><title>${name(state.head)}</title><path fill="${paper}" d="M0 0h${size}v${size}H0"/><rect ${area} fill="${hatch}"/>` +
				`<image ${area} style="image-rendering:pixelated" href="${picture.toDataURL()}"/>` + range(n).map((i) => {
					const token = escaped(short(i));
					return `<text x="85" y="${at(i)}" text-anchor="end">${token}</text>` +
						`<text transform="translate(${at(i)} 85) rotate(-90)">${token}</text>`;
				}).join("") + "</svg>";
		},
		HTML() { // this explorer alone
			const still = host.querySelector("figure")?.outerHTML || "", data = JSON.stringify(meta).replace(/</g, "\\u003c");
			return `<!doctype html><html lang="en"><meta charset="utf-8"><title>${escaped(meta.title)}</title><div id="a">${still}` +
				`</div><script>${attentionExplorer}\nattentionExplorer(document.getElementById("a"),${data})<\/script></html>`;
		},
	};
	find("header").onclick = async ({ target: { textContent: kind, localName } }) => {
		if (localName !== "button") return;
		const link = el("a", { href: URL.createObjectURL(new Blob([await SAVE[kind]()])), download: `attention.${kind.toLowerCase()}` });
		link.click();
		setTimeout(() => URL.revokeObjectURL(link.href), 1e4);
	};

	// ---- begin

	function restyle() {
		shade = theme();
		palette = meta.palette[shade];
		root.style.colorScheme = shade;
		for (const name in palette) root.style.setProperty(`--${name}`, palette[name]);
		tile = el("canvas", { width: 6, height: 6 });
		const dots = tile.getContext("2d");
		dots.fillStyle = palette.masked;
		dots.fillRect(0, 0, 6, 6);
		dots.fillStyle = palette.hatch;
		for (const i of range(6)) dots.fillRect(i, 5 - i, 1, 1);
		change({ ...state, all: true }, true);
	}
	return unpack().then(() => {
		host.attachShadow({ mode: "open" }).append(root); // which hides the still picture
		restyle();
		const again = () => theme() === shade || restyle(), watch = new MutationObserver(again);
		for (const one of [document.documentElement, document.body]) watch.observe(one, { attributes: true });
		system.onchange = again;
		let width = host.clientWidth;
		new ResizeObserver(() => host.clientWidth === width || ((width = host.clientWidth), change({ all: true }))).observe(host);
		host.explorer = { state, change, selection, heads, spot, frame: () => frame,
			matrix: (layer, head) => matrix(layers.indexOf(layer) * heads + head) };
		host.dataset.ready = round(performance.now());
	}).catch((error) => host.append(el("p", {}, `The explorer failed: ${error}`)));
}

// The numbers behind the attention explorer: what a page carries of one stack of heads, decoded, and a head's values.
//
// `meta` is what explorer_page.py makes, and `stack` one of its stacks; packing.py says how the data are written.
// Resolves to functions that make the values of a head. Those that take `look` = { kind, run, gone } make them of a kind
// (0: attention, 1: times |v W_O|, 2: contribution), of a run (0, 1, or 2 and above: the second minus the first),
// without the keys in `gone`. NaN stands where an entry is masked.
async function attentionData(meta, stack) {
	const { runs, levels } = meta, { heads, layers, kept, causal, norms, answer } = stack;
	const all = range(layers.length * heads);
	const [rows, columns] = stack.texts.map((text) => meta.texts[text].tokens.length);
	const place = new Map((kept || all).map((head, i) => [head, i])); // where the heads are that are whole
	const rest = all.filter((head) => !place.has(head)); // of which there is a pooled map alone
	const share = range(levels + 2).map((code) => (code > levels ? NaN : (code / levels) ** 2));
	const parts = await unpack(); // one a run

	// Codes of the patterns, and what turns a share into each kind of value.
	async function unpack() {
		const { data } = stack, digits = [], blocks = new DataView(new ArrayBuffer(ceil(data.length / 5) * 4));
		[...meta.alphabet].forEach((c, i) => (digits[c.charCodeAt(0)] = i)); // of base 85
		for (let i = 0, word = 0; i < blocks.byteLength * 1.25; i++) {
			word = word * 85 + (digits[data.charCodeAt(i)] ?? 84);
			if (i % 5 === 4) blocks.setUint32(floor(i / 5) * 4, word), (word = 0);
		}
		const bytes = new Uint8Array(blocks.buffer, 0, floor(data.length * 0.8));
		const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
		const buffer = await new Response(inflated).arrayBuffer();
		let at = 0;
		const take = (Kind, wanted, length) => runs.map(() => {
			const part = new Kind(buffer, at, wanted ? length : 0);
			at += part.byteLength;
			return part;
		});
		const normTops = take(Float32Array, norms, all.length), effectTops = take(Float32Array, answer, all.length);
		const queries = take(Float32Array, answer, layers.length * rows);
		const sizes = take(Uint16Array, norms, all.length * columns), effects = take(Int16Array, answer, all.length * columns);
		const cells = causal ? (rows * (rows + 1)) / 2 : rows * columns;
		const codes = take(levels > 254 ? Uint16Array : Uint8Array, 1, place.size * cells);
		const pooled = new DataView(buffer, at);
		return codes.map((code, r) => ({ code, pooled, factors: [
			() => 1,
			(head, k) => (sizes[r][head * columns + k] / 4095) * normTops[r][head],
			(head, k, q) =>
				(effects[r][head * columns + k] / 2047) * effectTops[r][head] * queries[r][floor(head / heads) * rows + q],
		] }));
	}

	const start = (run, head) => (place.get(head) * parts[run].code.length) / place.size; // of the head's codes
	const minus = (a, b) => a.map((v, i) => (isNaN(v) && isNaN(b[i]) ? NaN : (v || 0) - (b[i] || 0)));

	// One head of one run: [query * columns + key], and what dropping keys took from each query.
	function single(run, head, kind, gone) {
		const values = new Float32Array(rows * columns).fill(NaN), lost = new Float32Array(rows).fill(NaN);
		const { code, factors } = parts[run], factor = factors[kind];
		if (!place.has(head)) return { values, lost };
		for (let k = 0, i = start(run, head); k < columns; k++)
			for (let q = causal ? k : 0; q < rows; q++, i++) values[q * columns + k] = share[code[i]] * factor(head, k, q);
		for (let q = 0; gone.length && q < rows; q++) lost[q] = leave(values.subarray(q * columns, q * columns + columns), gone, kind);
		return { values, lost };
	}

	// As `single`, or the difference of both runs.
	function matrix(head, { kind, run, gone }) {
		const clean = single(run === 1 ? 1 : 0, head, kind, gone);
		if (run < 2) return clean;
		const patched = single(1, head, kind, gone);
		return { values: minus(patched.values, clean.values), lost: minus(patched.lost, clean.lost) };
	}

	// What one query of a head gives to every key: as a row of `matrix`, without the other rows.
	function row(head, q, { kind, run, gone }) {
		const [clean, patched] = (run < 2 ? [run] : [0, 1]).map((run) => {
			const { code, factors } = parts[run], from = start(run, head) + q;
			const at = (k) => from + (causal ? k * rows - (k * (k + 1)) / 2 : k * rows); // as `single` counts them
			const values = Float32Array.from(range(columns), (k) =>
				causal && k > q ? NaN : share[code[at(k)]] * factors[kind](head, k, q));
			if (gone.length) leave(values, gone, kind);
			return values;
		});
		return patched ? minus(patched, clean) : clean;
	}

	// Takes the keys that are dropped out of a query's values; returns what they had.
	function leave(values, gone, kind) {
		let lost = NaN;
		for (const k of gone) {
			if (values[k] === values[k]) lost = (lost || 0) + values[k];
			values[k] = NaN;
		}
		if (kind) return lost; // amounts are left out; shares are divided again
		const others = values.reduce((sum, v) => sum + (v || 0), 0);
		values.forEach((v, k) => (values[k] = others ? v / others : NaN));
		return lost;
	}

	// At most `side` rows and `most` columns: the entry of largest size in each block, so that a thin stripe survives.
	function pool(values, side, lines = rows, most = side) {
		const high = min(lines, side), wide = min(columns, most);
		if (high === lines && wide === columns) return { values, high, wide };
		const out = new Float32Array(high * wide).fill(NaN), to = range(columns).map((k) => floor((k * wide) / columns));
		for (let q = 0, i = 0; q < lines; q++)
			for (let k = 0, from = floor((q * high) / lines) * wide; k < columns; k++, i++) {
				const at = from + to[k], v = values[i];
				if (v === v && !(abs(v) <= abs(out[at]))) out[at] = v;
			}
		return { values: out, high, wide };
	}

	// A head as a map has it. One of which there is a pooled map alone is in the blocks of packing.py, and null where keys
	// are dropped, because what is left of its blocks cannot be divided again.
	function coarse(head, side, look) {
		if (place.has(head)) return pool(matrix(head, look).values, side);
		if (look.gone.length) return null;
		const views = runs.length * 2 - 1, [high, wide] = [rows, columns].map((n) => min(n, meta.pooled));
		const size = causal ? (high * (high + 1)) / 2 : high * wide, maps = views * (1 + !!norms + !!answer);
		const data = parts[0].pooled, from = rest.indexOf(head) * maps * (4 + size), map = look.kind * views + min(look.run, 2);
		const top = data.getFloat32(from + 4 * map, true), out = new Float32Array(high * wide).fill(NaN);
		for (let k = 0, i = from + 4 * maps + map * size; k < wide; k++)
			for (let q = causal ? k : 0; q < high; q++, i++) {
				const code = data.getInt8(i);
				if (code > -128) out[q * wide + k] = top * (code / 127) * abs(code / 127);
			}
		return { values: out, high, wide };
	}

	return { whole: (head) => place.has(head), factor: (run, kind) => parts[run].factors[kind], single, matrix, row, pool, coarse };
}

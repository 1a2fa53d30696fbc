// What the attention explorer draws with: elements, the colours of a theme, canvases, texts with little room, numbers.
//
// packing.py puts this file before the others, into one function with them.
const { abs, ceil, floor, max, min, round } = Math, FONT = "px system-ui, sans-serif";

function range(length) {
	return Array.from({ length }, (_, i) => i);
}
function el(tag, props = {}, ...inside) {
	const made = Object.assign(document.createElement(tag), props);
	made.append(...inside);
	return made;
}

// ---- colours

const system = matchMedia("(prefers-color-scheme: dark)");
function theme() {
	const { body, documentElement: html } = document, code = /vscode-(?:high-contrast-)?(light|dark|high)/.exec(body.className);
	const named = { true: "light", false: "dark" }[body.dataset.jpThemeLight] || html.getAttribute("theme");
	return /dark|high/.test(named || (code ? code[1] : system.matches && "dark")) ? "dark" : "light";
}

// 256 colours between some, from the largest size of one sign to that of the other, or with no `signs` from 0 to the
// largest.
function shadesOf(stops, signs) {
	const corners = stops.map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
	const colours = range(256).map((i) => {
		const x = (i / 255) * (corners.length - 1), at = min(floor(x), corners.length - 2);
		return corners[at].map((c, j) => round(c + (x - at) * (corners[at + 1][j] - c)));
	});
	return { signs, colours, pixels: Uint32Array.from(colours, ([r, g, b]) => (255 << 24) | (b << 16) | (g << 8) | r) };
}
function step(v, top, { signs }) { // which of them, by the root of the size, so that weak attention shows
	const t = min(1, Math.sqrt(abs(v) / top)) * Math.sign(v);
	return round((signs ? (t + 1) / 2 : t) * 255);
}
const colour = (v, top, shades) => shades.colours[step(v, top, shades)];
const light = ([r, g, b]) => (0.2126 * r ** 2.2 + 0.7152 * g ** 2.2 + 0.0722 * b ** 2.2) / 255 ** 2.2;
const inkOn = (rgb) => (light(rgb) > 0.179 ? "#000" : "#fff"); // at .179 both have the same contrast

// ---- canvases

const ratio = min(2, devicePixelRatio || 1);
function sheet(canvas, width, height, ink) { // as sharp as browsers let one so high be
	const scale = min(ratio, 32767 / height);
	Object.assign(canvas, { width: width * scale, height: height * scale, style: `width:${width}px;height:${height}px` });
	const pen = canvas.getContext("2d");
	pen.scale(scale, scale);
	pen.imageSmoothingEnabled = false;
	pen.fillStyle = ink;
	pen.font = 11 + FONT;
	return pen;
}
function bitmap({ values, high, wide }, top, shades) {
	const canvas = el("canvas", { width: wide, height: high }), image = new ImageData(wide, high);
	const pixels = new Uint32Array(image.data.buffer);
	values.forEach((v, i) => v === v && (pixels[i] = shades.pixels[step(v, top, shades)]));
	canvas.getContext("2d").putImageData(image, 0, 0);
	return canvas;
}
function hatched({ masked, hatch }) { // the ground that shows where entries are masked
	const tile = el("canvas", { width: 6, height: 6 }), dots = tile.getContext("2d");
	dots.fillStyle = masked;
	dots.fillRect(0, 0, 6, 6);
	dots.fillStyle = hatch;
	for (const i of range(6)) dots.fillRect(i, 5 - i, 1, 1);
	return tile;
}
function draw(pen, ground, picture, ...box) {
	pen.save();
	pen.fillStyle = pen.createPattern(ground, "repeat");
	pen.fillRect(...box);
	if (picture) pen.drawImage(picture, ...box);
	pen.restore();
}

// ---- texts and numbers

const ruler = el("canvas").getContext("2d");
ruler.font = `bold 11${FONT}`;
const breadth = (text) => ceil(ruler.measureText(text).width);
const short = (token) => (token.length > 12 ? [...token].slice(0, 11).join("") + "…" : token);
const escaped = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

const unsigned = (text) => text.replace(/^-(?=[0.]*$)/, ""); // a zero has no sign
const minus = (text) => text.replaceAll("-", "−"), rounded = (v, digits = 2) => minus(`${+v.toPrecision(digits)}`);
const fixed = (v) => minus(isNaN(v) ? "masked" : v && abs(v) < 1e-3 ? v.toExponential(2) : v.toFixed(4));
const plus = (v) => (v > 0 ? "+" : "") + fixed(v);

function fitting(pen, text, room) { // cut so that it can be read, where there is room for more than its beginning
	const least = text.split(" ")[0].length;
	while (text.length > least && pen.measureText(text).width > room) text = `${text.slice(0, text.endsWith("…") ? -2 : -1)}…`;
	return text.length > least + 2 ? text : text.slice(0, least);
}
function chip(pen, text, ground, ink, x, y, room, left) { // a text on a ground of its own, at a side of the room
	const wide = min(room, pen.measureText(text).width + 6), from = left ? x : x + room - wide;
	pen.save();
	pen.fillStyle = ground;
	pen.fillRect(from, y, wide, 11);
	pen.fillStyle = ink;
	pen.fillText(text, from + wide / 2, y + 9, wide - 2);
	pen.restore();
}

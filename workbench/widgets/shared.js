// What all widgets share: building elements, showing foreign text, drawing, and forgetting it all again.
// Text that comes from a model or a file only ever becomes a text node: nothing here writes HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/**
 * An HTML element. Properties that begin with "on" are listeners; children are nodes or plain text.
 *
 * What can be focused keeps its keys: JupyterLab takes arrows and Enter of a focused control for itself, unless the
 * control (not an ancestor) says otherwise.
 */
export function h(tag, properties, ...children) {
  const element = fill(document.createElement(tag), properties, children);
  if (element.matches("button, input, select, summary, textarea, [tabindex]"))
    element.setAttribute("data-lm-suppress-shortcuts", "true");
  return element;
}

/** An SVG element, in the same way. */
export function s(tag, properties, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/gu;

function spelled(character) {
  const code = character.codePointAt(0);
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  return `\\u${code.toString(16).padStart(4, "0")}`;
}

/** Text with control, invisible and direction characters written out; line breaks stay unless `name` is asked for. */
export function visible(text, { name = false } = {}) {
  const seen = text.replace(UNSEEN, (c) => (c === "\n" ? (name ? "\u21b5" : c) : c === "\t" && !name ? c : spelled(c)));
  return name ? seen.replace(/^ +| +$/g, (spaces) => "\u2423".repeat(spaces.length)) : seen;
}

/** A view's frame in `el`: the section, an alert for errors, and `on(trait, action)`; all undone by `close()`. widget: the module's name, below which its style sheet holds. */
export function frame(model, el, widget, label) {
  const alert = h("p", { class: "wb-alert", role: "alert", hidden: true });
  const section = h("section", { class: "wb", "data-wb": widget, "aria-label": label });
  const undo = [];
  const on = (event, action) => {
    model.on(event, action);
    undo.push(() => model.off(event, action));
  };
  const changed = (trait, action) => {
    on(`change:${trait}`, action);
    action();
  };
  const heard = (actions) =>
    on("msg:custom", (content, buffers) => {
      if (Object.hasOwn(actions, content.kind)) actions[content.kind](content, buffers ?? []);
    });
  const say = (text) => {
    alert.textContent = visible(text);
    alert.hidden = !text;
  };
  changed("error", () => say(model.get("error") ?? ""));
  const gone = () => say("This widget's kernel was restarted, or is out of reach: run the cell again.");
  on("comm_live_update", gone);
  el.append(section);
  return {
    section,
    alert,
    changed,
    heard,
    tell: (kind, content) => {
      try {
        model.send({ kind, ...content });
      } catch {
        gone(); // what a closed comm says is seen nowhere
      }
    },
    undo: (action) => undo.push(action),
    close: () => {
      undo.forEach((action) => action());
      section.remove();
    },
  };
}

/** A part that may be larger than its place: while it hides something it is a stop of Tab, under this name. */
export function scrolls(element, label) {
  const look = () => {
    const hides = element.scrollWidth > element.clientWidth + 1 || element.scrollHeight > element.clientHeight + 1;
    const says = { tabindex: "0", role: "region", "aria-label": `${label}, scrolls`, "data-lm-suppress-shortcuts": "true" };
    if (hides) fill(element, says, []);
    else for (const name of Object.keys(says)) element.removeAttribute(name);
  };
  const sizes = new ResizeObserver(look);
  const inside = () => [element, ...element.children].forEach((each) => sizes.observe(each));
  new MutationObserver(inside).observe(element, { childList: true });
  inside();
  return element;
}

/** So many colours --k0, --k1, ... tell things apart that stand side by side. */
export const HUES = 12;

/** What has the focus around an element: in a shadow root the document names only its host. */
export const focusNear = (element) => element.getRootNode().activeElement;

let count = 0;

/** An id that no other element of the page has. */
export function fresh(stem) {
  count += 1;
  return `wb-${stem}-${count}-${Math.random().toString(36).slice(2, 8)}`;
}

/** A control under its label. */
export function field(label, control, properties) {
  return h("label", { class: "wb-field", ...properties }, h("span", {}, label), control);
}

/** A select; options are values or [value, text]. */
export function choice(label, options, value, onchange) {
  const select = h("select", { "aria-label": label, onchange: () => onchange(select.value) });
  for (const option of options) {
    const [key, text] = Array.isArray(option) ? option : [option, option];
    select.append(h("option", { value: String(key) }, visible(String(text))));
  }
  select.value = String(value);
  return { select, field: field(label, select) };
}

export function decimals(value, digits) {
  if (value === null || value === undefined || Number.isNaN(value)) return "\u2013";
  return Number.isFinite(value) ? value.toFixed(digits) : value > 0 ? "\u221e" : "\u2212\u221e";
}

export function percent(p) {
  if (p >= 0.9995) return "100 %";
  return p < 0.0005 ? "<0.1 %" : `${(100 * p).toFixed(1)} %`;
}

export function bytes(n) {
  for (const [size, unit] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]])
    if (n >= size) return `${(n / size).toFixed(n >= 100 * size ? 0 : n >= 10 * size ? 1 : 2)} ${unit}`;
  return `${n} B`;
}

export function grouped(n) {
  return Math.round(n).toLocaleString("en-US");
}

/** About `wanted` round numbers between low and high; none if none are wanted. */
export function ticks(low, high, wanted) {
  if (!wanted) return [];
  if (!(high > low)) return [low];
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5].find((m) => m * power >= raw) ?? 10);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + 1e-9 * step; at += 1) found.push(at * step);
  return found;
}

export function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-4) return value.toExponential(0).replace("e+", "e");
  return String(Number(value.toPrecision(3)));
}

/**
 * An SVG with axes: `{ svg, plot, x, y }`, where x and y turn values into places and marks go into `plot`.
 *
 * xticks, yticks: about how many, or a list of [value, text] for an axis that shows something else than its values.
 */
export function axes({ width, height, x, y, xlabel, ylabel, label, yticks = 3, xticks = 5, left = 38 }) {
  const [top, right, bottom] = [6, 8, xlabel ? 30 : 18];
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, class: "wb-chart", role: "img", "aria-label": label });
  const place = ([low, high], from, to) => (v) => from + ((v - low) / (high - low || 1)) * (to - from);
  const px = place(x, left, width - right);
  const py = place(y, height - bottom, top);
  const grid = s("g", { class: "wb-grid" });
  const names = s("g", { class: "wb-ticks" });
  const named = (wanted, range) => (Array.isArray(wanted) ? wanted : ticks(...range, wanted).map((v) => [v, short(v)]));
  for (const [v, text] of named(yticks, y)) {
    grid.append(s("line", { x1: left, x2: width - right, y1: py(v), y2: py(v) }));
    names.append(s("text", { x: left - 4, y: py(v) + 3, "text-anchor": "end" }, text));
  }
  for (const [v, text] of named(xticks, x)) {
    names.append(s("text", { x: px(v), y: height - bottom + 12, "text-anchor": "middle" }, text));
    grid.append(s("line", { x1: px(v), x2: px(v), y1: height - bottom, y2: height - bottom + 3 }));
  }
  const base = s("line", { class: "wb-base", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom });
  if (xlabel)
    names.append(s("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, xlabel));
  if (ylabel) names.append(s("text", { x: left - 4, y: top + 2, "text-anchor": "end" }, ylabel));
  const plot = s("g", {});
  svg.append(grid, base, plot, names);
  return { svg, plot, x: px, y: py, inside: { left, right: width - right, top, bottom: height - bottom } };
}

/** The outline of counts over bins of equal width from low to high, as an SVG path. */
export function outline(counts, [low, high], x, y, closed) {
  const width = (high - low) / counts.length;
  const points = Array.from(counts, (c, i) => `H${x(low + i * width).toFixed(1)}V${y(c).toFixed(1)}H${x(low + (i + 1) * width).toFixed(1)}`);
  return `M${x(low).toFixed(1)},${y(0).toFixed(1)}${points.join("")}V${y(0).toFixed(1)}${closed ? "Z" : ""}`;
}

// Colours of errors, from much (dark red) over middling (sand) to little (blue); readable with colour deficiencies.
const SCALE = [[122, 18, 32], [190, 60, 40], [225, 130, 70], [240, 200, 140], [190, 208, 214], [110, 160, 200], [40, 96, 165]];

/** The colour [r, g, b] of a share between 0 (bad) and 1 (good). */
export function colour(share) {
  const at = Math.min(1, Math.max(0, share)) * (SCALE.length - 1);
  const low = Math.min(SCALE.length - 2, Math.floor(at));
  return SCALE[low].map((c, i) => Math.round(c + (SCALE[low + 1][i] - c) * (at - low)));
}

export function css([r, g, b]) {
  return `rgb(${r} ${g} ${b})`;
}

/** A legend of that scale between two values. */
export function scale(low, high, unit) {
  const stops = SCALE.map(css).join(", ");
  return h(
    "span",
    { class: "wb-scale" },
    decimals(low, 1),
    h("span", { class: "wb-scale-bar", style: `background: linear-gradient(to right, ${stops})`, "aria-hidden": "true" }),
    `${decimals(high, 1)} ${unit}`,
  );
}

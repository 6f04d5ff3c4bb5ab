import { axes, choice, decimals, field, focusNear, frame, h, HUES, outline, percent, s, scrolls, short, visible } from "./shared.js";
import { Editor, listing, where } from "./code.js";
import { compute } from "./compute.js";

const hue = (at) => `color:var(--k${at % HUES})`;
/** Of marks of that colour: hollow where the colours begin anew. */
const round = (at, name) => (Math.floor(at / HUES) % 2 ? `${name} wb-hollow` : name);
const BUSY = { judging: "compiling and checking the new text \u2026", comparing: "timing in turns \u2026", measuring: "measuring what this device reaches at most \u2026", inside: "running inside a model, with the version and without \u2026" };

// ---- charts

const number = (value) => (value === "inf" ? Infinity : value === "-inf" ? -Infinity : value === "nan" ? NaN : value);
const figures = (v) => (v && Math.abs(v) < 1e-3 ? v.toExponential(2) : String(Number(v.toPrecision(6))));
const microseconds = (seconds) => (seconds ? Number((1e6 * seconds).toPrecision(4)).toLocaleString("en-US") : "\u2013");
const rate = (value) => `${short(value / (value >= 1e12 ? 1e12 : 1e9))} ${value >= 1e12 ? "T" : "G"}`;

/** Round numbers between two values: powers of ten, and more of them the closer the values are. */
function decades(low, high) {
  const steps = high / low > 300 ? [1] : high / low > 5 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 7];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1)
    for (const step of steps) if (step * 10 ** power >= low * 0.999 && step * 10 ** power <= high * 1.001) found.push(step * 10 ** power);
  return found;
}

/** The samples' common axis: a place for a time, and the head and strips that use it. */
class Samples {
  constructor(rows, width = 190) {
    const all = rows.flatMap((row) => row.samples);
    this.width = width;
    this.range = all.length ? [Math.min(...all) / 1.12, Math.max(...all) * 1.12] : null;
  }

  x(seconds) {
    const [low, high] = this.range;
    return 4 + (Math.log(seconds / low) / Math.log(high / low)) * (this.width - 8);
  }

  head() {
    if (!this.range) return "samples";
    const [low, high] = this.range.map((v) => 1e6 * v);
    const svg = s("svg", { width: this.width, height: 13, "aria-hidden": "true", class: "wb-ticks wb-strip" });
    let last = -30;
    for (const value of decades(low, high)) {
      const at = this.x(value / 1e6);
      if (at - last < 26) continue;
      svg.append(s("text", { x: Math.min(this.width - 10, Math.max(8, at)), y: 10, "text-anchor": "middle" }, short(value)));
      last = at;
    }
    return h("div", {}, "samples, \u00b5s (logarithmic)", svg);
  }

  strip(row, at) {
    if (!row.samples.length) return "";
    const [low, high] = [Math.min(...row.samples), Math.max(...row.samples)];
    return s("svg", { width: this.width, height: 18, role: "img", class: "wb-strip", style: hue(at), "aria-label": `${row.samples.length} samples from ${microseconds(low)} to ${microseconds(high)} microseconds` },
      s("line", { class: "wb-base", x1: 0, x2: this.width, y1: 9, y2: 9 }),
      s("rect", { x: this.x(row.median) - 1, width: 2, y: 1, height: 16 }),
      row.samples.map((sample) => s("circle", { cx: this.x(sample).toFixed(1), cy: 9, r: 3.2, class: "wb-sample" }, s("title", {}, `${microseconds(sample)} \u00b5s`))));
  }
}

/** Rows under the roof of this device; null where something of it is missing. */
function roofline(rows, { read, rates }, selection) {
  const timed = rows.filter((row) => row.median && row.flops);
  if (!read || !timed.length) return null;
  const [width, height] = [400, 218];
  const intensities = timed.map((row) => row.flops / row.bytes);
  const top = Math.max(...Object.values(rates), read * Math.max(...intensities));
  const xs = [Math.min(...intensities) / 3, Math.max(...intensities, top / read) * 3];
  const ys = [Math.min(...timed.map((row) => row.flops / row.median), xs[0] * read) / 2, top * 1.7];
  const log = (pair) => pair.map(Math.log10);
  const { svg, plot, x, y, inside } = axes({ width, height, x: log(xs), y: log(ys), xticks: 0, yticks: 0, left: 40, xlabel: "operations a byte", label: `roofline: ${timed.map((row) => `${visible(row.name)} ${rate(row.flops / row.median)} operations a second`).join(", ")}; reads ${rate(read)}B/s` });
  const [px, py] = [(v) => x(Math.log10(v)), (v) => y(Math.log10(v))];
  const names = s("g", { class: "wb-ticks" });
  for (const v of decades(...xs)) names.append(s("text", { x: px(v), y: inside.bottom + 12, "text-anchor": "middle" }, short(v)));
  for (const v of decades(...ys)) {
    names.append(s("text", { x: inside.left - 4, y: py(v) + 3, "text-anchor": "end" }, rate(v)));
    plot.append(s("line", { class: "wb-hair", x1: inside.left, x2: inside.right, y1: py(v), y2: py(v) }));
  }
  const ridge = Math.min(xs[1], top / read);
  plot.append(s("path", { class: "wb-roof", d: `M${px(xs[0])},${py(xs[0] * read)}L${px(ridge)},${py(ridge * read)}H${inside.right}` }));
  names.append(s("text", { x: px(xs[0]) + 14, y: py(xs[0] * read) + 6 }, `reads ${rate(read)}B/s`));
  let above = -99;
  for (const [name, value] of Object.entries(rates).sort((a, b) => b[1] - a[1])) {
    plot.append(s("path", { class: "wb-roof wb-dashed", d: `M${Math.max(inside.left, px(value / read))},${py(value)}H${inside.right}` }));
    names.append(s("text", { x: inside.right, y: py(value) + (py(value) - above > 12 ? -3 : 10), "text-anchor": "end" }, `${name} ${rate(value)}op/s`));
    above = py(value);
  }
  const named = [];
  const first = (row) => (row.name === selection ? 0 : 1);
  for (const row of timed.sort((a, b) => first(a) - first(b))) {
    const [cx, cy] = [px(row.flops / row.bytes), py(row.flops / row.median)];
    plot.prepend(s("circle", { class: round(rows.indexOf(row), first(row) ? "wb-dot" : "wb-dot wb-picked"), style: hue(rows.indexOf(row)), cx, cy, r: first(row) ? 4 : 5.5 }, s("title", {}, `${visible(row.name)}: ${rate(row.flops / row.median)}op/s`)));
    if (named.every((other) => Math.abs(other - cy) > 9)) (names.append(s("text", { x: cx + 9, y: cy + 3 }, visible(row.name))), named.push(cy));
  }
  svg.append(names);
  return svg;
}

/** How large the errors of a row are against their bounds, all outputs together. */
function errorChart(row, edges, at) {
  const counts = edges.length ? row.errors.reduce((sum, each) => each.ratios.map((n, i) => n + (sum[i] ?? 0)), []) : [];
  const total = counts.reduce((a, b) => a + b, 0);
  if (!total) return null;
  const [exact, ...bins] = counts;
  const step = 0.25;
  const start = Math.log10(edges[0]) - step;
  const filled = bins.flatMap((n, i) => (n ? [i] : []));
  const zero = Math.round(-start / step);
  const from = Math.max(0, Math.min(...filled, zero) - 1);
  const to = Math.min(bins.length, Math.max(...filled, zero) + 2);
  const shares = bins.slice(from, to).map((n) => (100 * n) / total);
  const range = [start + step * from, start + step * to];
  const { svg, plot, x, y, inside } = axes({ width: 400, height: 218, x: range, y: [0, Math.max(...shares, 1)], xlabel: "log\u2081\u2080 of error / bound; beyond the dashed line an element is off", label: `errors of ${visible(row.name)} relative to their bounds: ${percent(exact / total)} exact, largest ${short(Math.max(...row.errors.map((e) => number(e.worst))))}`, left: 30 });
  plot.append(s("path", { class: "wb-bars", style: hue(at), d: outline(shares, range, x, y, true) }), s("path", { class: "wb-roof wb-dashed", d: `M${x(0)},${inside.bottom}V${inside.top}` }));
  return h("figure", {}, svg, h("figcaption", {}, `% of ${total.toLocaleString("en-US")} elements; ${percent(exact / total)} without any error`));
}

// ---- the widget

/** New children; what had the focus has it again. */
function redraw(element, ...children) {
  const key = (each) => each.getAttribute("aria-label") ?? each.textContent;
  const held = element.contains(focusNear(element)) && key(focusNear(element));
  element.replaceChildren(...children);
  if (held) [...element.querySelectorAll("button, input, select, summary")].find((each) => key(each) === held)?.focus();
}

function render({ model, el }) {
  const view = frame(model, el, "kernel_lab", "Kernel lab");
  const state = { rows: [], versions: {}, variants: {}, edges: [], read: null, rates: {}, notes: [], families: [] };
  const write = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  const [controls, table, roof, errors, picked, begin, beside] = ["wb-row", "wb-results", "wb-column", "wb-column", "wb-detail", "wb-row", "wb-column"].map((name) => h("div", { class: name }));
  scrolls(table, "variants and versions");
  const status = h("span", { class: "wb-note", role: "status" });
  const notes = h("ul", { class: "wb-note" });
  let inputs = {};
  let timer = null;

  const settings = () => {
    const given = Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, Number(input.value)]));
    const { seed, ...sizes } = given;
    return { sizes: { ...model.get("sizes"), ...sizes }, seed, dtype: model.get("dtype"), chosen: model.get("chosen") };
  };
  const compare = h("button", { type: "button", class: "wb-main", onclick: () => view.tell("run", settings()) }, "Compare");
  const ready = () => {
    const busy = model.get("state") in BUSY;
    compare.disabled = busy || !model.get("chosen").length;
    runInside.disabled = busy || !path.value || !Object.keys(state.versions).some((name) => rowOf(name)?.status === "passed");
  };
  const stop = h("button", { type: "button", onclick: () => view.tell("stop") }, "Stop");
  const runEdit = h("button", { type: "button", class: "wb-main", onclick: () => {
    keep();
    view.tell("edit", { ...settings(), text: editor.text, base: model.get("base"), tunables: model.get("tunables") });
  } }, "Run as a new version");
  const path = h("input", { type: "text", size: 28, placeholder: "folder or hub id", "aria-label": "model", oninput: () => ready(), onchange: () => write("model", path.value), onkeydown: (event) => event.key === "Enter" && !runInside.disabled && runInside.click() });
  const runInside = h("button", { type: "button", onclick: () => view.tell("inside", { model: path.value }) }, "Run inside a model");
  const inside = h("pre", { class: "wb-why", tabindex: "0", "aria-label": "inside a model", hidden: true });
  const keep = () => {
    clearTimeout(timer);
    if (model.get("draft") !== editor.text) write("draft", editor.text);
  };
  const editor = new Editor({ run: () => runEdit.disabled || runEdit.click(), leave: () => runEdit.focus(), changed: () => {
    clearTimeout(timer);
    timer = setTimeout(keep, 400);
  } });
  view.undo(keep);

  const variantOf = (name) => state.versions[name]?.base ?? name;
  const textOf = (name) => state.versions[name]?.text ?? state.variants[name]?.text ?? "";
  const names = () => [...Object.keys(state.variants), ...Object.keys(state.versions)];
  const rowOf = (name) => state.rows.find((row) => row.name === name);

  function drawControls() {
    const [family, format] = [state.family ?? "", state.format];
    const of = (name) => state.families.find(([each]) => each === name)?.[1] ?? {}; // format -> kernel
    const formats = Object.keys(of(family)).filter(Boolean);
    const named = (f, fmt) => of(f)[fmt] ?? of(f).int4 ?? Object.values(of(f))[0] ?? f;
    const choose = (kernel) => view.tell("choose", { kernel });
    const kernels = choice("kernel", state.families.map(([name]) => name), family, (value) => choose(named(value, format)));
    const weights = formats.length > 0 && choice("weights", formats, format, (value) => choose(named(family, value))).field;
    const types = choice("floats", state.types ?? ["f32"], model.get("dtype"), (value) => write("dtype", value));
    inputs = Object.fromEntries(Object.entries({ ...model.get("sizes"), seed: model.get("seed") }).filter(([, value]) => typeof value === "number").map(([name, value]) => [name, h("input", { type: "number", step: "any", value, style: `width:${Math.max(9, String(value).length + 5)}ch`, onkeydown: (event) => event.key === "Enter" && compare.click() })]));
    const sizes = Object.entries(inputs).map(([name, input]) => field(visible(name), input));
    redraw(controls, kernels.field, weights || "", types.field, ...sizes, h("span", { class: "wb-push wb-row" }, status, compare, stop));
  }

  function drawTable() {
    const samples = new Samples(state.rows);
    const chosen = new Set(model.get("chosen"));
    const selection = model.get("selection");
    const head = ["", "variant or version", "status", "error/bound", "SQNR, dB", `\u00b5s (${state.label || "\u2013"})`, samples.head(), "against base", "GB/s", "of reads", ""];
    const body = names().map((name, at) => {
      const row = rowOf(name) ?? { name, samples: [], errors: [], status: "not run" };
      const version = state.versions[name];
      const worst = Math.max(...row.errors.map((e) => number(e.worst)));
      const noise = Math.min(...row.errors.map((e) => number(e.sqnr)));
      const faster = version?.faster;
      const check = h("input", { type: "checkbox", checked: chosen.has(name), "aria-label": `compare ${visible(name)}`, onchange: () => {
        if (check.checked) chosen.add(name); else chosen.delete(name);
        write("chosen", names().filter((each) => chosen.has(each)));
      } });
      return h("tr", { "data-row": name, class: name === selection && "wb-here" },
        h("td", {}, check),
        h("td", {}, h("button", { type: "button", class: "wb-link", "aria-pressed": String(name === selection), title: visible(state.variants[name]?.why ?? `from ${version?.base}`), onclick: () => write("selection", name) },
          h("span", { class: round(at, "wb-key"), style: hue(at), "aria-hidden": "true" }), visible(name)), row.chosen ? " *" : ""),
        h("td", { class: ["passed", "not run", "unsupported"].includes(row.status) ? "wb-fine" : "wb-warn" }, row.status),
        h("td", {}, row.errors.length ? short(Number(worst.toPrecision(3))) : "\u2013"),
        h("td", {}, row.errors.length ? decimals(noise, 1) : "\u2013"),
        h("td", {}, h("b", {}, microseconds(row.median))),
        h("td", {}, samples.range ? samples.strip(row, at) : ""),
        h("td", { title: faster && `from ${faster[1].toFixed(2)} to ${faster[2].toFixed(2)} over the rounds` }, faster ? `${faster[0].toFixed(2)} \u00d7 ${visible(version.base)}` : version ? visible(version.base) : ""),
        h("td", {}, row.median ? decimals(row.bytes / row.median / 1e9, 2) : "\u2013"),
        h("td", {}, row.share ? percent(row.share) : "\u2013"),
        h("td", {}, version && h("button", { type: "button", class: "wb-link", "aria-label": `forget ${visible(name)}`, onclick: () => view.tell("forget", { name }) }, "\u00d7")));
    });
    redraw(table, h("table", { "aria-label": "variants and versions" }, h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, body)));
    notes.replaceChildren(...state.notes.map((note) => h("li", {}, visible(note))));
    drawSide();
  }

  function drawSide() {
    const selection = model.get("selection");
    const order = names().map((name) => rowOf(name) ?? { name });
    const at = order.findIndex((row) => row.name === selection);
    const row = rowOf(selection);
    const missing = state.read ? "No roofline: the kernel's cost names no operations, or nothing has a time." : model.get("in_page") ? "No roofline: a page's adapter has no measured ceilings." : "The roofline comes once the ceilings are measured.";
    roof.replaceChildren(...(state.rows.length ? [h("h4", {}, "roofline"), roofline(order, state, selection) ?? h("p", { class: "wb-note" }, missing)] : []));
    const chart = row && errorChart(row, state.edges, at);
    errors.replaceChildren(...(chart ? [h("h4", {}, `errors of ${visible(selection)}`), chart] : []));
    const first = (row?.errors ?? []).flatMap((each) => each.first.map((miss) => [each.output, miss]));
    const off = (row?.errors ?? []).filter((each) => each.off).map((each) => `${visible(each.output)}: ${each.off.toLocaleString("en-US")} of ${each.elements.toLocaleString("en-US")} off`);
    const version = state.versions[selection];
    const changed = Object.entries(version?.tunables ?? {}).map(([name, value]) => `, ${visible(name)} = ${value}`).join("");
    const why = version ? `from ${version.base}${changed}` : state.variants[selection]?.why;
    picked.replaceChildren(...[
      h("p", {}, h("b", {}, visible(selection)), why ? `: ${visible(why)}` : "", row?.arithmetic ? ` (${row.arithmetic})` : ""),
      off.length > 0 && h("table", { "data-mismatches": "" }, h("caption", {}, `${off.join("; ")}; the first:`), h("thead", {}, h("tr", {}, ["at", "got", "expected", "bound"].map((text) => h("th", { scope: "col" }, text)))),
        h("tbody", {}, first.map(([output, miss]) => h("tr", {}, [`${visible(output)}[${miss.at.join(", ")}]`, ...["got", "expected", "bound"].map((key) => figures(number(miss[key])))].map((text) => h("td", {}, text)))))),
      row?.places.map((each) => h("p", { class: "wb-warn" }, where(each))),
      !off.length && row?.detail && !row.places.length && h("pre", { class: "wb-why", tabindex: "0" }, visible(row.detail))].flat().filter(Boolean));
  }

  function drawSource() {
    const base = model.get("base");
    const variant = state.variants[variantOf(base)];
    if (!variant) return;
    const header = rowOf(base)?.header ?? rowOf(variantOf(base))?.header;
    const from = choice("begin from", names(), base, (name) => {
      editor.replace(textOf(name));
      editor.mark(rowOf(name)?.places ?? []);
      model.set("tunables", {});
      write("base", name);
      keep();
    });
    const used = rowOf(base)?.tunables ?? {};
    const tunables = Object.entries(variant.tunables).filter(([, values]) => values.length > 1).map(([name, values]) =>
      choice(visible(name), [["", used[name] === undefined ? "default" : `as it is: ${used[name]}`], ...values.slice().sort((a, b) => a - b).map((v) => [v, v])], model.get("tunables")[name] ?? "", (value) => {
        const { [name]: _, ...others } = model.get("tunables");
        write("tunables", value === "" ? others : { ...others, [name]: Number(value) });
      }).field);
    redraw(begin, from.field, ...tunables);
    const shown = state.versions[model.get("selection")] ?? state.versions[base];
    const name = shown && Object.keys(state.versions).find((each) => state.versions[each] === shown);
    beside.replaceChildren(h("h4", {}, "PyTorch reference"), listing(state.reference ?? "", "python", "PyTorch reference"),
      ...(shown ? [h("h4", {}, `${visible(name)} against ${visible(shown.base)}`), h("pre", { class: "wb-listing wb-diff", tabindex: "0", "aria-label": `differences of ${visible(name)}` },
        (shown.diff || "the same text").split("\n").map((line) => h("span", { class: { "+": "wb-plus", "-": "wb-minus", "@": "wb-note" }[line[0]] }, `${visible(line)}\n`)))] : []),
      ...(header ? [h("h4", {}, `generated in front of ${visible(base)}: ${header.split("\n").length} lines of types, sizes and library functions`), listing(header, "wgsl", "generated header")] : []));
  }

  const saved = choice("save a figure", ["timing", "roofline", "errors"], "timing", () => {});
  const exports = h("div", { class: "wb-row" }, saved.field, ["png", "svg", "pdf"].map((format) => h("button", { type: "button", onclick: () => view.tell("figure", { figure: saved.select.value, format }) }, format.toUpperCase())));

  view.section.append(controls, view.alert,
    table, h("div", { class: "wb-lab" }, h("div", { class: "wb-column" }, picked, notes, exports), roof, errors),
    h("div", { class: "wb-lab wb-sources" }, h("div", { class: "wb-column" }, begin, editor.element, h("div", { class: "wb-row" }, runEdit, h("span", { class: "wb-note" }, "Ctrl+Enter runs, Tab indents, Esc leaves the text")), h("div", { class: "wb-row" }, field("model", path), runInside), inside), beside));

  view.heard({
    catalogue: ({ families }) => {
      state.families = families;
      drawControls();
    },
    kernel: (content) => {
      Object.assign(state, content, { rows: [], versions: {}, notes: [] });
      editor.mark([]);
      drawControls();
      drawTable();
      drawSource();
    },
    results: (content) => {
      Object.assign(state, content);
      drawTable();
      drawSource();
      inside.textContent = visible(content.inside);
      inside.hidden = !content.inside;
      ready();
      const last = rowOf(model.get("base"));
      editor.mark(last && editor.text === textOf(last.name) ? last.places : []);
      view.section.dataset.versions = Object.keys(state.versions).length;
    },
    file: ({ name, type }, [buffer]) => {
      const url = URL.createObjectURL(new Blob([buffer], { type }));
      h("a", { href: url, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    },
  });
  view.changed("state", () => {
    const now = model.get("state");
    view.section.dataset.state = now;
    const last = rowOf(model.get("base"));
    status.textContent = BUSY[now] ?? (now === "done" && last ? `${visible(last.name)}: ${last.status}` : now === "stopped" ? now : "");
    runEdit.disabled = now in BUSY;
    ready();
    stop.disabled = !(now in BUSY);
  });
  view.changed("model", () => {
    path.value = model.get("model");
    ready();
  });
  view.changed("draft", () => editor.text !== model.get("draft") && editor.set(model.get("draft")));
  for (const trait of ["sizes", "seed", "dtype"]) view.changed(trait, drawControls);
  view.changed("chosen", ready);
  for (const trait of ["chosen", "selection"]) view.changed(trait, drawTable);
  for (const trait of ["base", "tunables", "selection"]) view.changed(trait, drawSource);
  if (model.get("in_page")) compute(model, view);
  view.tell("hello");
  return view.close;
}

export default { render };

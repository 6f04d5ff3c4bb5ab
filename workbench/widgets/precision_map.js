import { axes, choice, decimals, field, focusNear, frame, fresh, h, s, scrolls, short, visible } from "./shared.js";

const MB = 1e6;
const STEPS = 1000;
const [WIDTH, LEFT, RIGHT] = [330, 42, 8];
const HINT = "Dashed: the whole model. Arrow keys walk, Enter picks a group (by its name a kind or a layer), + and \u2212 pin a larger or smaller format, Delete unpins.";

const paint = (f) => `background: color-mix(in srgb, ${f.colour} ${f.depth}%, #fff)`;
const cells = (texts) => texts.map((text) => h("td", {}, typeof text === "string" ? visible(text) : text));
const rows = (label, head, body, name) => h("table", { "aria-label": label, class: name }, h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, body));

/** New contents; what had the focus has it again. */
function refill(place, ...nodes) {
  const label = place.contains(focusNear(place)) && focusNear(place).getAttribute("aria-label");
  place.replaceChildren(...nodes);
  if (label) [...place.querySelectorAll("[aria-label]")].find((each) => each.getAttribute("aria-label") === label)?.focus();
}

/** About `wanted` round values between two others, for a logarithmic axis. */
function logTicks(low, high, wanted) {
  const found = [];
  for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10)
    found.push(...[1, 1.5, 2, 2.5, 3, 4, 5, 6, 8].map((m) => m * power).filter((v) => v >= low * 0.999 && v <= high * 1.001));
  const every = Math.ceil(found.length / wanted);
  return found.filter((_, i) => i % every === 0).map((v) => [Math.log2(v), short(v)]);
}

/** The model: a button a group, kinds down, layers across; names stand for all of theirs. One tab stop. */
class Grid {
  constructor({ groups, formats }, pick, change, say) {
    Object.assign(this, { groups, formats, change, say });
    this.of = new Map(); // button -> indices of its groups
    const which = (has) => groups.flatMap((g, i) => (has(g) ? [i] : []));
    const place = (at, text, label) => {
      const button = h("button", { type: "button", tabindex: "-1", "aria-label": label, title: label, onclick: () => pick(at.map((i) => groups[i].name)) }, text);
      this.of.set(button, at);
      return button;
    };
    const layers = [...new Set(groups.map((g) => g.layer))].filter((l) => l !== null).sort((a, b) => a - b);
    const kinds = new Set(groups.filter((g) => g.layer !== null).map((g) => g.kind));
    this.bits = layers.map(() => h("td", {}));
    const head = layers.length ? [
      h("tr", {}, h("th", {}, "layer"), layers.map((l) => h("th", { scope: "col" }, place(which((g) => g.layer === l), String(l), `all of layer ${l}`)))),
      h("tr", { class: "wb-layer-bits" }, h("th", { scope: "row" }, "bits a weight"), this.bits)] : null;
    this.element = h("table", { class: "wb-formats", "aria-label": `formats by kind of matrix and layer. ${HINT}`,
      onkeydown: (event) => this.key(event), onfocusin: (event) => this.visit(event.target), onmouseover: (event) => this.tell(event.target) },
    head,
    [...kinds].map((kind) => h("tr", {}, h("th", { scope: "row" }, place(which((g) => g.layer !== null && g.kind === kind), visible(kind), `all of ${visible(kind)}`)),
      layers.map((l) => { const at = which((g) => g.layer === l && g.kind === kind); return h("td", {}, at.length ? place(at) : null); }))),
    which((g) => g.layer === null).map((i) => h("tr", {}, h("th", { scope: "row" }, visible(groups[i].kind)), h("td", { colspan: layers.length || 1 }, place([i])))));
    this.visit(this.of.keys().next().value);
    say(HINT);
  }

  tell(button) {
    const at = this.of.get(button);
    if (at) this.say(at.length > 1 ? button.title : this.groups[at[0]].says);
  }

  visit(button) {
    if (!this.of.has(button)) return;
    if (this.last) this.last.tabIndex = -1;
    button.tabIndex = 0;
    this.last = button;
    this.tell(button);
  }

  key(event) {
    const at = this.of.get(event.target);
    if (!at) return;
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const by = { "+": 1, "=": 1, "-": -1, Delete: 0, Backspace: 0 }[event.key];
    if (!step && by === undefined) return;
    event.preventDefault();
    if (!step) return this.change({ groups: at.map((i) => this.groups[i].name), by });
    let row = event.target.closest("tr");
    const column = [...row.children].indexOf(event.target.parentElement) + step[1];
    do row = step[0] < 0 ? row.previousElementSibling : step[0] ? row.nextElementSibling : row;
    while (step[0] && row && !row.querySelector("button"));
    if (row && column >= 0) row.children[Math.min(column, row.children.length - 1)].querySelector("button")?.focus();
  }

  draw({ options, titles, pinned, layers, mean }) {
    for (const [button, [i]] of this.of) {
      if (button.closest("th")) continue;
      button.textContent = visible(this.formats[options[i]].label);
      button.style = paint(this.formats[options[i]]);
      button.title = visible(titles[i]);
      button.setAttribute("aria-label", button.title);
      button.classList.toggle("wb-pinned", pinned.includes(i));
    }
    const top = [3, 4, 6, 8, 12, 16].find((t) => layers.every((bits) => bits <= t)) ?? 32;
    const high = (bits) => `${Math.min(100, (100 * bits) / top).toFixed(1)}%`;
    layers.forEach((bits, i) => this.bits[i].replaceChildren(h("div", {}, h("i", { style: `height:${high(bits)}` }), h("b", { style: `bottom:${high(mean)}` }), decimals(bits, layers.length > 16 ? 1 : 2))));
  }

  mark(names) {
    for (const [button, at] of this.of) button.setAttribute("aria-pressed", String(at.every((i) => names.includes(this.groups[i].name))));
  }
}

/** One quantity against size: { name, log, level, points: [{ bytes, y, low, high, from, role, ... }] }. */
function chart(made, curve, size, common) {
  const up = made.log ? Math.log10 : (v) => v;
  const line = curve.map(([bytes, y]) => [size(bytes), up(y)]);
  const values = [...line.map(([, y]) => y), ...made.points.flatMap((p) => [p.y, p.low ?? p.y, p.high ?? p.y].map(up)), ...(made.level ? [made.level[0]] : [])];
  if (!values.length) values.push(0, 1); // nothing costs anything
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const room = 0.06 * (high - low || 1);
  [low, high] = [made.log ? Math.floor(low) : made.level ? low - room : 0, high + room];
  const powers = Array.from({ length: Math.floor(high) - low + 1 }, (_, i) => [low + i, short(10 ** (low + i))]);
  const { svg, plot, x, y, inside } = axes({ ...common, width: WIDTH, height: 220, y: [low, high], yticks: made.log ? powers : 4, left: LEFT, label: visible(made.name) });
  const across = (value, name, text) => plot.append(s("line", { class: name, x1: inside.left, x2: inside.right, y1: y(value), y2: y(value) }, s("title", {}, text)));
  if (made.level) across(made.level[0], "wb-level", visible(made.level[1]));
  plot.append(s("path", { class: "wb-best", d: line.map(([a, b], i) => (i ? `H${x(a).toFixed(1)}V${y(b).toFixed(1)}` : `M${x(a).toFixed(1)},${y(b).toFixed(1)}`)).join("") }));
  plot.append(s("line", { class: "wb-budget", x1: x(common.at), x2: x(common.at), y1: inside.top, y2: inside.bottom }));
  const named = [];
  for (const p of made.points) {
    const [a, b] = [x(size(p.bytes)), y(up(p.y))];
    const mark = s("g", { class: `wb-mark-${p.role}` }, s("title", {}, visible(p.title)));
    if (p.from) mark.append(s("line", { x1: a, x2: a, y1: y(up(p.from)), y2: b }));
    if (p.low) mark.append(s("path", { d: `M${a - 3},${y(up(p.low))}h6m-3,0V${y(up(p.high))}m-3,0h6` }));
    mark.append(p.role === "uniform" ? s("rect", { x: a - 3.5, y: b - 3.5, width: 7, height: 7, style: `stroke: ${p.colour}` }) : s("circle", { cx: a, cy: b, r: p.role === "chosen" ? 5 : 3 }));
    if (p.label && named.every(([c, d]) => Math.abs(c - a) > 34 || Math.abs(d - b) > 11)) {
      named.push([a, b]);
      mark.append(s("text", a > WIDTH - 50 ? { x: a - 7, y: b - 4, "text-anchor": "end" } : { x: a + 7, y: b - 4 }, visible(p.label)));
    }
    plot.append(mark);
  }
  return h("figure", {}, h("figcaption", {}, visible(made.name)), svg);
}

function render({ model, el }) {
  const view = frame(model, el, "precision_map", "Precision map");
  const name = fresh("pin");
  let table, grid, front, now, [waiting, next] = [false, null];
  const inUnit = (bytes) => (model.get("unit") === "MB" ? bytes / MB : (8 * bytes) / table.weights);
  const ends = () => [front[0][0], front.at(-1)[0]];
  const clamped = (bytes) => Math.round(Math.min(ends()[1], Math.max(ends()[0], bytes)));
  const range = () => {
    const sizes = [...ends(), ...now.rows.map((row) => row.bytes)];
    return [Math.log2(inUnit(Math.min(...sizes))) - 0.12, Math.log2(inUnit(Math.max(...sizes))) + 0.12];
  };

  /** One budget at a time: of those that are asked for meanwhile, the last. */
  function ask(budget) {
    if (waiting) return void (next = budget);
    waiting = true;
    view.tell("choose", { budget });
  }
  function answered() {
    waiting = false;
    if (next !== null) ask(next);
    next = null;
  }
  const button = (text, onclick, more) => h("button", { type: "button", onclick, ...more }, text);

  const slider = h("input", { type: "range", min: 0, max: STEPS, step: 1, oninput: () => { const [low, high] = ends(); ask(clamped(low * (high / low) ** (slider.value / STEPS))); } });
  const exact = h("input", { type: "number", min: 0, step: "any", onchange: () => view.tell("choose", { budget: Math.ceil((model.get("unit") === "MB" ? exact.value * MB : (exact.value * table.weights) / 8) - 1e-6) }) });
  const unit = choice("unit", [["bits", "bits a weight"], ["MB", "MB of weights"]], model.get("unit"), (value) => (model.set("unit", value), model.save_changes()));
  const free = button("Unpin all", () => view.tell("choose", { pins: {} }));
  const costs = button("Measure sensitivities", () => view.tell("costs"), { class: "wb-main" });
  const measure = button("Measure this allocation", () => view.tell("measure", {}), { class: "wb-main" });
  const stop = button("Stop", () => view.tell("stop"));
  const bar = h("progress", { max: 1, "aria-label": "share that is measured" });
  const [status, saved] = [0, 1].map(() => h("span", { class: "wb-note", role: "status" }));
  const [facts, said, about] = ["", "wb-note wb-pointed", "wb-note"].map((name) => h("p", { class: name }));
  const [map, panel, charts, compared] = ["wb-place", "wb-panel", "wb-outcomes", "wb-place"].map((name) => h("div", { class: name }));
  scrolls(map, "formats");
  scrolls(compared, "sizes compared");
  const file = h("input", { type: "text", value: "allocation.json" });
  const sides = h("div", { class: "wb-sides" }, h("div", {}, map, h("p", { class: "wb-note" }, "4/256: bits/block; black corner: pinned"), said), panel);
  const body = h("div", { class: "wb-body", hidden: true },
    h("div", { class: "wb-row" }, field("budget", slider, { class: "wb-field wb-wide" }), field("exactly", exact), unit.field, free), facts,
    sides, charts,
    h("p", { class: "wb-note" }, "Line and squares: predicted, the sum of what groups cost alone; the line is the best around the pins. Dots: measured with all groups at once, \u00b1 standard error (tokens/s: slowest to fastest run); dotted: what the prediction missed; level: the float model. Differences of KL are paired token by token. Click or drag in a chart to move the budget."),
    compared, about,
    h("div", { class: "wb-row wb-inline" }, field("allocation as", file), button("Save", () => view.tell("save", { path: file.value })), saved));
  const noted = h("p", { class: "wb-note", role: "note" });
  view.section.append(h("div", { class: "wb-row wb-inline" }, costs, measure, stop, bar, status), view.alert, noted, body);

  const drag = (event) => {
    const svg = event.target.closest("svg");
    if (!svg || (event.type === "pointermove" && !event.buttons)) return;
    const box = svg.getBoundingClientRect();
    const [low, high] = range();
    const share = (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT);
    ask(clamped((2 ** (low + share * (high - low)) * ends()[0]) / inUnit(ends()[0])));
  };
  ["pointerdown", "pointermove"].forEach((kind) => charts.addEventListener(kind, drag));

  function drawPanel({ title, note, tensors, head, lines, groups, experts: of }) {
    const radio = ({ format, pin, says }) => h("input", { type: "radio", name, "aria-label": visible(says), checked: pin, onchange: () => view.tell("pin", { groups, format }) });
    refill(panel, h("h4", {}, visible(title)), h("p", { class: "wb-note", title: visible(tensors) }, visible(note)),
      rows(visible(`formats of ${title}`), head, lines.map((line) => h("tr", { class: line.now ? "wb-now" : "" }, h("td", { colspan: line.at === null ? head.length : null }, h("label", {}, groups.length ? radio(line) : null,
        line.at === null ? visible(line.says) : h("span", { class: "wb-chip", style: paint(table.formats[line.at]) }, visible(line.format)))), cells(line.cells)))),
      of ? scrolls(h("div", { class: "wb-few" }, of.note, rows("experts", of.head, of.rows.map((r) => h("tr", {}, cells(r))))), "experts") : "");
    grid.mark(groups);
  }

  function drawCharts() {
    const size = (bytes) => Math.log2(inUnit(bytes));
    const x = range();
    const common = { x, xticks: logTicks(2 ** x[0], 2 ** x[1], 8), xlabel: model.get("unit") === "MB" ? "MB of weights" : "bits a weight", at: size(now.bytes) };
    charts.replaceChildren(...now.charts.map((made) => chart(made, made.log ? front.filter(([, kl]) => kl > 0) : [], size, common)),
      now.charts.length > 1 ? "" : h("p", { class: "wb-note" }, "Perplexity and tokens/s appear here once something has been measured."));
  }

  function drawRows() {
    const busy = model.get("state") !== "idle";
    refill(compared, rows("chosen, one format everywhere, and what was measured", [...table.head, ""], now.rows.map(({ role, bytes, format, texts, found }) => {
      // Where the measured figure would stand, the button that gets it.
      const missing = role === "uniform" && !found && model.get("able").includes("measure");
      const measured = missing && button("measure", () => view.tell("measure", { format }), { class: "wb-small", "aria-label": `measure ${visible(texts[0])}`, disabled: busy });
      return h("tr", { class: role === "chosen" ? "wb-now" : "" }, cells(texts.map((text, at) => (missing && table.head[at] === "measured KL" ? measured : text))), h("td", {},
        role === "chosen" ? null : button("its size", () => view.tell("choose", { budget: bytes }), { class: "wb-small", "aria-label": `budget of ${visible(texts[0])}` })));
    }), "wb-compared"));
  }

  const number = () => (exact.value = Number(inUnit(model.get("budget")).toPrecision(4)));

  function draw() {
    if (!now) return;
    const [low, high] = ends();
    const budget = model.get("budget");
    if (!waiting) slider.value = (STEPS * Math.log(Math.max(low, budget) / low)) / Math.log(high / low || 2);
    slider.setAttribute("aria-valuetext", visible(now.size));
    if (focusNear(exact) !== exact) number();
    free.disabled = !now.pinned.length;
    facts.textContent = visible(now.facts);
    grid.draw(now);
    drawPanel(now.panel);
    drawCharts();
    drawRows();
    view.section.dataset.drawn = now.bytes;
  }

  view.heard({
    table: (content) => {
      table = content;
      now = null;
      grid = new Grid(content, (groups) => view.tell("pick", { groups }), (change) => view.tell("step", change), (text) => (said.textContent = visible(text)));
      map.replaceChildren(grid.element);
      sides.classList.toggle("wb-many", grid.bits.length > 16);
      about.textContent = visible(content.about);
      body.hidden = false;
    },
    front: ({ points }) => (front = points),
    choice: (content) => {
      now = content;
      answered();
      draw();
    },
    panel: (content) => drawPanel((now.panel = content)),
    share: ({ share, left }) => {
      bar.value = share;
      status.textContent = share < 1 || model.get("state") === "costs" ? `${Math.round(100 * share)} %${left === null ? "" : `, about ${Math.ceil(left)} s left`}` : "tokens a second \u2026";
    },
    saved: ({ says }) => (saved.textContent = visible(says)),
  });
  const buttons = () => {
    const [busy, able] = [model.get("state") !== "idle", model.get("able")];
    view.section.dataset.state = model.get("state");
    costs.hidden = !able.includes("costs");
    measure.hidden = !able.includes("measure");
    costs.disabled = measure.disabled = busy;
    stop.hidden = bar.hidden = !busy;
    if (!busy) (status.textContent = ""), bar.removeAttribute("value");
    if (now) drawRows();
  };
  view.changed("state", buttons);
  view.changed("able", buttons);
  view.changed("note", () => (noted.hidden = !(noted.textContent = visible(model.get("note")))));
  view.changed("unit", () => {
    unit.select.value = model.get("unit");
    if (now) number();
    draw();
  });
  view.changed("error", () => model.get("error") && answered());
  view.tell("hello");
  return view.close;
}

export default { render };

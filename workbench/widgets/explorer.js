import { axes, choice, colour, css, decimals, field, frame, grouped, h, outline, s, scale, scrolls, short, visible } from "./shared.js";

const BITS = [2, 4, 8];
const BLOCKS = [32, 64, 128, 256, 512, "channel", "tensor"];
const SIDES = ["a", "b"];
const HUE = { a: "wb-a", b: "wb-b" }; // written out: rules for classes that a module names come with it
const KINDS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

function floats(buffer) {
  const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
  return Float32Array.from({ length: view.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) if (Number.isFinite(value)) (low = Math.min(low, value)), (high = Math.max(high, value));
  return low <= high ? [low, high] : [0, 1];
}

function union(ranges) {
  return [Math.min(...ranges.map((r) => r[0])), Math.max(...ranges.map((r) => r[1]))];
}

/** The model: a row of cells a kind of matrix, a column a layer, coloured by SQNR. One tab stop, arrow keys inside. */
class ModelMap {
  constructor(tensors, pick) {
    this.cells = new Map();
    this.legend = h("span", {});
    const layers = [...new Set(tensors.map((t) => t.layer))].filter((l) => l >= 0).sort((a, b) => a - b);
    const kinds = [...new Set(tensors.filter((t) => t.layer >= 0).map((t) => t.kind))];
    kinds.sort((a, b) => (KINDS.indexOf(a) + 99) % 99 - (KINDS.indexOf(b) + 99) % 99);
    const grid = h("table", { class: "wb-model", "aria-label": "matrices of the model" });
    const place = (t) => {
      const cell = h("button", { type: "button", tabindex: "-1", "data-tensor": t.name, onclick: () => pick(t.name) });
      this.cells.set(t.name, { cell, t });
      return cell;
    };
    const by = new Map(tensors.map((t) => [`${t.layer}/${t.kind}`, t]));
    const every = Math.max(1, Math.ceil(layers.length / 12));
    if (layers.length)
      grid.append(h("tr", {}, h("th", { scope: "col" }, "layer"), layers.map((l) => h("th", { scope: "col" }, l % every ? "" : String(l)))));
    for (const kind of kinds)
      grid.append(h("tr", {}, h("th", { scope: "row" }, visible(kind)), layers.map((l) => h("td", {}, by.has(`${l}/${kind}`) ? place(by.get(`${l}/${kind}`)) : null))));
    const outside = tensors.filter((t) => t.layer < 0);
    if (outside.length) {
      const rest = h("div", { class: "wb-outside" }, outside.map((t) => h("label", {}, place(t), h("span", {}, visible(t.kind)))));
      this.element = scrolls(h("div", { class: "wb-mapped" }, grid, rest, this.legend), "matrices");
    } else this.element = scrolls(h("div", { class: "wb-mapped" }, grid, this.legend), "matrices");
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.paint({});
  }

  paint(values, settings) {
    const [low, high] = extent(Object.values(values));
    for (const [name, { cell, t }] of this.cells) {
      const db = values[name];
      cell.style.background = db === undefined ? "" : css(colour(high > low ? (db - low) / (high - low) : 0.5));
      const says = `${visible(name)}, ${t.shape.join(" \u00d7 ")}${db === undefined ? "" : `, ${decimals(db, 2)} dB`}`;
      cell.title = says;
      cell.setAttribute("aria-label", says);
    }
    this.legend.replaceChildren();
    if (settings)
      this.legend.append(scale(low, high, "dB"), h("span", { class: "wb-note" }, ` INT${settings.bits}, ${visible(String(settings.block))}, ${visible(settings.quantizer)}; from a few rows of each`));
  }

  choose(name) {
    for (const [key, { cell }] of this.cells) {
      cell.setAttribute("aria-pressed", String(key === name));
      cell.tabIndex = key === name ? 0 : -1;
    }
  }

  key(event) {
    const here = event.target.closest("td");
    if (!here) return;
    const [row, at] = [here.parentElement, [...here.parentElement.children].indexOf(here)];
    const next = { ArrowLeft: here.previousElementSibling, ArrowRight: here.nextElementSibling, ArrowUp: row.previousElementSibling?.children[at], ArrowDown: row.nextElementSibling?.children[at] }[event.key];
    const button = next?.querySelector("button");
    if (button) (event.preventDefault(), button.focus());
  }
}

/** One side's controls; `ask` is called with settings, again only after the answer to the last call has come. */
class Controls {
  constructor(side, quantizers, ask) {
    this.side = side;
    this.ask = ask;
    this.waiting = false;
    this.next = null;
    const slider = (label, values, name) => {
      const input = h("input", { type: "range", min: 0, max: values.length - 1, step: 1, "aria-label": label, "data-name": name });
      const shown = h("b", {}); // an <output> would take the label for itself
      input.addEventListener("input", () => this.change({ [name]: values[Number(input.value)] }));
      return { input, shown, values, field: h("label", { class: "wb-field wb-slider" }, h("span", {}, label, " ", shown), input) };
    };
    this.bits = slider("bits", BITS, "bits");
    this.block = slider("block", BLOCKS, "block");
    this.quantizer = choice("quantizer", quantizers, quantizers[0], (value) => this.change({ quantizer: value }));
    this.symmetric = h("input", { type: "checkbox", onchange: () => this.change({ symmetric: this.symmetric.checked }) });
    this.facts = h("dl", { class: "wb-facts" });
    this.element = h("fieldset", { class: `wb-side wb-edge-${side}`, "data-side": side },
      h("legend", { class: HUE[side] }, side.toUpperCase()),
      h("div", { class: "wb-row" }, this.bits.field, this.block.field, this.quantizer.field, field("symmetric", this.symmetric, { class: "wb-field wb-check" })),
      this.facts);
  }

  show(settings) {
    this.settings = { ...settings };
    for (const [name, { input, shown, values }] of Object.entries({ bits: this.bits, block: this.block })) {
      const text = visible(String(settings[name]));
      if (!values.includes(settings[name])) values.push(settings[name]); // a block size that Python chose
      input.max = values.length - 1;
      input.value = values.indexOf(settings[name]);
      shown.textContent = text;
      input.setAttribute("aria-valuetext", text);
    }
    this.quantizer.select.value = settings.quantizer;
    this.symmetric.checked = settings.symmetric;
  }

  change(part) {
    this.show({ ...this.settings, ...part });
    if (this.waiting) this.next = this.settings;
    else {
      this.waiting = true;
      this.ask({ side: this.side, settings: this.settings });
    }
  }

  /** An answer (or an error) has come. */
  answered() {
    this.waiting = false;
    const next = this.next;
    this.next = null;
    if (next) this.change(next);
  }

  report(facts) {
    this.facts.replaceChildren(...Object.entries(facts).flatMap(([key, value]) => [h("dt", {}, key), h("dd", { "data-fact": key }, visible(value))]));
  }
}

/** The error map of a side on a canvas, with the rows that it covers. */
function errorMap(look, [low, high], pick) {
  const [height, width] = look.map;
  const canvas = h("canvas", { width, height, class: "wb-errors", role: "img",
    "aria-label": `SQNR by block, side ${look.side.toUpperCase()}: ${decimals(low, 1)} to ${decimals(high, 1)} dB` });
  const image = new ImageData(width, height);
  look.errors.forEach((db, i) => {
    const share = Number.isNaN(db) ? 1 : db === Infinity ? 1 : high > low ? (db - low) / (high - low) : 0.5;
    image.data.set([...colour(share), 255], 4 * i);
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
  const cell = (event) => {
    const box = canvas.getBoundingClientRect();
    const at = (from, size, cells) => Math.min(cells - 1, Math.max(0, Math.floor(((from) / size) * cells)));
    return [at(event.clientY - box.top, box.height, height), at(event.clientX - box.left, box.width, width)];
  };
  canvas.addEventListener("click", (event) => pick({ side: look.side, cell: cell(event) }));
  canvas.addEventListener("mousemove", (event) => {
    const [i, j] = cell(event);
    canvas.title = `${decimals(look.errors[i * width + j], 2)} dB; click for the worst block here`;
  });
  return canvas;
}

function blockChart(block, side, reach) {
  const top = Math.max(...block.counts, 1);
  const many = block.levels.length > 64;
  const { svg, plot, x, y, inside } = axes({
    width: 330, height: 150, x: [-reach, reach], y: [0, top], xlabel: "weight", yticks: 3, left: 30,
    label: `weights of row ${block.row}, block ${block.block}, and ${block.levels.length} levels`,
  });
  plot.append(s("path", { d: outline(block.counts, [-block.reach, block.reach], x, y, true), class: "wb-plain" }));
  const levels = s("g", { class: `wb-levels ${HUE[side]}`, "stroke-width": many ? 0.5 : 1.2 });
  for (const level of block.levels) levels.append(s("line", { x1: x(level), x2: x(level), y1: inside.bottom, y2: many ? inside.bottom - 12 : inside.top }));
  plot.append(levels);
  return svg;
}

/** A distribution of both sides over one range, as densities. */
function spread(name, looks, { xlabel, label, width = 330, height = 104 }) {
  const range = union(looks.map((look) => look.ranges[name]));
  const scaled = looks.map((look) => {
    const [low, high] = look.ranges[name];
    return look.spreads[name].map((share) => share / ((high - low) / look.spreads[name].length || 1));
  });
  const top = Math.max(...scaled.flatMap((each) => [...each]), 1e-30);
  const { svg, plot, x, y } = axes({ width, height, x: range, y: [0, top], xlabel, label, yticks: 0, left: 10 });
  looks.forEach((look, i) => plot.append(s("path", { d: outline(scaled[i], look.ranges[name], x, y, false), class: `wb-line ${HUE[look.side]}` })));
  return svg;
}

function worstTable(look, pick) {
  const head = ["row", "block", "SQNR, dB", "scale", "zero", "largest/RMS"];
  const rows = look.worst.map((w) => h("tr", {},
    h("td", {}, h("button", { type: "button", class: "wb-link", "aria-label": `show row ${w.row}, block ${w.block}`, onclick: () => pick({ row: w.row, column: w.block * look.size }) }, grouped(w.row))),
    [grouped(w.block), decimals(w.sqnr_db, 2), short(w.scale), short(w.zero), decimals(w.crest, 1)].map((text) => h("td", {}, text))));
  return h("table", { "data-worst": look.side, "aria-label": `worst blocks of ${look.side.toUpperCase()}` }, h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, rows));
}

function render({ model, el }) {
  const view = frame(model, el, "explorer", "Quantization explorer");
  const looks = {};
  const blocks = {};
  const pick = (place) => view.tell("place", place);
  const map = new ModelMap(model.get("tensors"), (name) => chooseTensor(name));
  const names = choice("matrix", model.get("tensors").map((t) => [t.name, t.name]), model.get("tensor"), (name) => chooseTensor(name));
  const compare = h("input", { type: "checkbox", onchange: () => view.tell("choose", { compare: compare.checked }) });
  const controls = Object.fromEntries(SIDES.map((side) => [side, new Controls(side, model.get("quantizers"), (content) => view.tell("choose", content))]));
  const status = h("p", { class: "wb-note", role: "status" });
  const columns = Object.fromEntries(SIDES.map((side) => [side, h("div", { class: "wb-column", "data-column": side })]));
  const shared = h("div", { class: "wb-column" });
  const charts = h("div", { class: "wb-charts" }, columns.a, columns.b, shared);

  view.section.append(
    h("div", { class: "wb-top" },
      h("div", { class: "wb-choose" }, h("div", { class: "wb-row" }, names.field, field("compare", compare, { class: "wb-field wb-check" })), map.element),
      h("div", { class: "wb-both" }, controls.a.element, controls.b.element)),
    view.alert, status, charts);

  function chooseTensor(name) {
    view.tell("choose", { tensor: name });
    for (const side of SIDES) delete blocks[side];
  }
  const sides = () => (model.get("compare") ? SIDES : ["a"]);

  function draw() {
    const shown = sides().map((side) => looks[side]).filter(Boolean);
    if (!shown.length) return;
    const range = union(shown.map((look) => extent(look.errors)));
    const reach = Math.max(...shown.map((look) => blocks[look.side]?.reach ?? 0));
    for (const look of shown) {
      const rows = look.sampled ? `${grouped(look.map[0])} rows of a sample` : "all rows";
      const parts = [
        h("h4", { class: HUE[look.side] }, `${look.side.toUpperCase()} \u00b7 ${look.facts.format}, ${look.facts.quantizer}`),
        h("figure", {}, errorMap(look, range, pick), h("figcaption", {}, `error by block; ${rows} down, columns across`)),
      ];
      const block = blocks[look.side];
      if (block) {
        const many = look.granularity === "block" ? `block ${grouped(block.block)}` : look.granularity === "channel" ? "one block" : "of the one block";
        parts.push(h("figure", {}, blockChart(block, look.side, reach),
          h("figcaption", {}, `row ${grouped(block.row)}, ${many}: ${grouped(block.count)} weights, ${block.levels.length} levels; height: weights in a bin`)));
      }
      parts.push(h("h4", {}, "worst blocks"), worstTable(look, pick));
      columns[look.side].replaceChildren(...parts);
    }
    columns.b.hidden = !model.get("compare");
    const zeros = shown.filter((look) => !look.symmetric);
    shared.replaceChildren(
      h("h4", {}, "distributions over blocks"),
      h("p", { class: "wb-note" }, "colour of the maps: ", scale(...range, "dB")),
      spread("sqnr", shown, { xlabel: "SQNR of a block, dB", label: "distribution of the blocks' SQNR", height: 128 }),
      spread("scale", shown, { xlabel: "scale", label: "distribution of scales" }),
      zeros.length ? spread("zero", zeros, { xlabel: "zero-point", label: "distribution of zero-points" }) : h("p", { class: "wb-note" }, "symmetric: the zero-point is implied"),
    );
    view.section.dataset.drawn = shown.map((look) => `${look.facts.format} ${look.facts.quantizer} ${look.sampled ? "sampled" : "all"}`).join(" | ");
  }

  view.heard({
    look: (content, buffers) => {
      const [errors, sqnr, scales, zero] = buffers.map(floats);
      looks[content.side] = { ...content, errors, spreads: { sqnr, scale: scales, zero } };
      controls[content.side].report(content.facts);
      draw();
      controls[content.side].answered();
    },
    block: (content, buffers) => {
      const [counts, levels] = buffers.map(floats);
      blocks[content.side] = { ...content, counts, levels };
      draw();
    },
    share: ({ side, share }) => {
      status.textContent = `counting all rows of ${side.toUpperCase()}: ${Math.round(100 * share)} %; until then figures come from the sampled rows`;
    },
    calibrated: ({ share }) => {
      status.textContent = `calibrating, once: running the model over the embedded text for what its matrices are multiplied by: ${Math.round(100 * share)} %`;
    },
    map: ({ values, settings }) => map.paint(values, settings),
  });
  for (const side of SIDES) view.changed(`settings_${side}`, () => controls[side].waiting || controls[side].show(model.get(`settings_${side}`)));
  view.changed("compare", () => {
    compare.checked = model.get("compare");
    controls.b.element.hidden = !compare.checked;
    charts.dataset.sides = sides().length;
    draw();
  });
  view.changed("tensor", () => {
    names.select.value = model.get("tensor");
    map.choose(model.get("tensor"));
  });
  view.changed("error", () => model.get("error") && SIDES.forEach((side) => controls[side].answered()));
  view.changed("state", () => {
    view.section.dataset.state = model.get("state");
    status.textContent = { looking: "looking \u2026", calibrating: "calibrating, once \u2026", counting: "counting all rows \u2026", done: "" }[model.get("state")] ?? "";
  });
  view.tell("hello");
  return view.close;
}

export default { render };

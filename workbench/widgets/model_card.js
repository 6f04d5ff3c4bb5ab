import { axes, bytes, decimals, field, frame, h, HUES, percent, s, scrolls, visible } from "./shared.js";

function rows(label, head, body) {
  const found = h("table", { "aria-label": label },
    h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, body.map((cells) => h("tr", {}, cells.map((cell) => h("td", {}, typeof cell === "string" ? visible(cell) : cell))))));
  return scrolls(h("div", { class: "wb-rows" }, found), label);
}

/** Memory by kind as one bar; generation and scoring share their room, so the larger one counts. */
function memory(parts) {
  const { weights, cache } = parts;
  const [generate, score] = [parts["activations to generate"], parts["activations to score"]];
  const shown = [["weights", weights], ["key/value cache", cache], ["activations", Math.max(generate, score)]];
  const total = shown.reduce((sum, [, size]) => sum + size, 0) || 1;
  return h("div", { class: "wb-memory" },
    h("div", { class: "wb-stack", "aria-hidden": "true" }, shown.map(([, size], i) => h("span", { class: `wb-k${i}`, style: `flex:${size / total} 0 0` }))),
    h("ul", {}, shown.map(([what, size], i) => h("li", {}, h("span", { class: `wb-key wb-k${i}`, "aria-hidden": "true" }), `${what} `, h("b", {}, bytes(size)))),
      h("li", { class: "wb-note" }, `total ${bytes(total)}; activations: ${bytes(generate)} to generate, ${bytes(score)} to score`)));
}

/** Layers of the dispatches as [number, first, last], for bands behind the timeline. */
function bands(dispatches) {
  const found = [];
  dispatches.forEach(([output], at) => {
    const layer = /^layers\.(\d+)\./.exec(output)?.[1];
    if (layer === undefined) return;
    const last = found.at(-1);
    if (last?.[0] === layer) last[2] = at;
    else found.push([layer, at, at]);
  });
  return found;
}

class Timeline {
  constructor(pick) {
    this.pick = pick;
    this.at = -1;
    this.said = h("p", { class: "wb-note wb-said", role: "status" });
    this.place = h("div", { class: "wb-timeline", tabindex: "0", role: "group", "aria-label": "timeline of one decode step; arrow keys walk through the dispatches",
      onkeydown: (event) => this.key(event),
      onmouseover: (event) => event.target.dataset?.at && this.point(Number(event.target.dataset.at)),
      onclick: (event) => event.target.dataset?.at && this.select(Number(event.target.dataset.at)) });
    this.table = h("div", {});
    this.notes = h("p", { class: "wb-note" });
    this.element = h("div", { class: "wb-profile", hidden: true }, this.place, this.said, this.notes, this.table);
  }

  draw({ notes, kernels, dispatches }, spans) {
    Object.assign(this, { kernels, dispatches, spans });
    const height = 18 * kernels.length + 34;
    const end = Math.max(...spans.map(([start, took]) => start + took));
    const { svg, plot, x, inside } = axes({ width: 1000, height, x: [0, 1e3 * end], y: [0, 1], xlabel: "ms", yticks: 0, xticks: 8, left: 150, label: `${dispatches.length} dispatches on the device's clock` });
    for (const [layer, first, last] of bands(dispatches)) {
      const [from, to] = [x(1e3 * spans[first][0]), x(1e3 * (spans[last][0] + spans[last][1]))];
      if (Number(layer) % 2 === 0) plot.append(s("rect", { class: "wb-band", x: from, width: to - from, y: inside.top, height: inside.bottom - inside.top }));
    }
    kernels.forEach(({ kernel }, row) => plot.append(s("text", { class: "wb-row-name", x: inside.left - 6, y: inside.top + 18 * row + 12, "text-anchor": "end" }, visible(kernel))));
    this.bars = dispatches.map(([, row], at) => s("rect", {
      class: `wb-dispatch wb-k${row % HUES}`, "data-at": at, x: x(1e3 * spans[at][0]).toFixed(2), y: inside.top + 18 * row + 2,
      width: Math.max(0.8, x(1e3 * spans[at][1]) - x(0)).toFixed(2), height: 14 }));
    plot.append(...this.bars);
    this.place.replaceChildren(svg);
    this.notes.textContent = notes;
    this.said.textContent = "Point at a dispatch, or walk with the arrow keys; click or Enter selects it for Python. Bands: layers.";
    this.table.replaceChildren(rows("time by kernel", ["kernel", "variant", "dispatches", "ms", "share", "", "GB/s"], kernels.map((k, row) => [
      h("span", {}, h("span", { class: `wb-key wb-k${row % HUES}`, "aria-hidden": "true" }), visible(k.kernel)), k.variant, String(k.count), decimals(1e3 * k.seconds, 3), percent(k.share),
      h("span", { class: "wb-bar wb-share", "aria-hidden": "true" }, h("span", { class: `wb-k${row % HUES}`, style: `width:${(100 * k.share).toFixed(1)}%` })), decimals(k.gb_per_s, 2)])));
    this.element.hidden = false;
  }

  point(at) {
    this.bars?.[this.at]?.classList.remove("wb-at");
    this.at = at;
    const bar = this.bars?.[at];
    if (!bar) return;
    bar.classList.add("wb-at");
    const [output, row, reason] = this.dispatches[at];
    const { kernel, variant } = this.kernels[row];
    this.said.textContent = `${at}: ${visible(output)} \u2190 ${visible(kernel)}/${visible(variant)}, ${(1e6 * this.spans[at][1]).toFixed(1)} \u00b5s at ${(1e3 * this.spans[at][0]).toFixed(3)} ms \u00b7 ${visible(reason)}`;
  }

  select(at) {
    this.pick(at);
    this.mark(at);
  }

  mark(at) {
    this.bars?.forEach((bar, index) => bar.classList.toggle("wb-picked", index === at));
  }

  key(event) {
    if (!this.bars) return;
    const last = this.bars.length - 1;
    const moves = { ArrowRight: this.at + 1, ArrowLeft: this.at - 1, Home: 0, End: last };
    if (Object.hasOwn(moves, event.key)) {
      event.preventDefault();
      this.point(Math.min(last, Math.max(0, moves[event.key])));
      this.bars[this.at].scrollIntoView({ block: "nearest", inline: "nearest" });
    }
    else if ((event.key === "Enter" || event.key === " ") && this.at >= 0) (event.preventDefault(), this.select(this.at));
  }
}

function render({ model, el }) {
  const view = frame(model, el, "model_card", "Model card");
  const card = h("div", { class: "wb-card" });
  const timeline = new Timeline((at) => {
    model.set("selection", at);
    model.save_changes();
  });
  const position = h("input", { type: "number", min: 0, step: 1, value: model.get("position") });
  const button = h("button", { class: "wb-main", type: "button", onclick: () => {
    button.disabled = true;
    view.tell("measure", { position: Number(position.value) });
  } }, "Measure one decode step");
  const status = h("span", { class: "wb-note", role: "status" });
  view.section.append(card, h("div", { class: "wb-row wb-actions" }, button, field("tokens in the cache", position), status), view.alert, timeline.element);
  const plan = h("div", {});
  view.section.append(plan);

  view.heard({
    info: ({ info }) => {
      const facts = h("dl", { class: "wb-facts wb-about" }, Object.entries(info.facts).flatMap(([key, value]) => [h("dt", {}, key), h("dd", {}, visible(value))]));
      const parts = [h("h3", {}, visible(info.name)),
        h("div", { class: "wb-two" }, facts, h("div", {},
          h("h4", {}, "memory"), memory(info.memory),
          h("h4", { class: "wb-next" }, "chosen, and why"), rows("choices", ["", "", "because"], info.choices)))];
      if (info.variants.length)
        parts.push(h("div", {}, h("h4", {}, "variants of the linear layers"), rows("variants of the linear layers", ["kernel", "variant", "tokens", "shapes", "because"], info.variants)));
      card.replaceChildren(...parts);
      const list = h("pre", { tabindex: "0", "aria-label": "calls of the plan" });
      const show = (wanted) => {
        const lines = info.plan.filter((line) => line.includes(wanted));
        list.textContent = visible(lines.join("\n")) || "no call has this in it";
      };
      const filter = h("input", { type: "search", placeholder: "layers.3.", "aria-label": "filter the calls", oninput: () => show(filter.value) });
      show("");
      plan.replaceChildren(h("details", { class: "wb-plan" }, h("summary", {}, `plan of one token, ${info.plan.length} calls`), filter, list));
    },
    profile: (content, [buffer]) => {
      const view64 = new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
      const spans = content.dispatches.map((_, at) => [view64.getFloat64(16 * at, true), view64.getFloat64(16 * at + 8, true)]);
      timeline.draw(content, spans);
      timeline.mark(model.get("selection"));
    },
  });
  view.changed("state", () => {
    const state = model.get("state");
    view.section.dataset.state = state;
    button.disabled = state === "measuring";
    status.textContent = state === "measuring" ? "measuring \u2026" : "";
  });
  view.changed("position", () => (position.value = model.get("position")));
  view.changed("selection", () => timeline.mark(model.get("selection")));
  view.tell("hello");
  return view.close;
}

export default { render };

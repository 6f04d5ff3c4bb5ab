import { compute } from "./compute.js";
import { choice, field, focusNear, frame, fresh, h, percent, visible } from "./shared.js";

const NUMBERS = [
  ["max_new_tokens", "new tokens", { min: 1, step: 1 }],
  ["temperature", "temperature", { min: 0, max: 5, step: 0.05 }],
  ["top_k", "top-k (0: off)", { min: 0, step: 1 }],
  ["top_p", "top-p (1: off)", { min: 0, max: 1, step: 0.01 }],
  ["min_p", "min-p (0: off)", { min: 0, max: 0.99, step: 0.01 }],
  ["repetition_penalty", "repetition (1: off)", { min: 0.1, max: 5, step: 0.05 }],
  ["seed", "seed", { min: 0, step: 1 }],
];
const RUNNING = new Set(["running", "measuring"]);
const SAYS = {
  running: "writing \u2026",
  measuring: "reading the text once more for probabilities \u2026",
  stopped: "stopped",
  failed: "failed",
};

/** The product (or sum) of what tokens have; undefined until all have it. */
const together = (tokens, key, join) => tokens.reduce((all, token) => (all === undefined || token[key] === undefined ? undefined : join(all, token[key])), key === "p" ? 1 : 0);
const probability = (tokens) => together(tokens, "p", (a, b) => a * b);

/** How strongly tokens of one character are coloured, 0 to 1: by -ln p up to 5 nats, or by KL from 0.001 to 1 nat on a log scale. */
function strength(tokens, by) {
  const value = by === "probability" ? probability(tokens) : by === "divergence" ? together(tokens, "k", (a, b) => a + b) : undefined;
  if (value === undefined) return 0;
  return by === "probability" ? Math.min(1, -Math.log(Math.max(value, 1e-9)) / 5) : Math.min(1, Math.max(0, 1 + Math.log10(value + 1e-12) / 3));
}

/** A legend of `strength`: from what is not coloured to what is coloured most. */
const ramp = (low, high) => h("span", { class: "wb-scale" }, low, h("span", { class: "wb-scale-bar wb-ramp", "aria-hidden": "true" }), high);

/** One model's text: a listbox of tokens with one tab stop. */
class Lane {
  constructor(index, label, device, view) {
    this.index = index;
    this.view = view;
    this.tokens = [];
    this.at = -1;
    this.facts = h("span", { class: "wb-note" });
    this.prompt = h("span", { class: "wb-prompt" });
    this.body = h("div", {
      class: "wb-text", role: "listbox", tabindex: "0", "aria-label": `tokens of ${visible(label)}`,
      onkeydown: (event) => this.key(event),
      onfocus: () => this.at < 0 && this.tokens.length && this.point(0),
      onmouseover: (event) => this.hit(event, (at) => this.point(at)),
      onclick: (event) => this.hit(event, (at) => (this.point(at), view.select(index, at))),
    }, this.prompt);
    this.body.dataset.nothing = "Nothing is written yet: Generate continues the prompt, here token by token.";
    const name = h("h4", { class: index ? "wb-b" : "wb-a" }, visible(label));
    this.element = h("div", { class: "wb-lane", "data-lane": index }, h("div", { class: "wb-head", title: visible(device) }, name, this.facts), this.body);
  }

  hit(event, action) {
    const span = event.target.closest("[data-at]");
    if (span) action(Number(span.dataset.at));
  }

  span(at) {
    return at < 0 ? undefined : this.body.children[at + 1]; // behind the prompt
  }

  clear(prompt) {
    this.tokens = [];
    this.at = -1;
    this.prompt.textContent = visible(prompt);
    this.body.replaceChildren(this.prompt);
    this.body.removeAttribute("aria-activedescendant");
    this.body.classList.toggle("wb-nothing", !prompt);
    this.facts.textContent = "";
  }

  add({ from, tokens, facts }, by, parted) {
    if (from > this.tokens.length) return false; // this view opened in between, and is told everything by `all`
    const follow = this.body.scrollTop + this.body.clientHeight >= this.body.scrollHeight - 8;
    const added = document.createDocumentFragment();
    for (const token of tokens.slice(this.tokens.length - from)) {
      const at = this.tokens.push(token) - 1;
      const span = h("span", { role: "option", id: fresh("token"), "data-at": at }, token.t ? visible(token.t) : "\u25ab");
      if (!token.t) span.className = "wb-silent";
      added.append(span);
      this.paint(span, token, at, by, parted);
    }
    this.body.append(added);
    this.body.classList.remove("wb-nothing");
    this.facts.textContent = facts.join(" \u00b7 ");
    if (follow) this.body.scrollTop = this.body.scrollHeight;
    return true;
  }

  /** [first, last] of the tokens of the character that the token at `at` belongs to; `at` twice where it is whole. */
  character(at) {
    let last = at;
    while ((this.tokens[last + 1]?.b ?? 0) > last - at) last += 1;
    return [last - (this.tokens[last].b ?? 0), last];
  }

  paint(span, token, at, by, parted) {
    const written = this.tokens.slice(at - (token.t ? (token.b ?? 0) : 0), at + 1);
    span.style.setProperty("--v", strength(written, by).toFixed(3));
    span.classList.toggle("wb-flip", by === "divergence" && token.f === true);
    span.classList.toggle("wb-parted", at === parted);
    const [name, p] = [written.length > 1 ? token.t : token.n, probability(written)];
    span.setAttribute("aria-label", `${visible(name, { name: true })}${p === undefined ? "" : `, ${percent(p)}`}`);
  }

  repaint(by, parted) {
    this.tokens.forEach((token, at) => this.paint(this.span(at), token, at, by, parted));
  }

  point(at) {
    this.span(this.at)?.classList.remove("wb-at");
    this.at = at;
    const span = this.span(at);
    if (!span) return;
    span.classList.add("wb-at");
    this.body.setAttribute("aria-activedescendant", span.id);
    this.view.explain(this, at);
  }

  select(at) {
    this.body.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
    this.span(at)?.setAttribute("aria-selected", "true");
  }

  key(event) {
    const last = this.tokens.length - 1;
    const moves = { ArrowRight: this.at + 1, ArrowLeft: this.at - 1, Home: 0, End: last, ArrowDown: this.at + 10, ArrowUp: this.at - 10 };
    if (Object.hasOwn(moves, event.key) && last >= 0) {
      event.preventDefault();
      this.point(Math.min(last, Math.max(0, moves[event.key])));
      this.span(this.at).scrollIntoView({ block: "nearest" });
    } else if ((event.key === "Enter" || event.key === " ") && this.at >= 0) {
      event.preventDefault();
      this.view.select(this.index, this.at);
    }
  }
}

function likely(title, side, list, chosen) {
  const rows = list.map(([name, p]) =>
    h("li", { class: name === chosen ? "wb-chosen" : undefined },
      h("bdi", {}, visible(name, { name: true })),
      h("span", { class: "wb-bar", "aria-hidden": "true" }, h("span", { style: `width:${(100 * p).toFixed(2)}%` })),
      h("span", {}, percent(p))));
  return h("div", { class: `wb-likely ${side}` }, h("h4", {}, title), h("ol", {}, rows));
}

function render({ model, el }) {
  const view = frame(model, el, "generator", "Generator");
  const labels = model.get("labels");
  const both = labels.length > 1;
  let parted = null;

  const prompt = h("textarea", { rows: 2, spellcheck: "false", value: model.get("prompt"), onkeydown: (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) (event.preventDefault(), start());
  } });
  const numbers = Object.fromEntries(NUMBERS.map(([name, label, limits]) => [name, h("input", { type: "number", ...limits, value: model.get(name) })]));
  const chat = h("input", { type: "checkbox", checked: model.get("chat"), disabled: !model.get("has_chat") });
  const go = h("button", { class: "wb-main", type: "button", onclick: () => start() }, "Generate");
  const stop = h("button", { type: "button", onclick: () => halt() }, "Stop");
  const status = h("span", { class: "wb-note", role: "status" });
  const colours = [["probability", "surprise (probability)"], ["none", "nothing"]];
  const compares = model.get("compares");
  if (compares) colours.unshift(["divergence", "divergence (KL)"]);
  const by = choice("colour by", colours, compares ? "divergence" : "probability", () => repaint());
  const legend = h("p", { class: "wb-note" });
  const detail = h("div", { class: "wb-detail", "aria-live": "polite" });
  const hint = () => h("p", { class: "wb-note" }, "Point at a token, or walk with the arrow keys, to see what else was likely; click or Enter selects it for Python.");

  const surface = {
    select(lane, at) {
      lanes.forEach((each, index) => each.select(index === lane ? at : -1));
      model.set("selection", [lane, at]);
      model.save_changes();
    },
    explain(lane, at) {
      const token = lane.tokens[at];
      const says = [`token ${at}, id ${token.i}`];
      if (token.p !== undefined) says.push(`probability ${percent(token.p)}`);
      if (token.k !== undefined) says.push(`KL ${token.k < 1e-4 ? token.k.toExponential(1) : token.k.toFixed(4)} nats`);
      if (token.f) says.push("the most likely token differs");
      if (token.p === undefined) says.push("not measured yet");
      const [first, last] = lane.character(at);
      if (last > first) {
        const [whole, p] = [lane.tokens[last].t, probability(lane.tokens.slice(first, last + 1))];
        says.push(`part of ${whole ? visible(whole, { name: true }) : "a character"}, tokens ${first} to ${last}${p === undefined ? "" : `, together ${percent(p)}`}`);
      }
      const name = h("span", { class: "wb-name" }, h("bdi", {}, visible(token.n, { name: true })));
      const parts = [h("div", { class: "wb-what" }, name, ...says.map((each) => h("span", { class: "wb-note" }, each)))];
      const [own, other] = lane.index ? ["wb-side-b", "wb-side-a"] : ["wb-side-a", "wb-side-b"];
      const lists = [];
      if (token.a) lists.push(likely(both ? `${visible(labels[lane.index])}, which wrote it` : "most likely", own, token.a, token.n));
      if (token.o) lists.push(likely(`${visible(labels[1 - lane.index])}, reading the same`, other, token.o, token.n));
      detail.replaceChildren(...parts, ...(lane.index ? lists.reverse() : lists));
    },
  };
  const lanes = labels.map((label, index) => new Lane(index, label, model.get("devices")[index] ?? "", surface));

  function start() {
    const options = { prompt: prompt.value, chat: chat.checked };
    for (const [name, input] of Object.entries(numbers)) if (input.value !== "") options[name] = Number(input.value);
    view.tell("start", { options });
    status.textContent = "starting \u2026";
  }
  function halt() {
    status.textContent = "stopping \u2026";
    view.tell("stop");
  }
  function repaint() {
    lanes.forEach((lane) => lane.repaint(by.select.value, parted));
    legend.replaceChildren(...{
      divergence: ["colour: KL ", ramp("0.001", "1 nat"), "; underlined: the most likely token differs; bar: here the texts part"],
      probability: ["colour: surprise, \u2212ln p ", ramp("0", "5 nats")],
      none: [],
    }[by.select.value]);
  }
  function begin(text) {
    parted = null;
    lanes.forEach((lane) => lane.clear(text));
    detail.replaceChildren(hint());
  }
  const options = h("div", { class: "wb-row" },
    NUMBERS.map(([name, label]) => field(label, numbers[name])), field("chat template", chat, { class: "wb-field wb-check", title: model.get("has_chat") ? "" : "this tokenizer has none" }),
    h("div", { class: "wb-row wb-actions" }, go, stop, status));
  view.section.append(field("prompt", prompt), options, view.alert,
    h("div", { class: "wb-lanes" }, lanes.map((lane) => lane.element)),
    h("div", { class: "wb-row wb-actions" }, legend, h("div", { class: "wb-push" }, by.field)), detail);
  begin("");
  view.section.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && RUNNING.has(model.get("state"))) halt();
  });

  view.changed("state", () => {
    const state = model.get("state");
    view.section.dataset.state = state;
    // The button that goes out of use hands its focus on, so that Escape and Enter still arrive.
    const focused = focusNear(view.section);
    const [out, used] = RUNNING.has(state) ? [go, stop] : [stop, go];
    used.disabled = false;
    if (focused === out) used.focus();
    out.disabled = true;
    status.textContent = SAYS[state] ?? "";
  });
  for (const [name, input] of [["prompt", prompt], ...Object.entries(numbers)])
    view.changed(name, () => (input.value = model.get(name)));
  view.changed("chat", () => (chat.checked = model.get("chat")));
  view.changed("selection", () => {
    const [lane, at] = model.get("selection");
    lanes.forEach((each, index) => each.select(index === lane ? at : -1));
  });
  // A page that is opened again shows the last text at once; tokens follow if there is a kernel.
  model.get("texts").forEach((text, index) => {
    lanes[index]?.clear(model.get("written_prompt") + text);
    if (lanes[index]) lanes[index].facts.textContent = (model.get("summary")[index] ?? []).join(" \u00b7 ");
  });
  view.heard({
    begin: ({ prompt: text }) => begin(text),
    more: (content) => {
      const moved = content.parted !== parted;
      parted = content.parted;
      const kept = content.lanes.every((lane, index) => lanes[index].add(lane, by.select.value, parted));
      if (!kept) view.tell("hello");
      else if (moved) lanes.forEach((lane) => lane.repaint(by.select.value, parted));
    },
    all: (content) => {
      const before = lanes.map((lane) => [lane.at, lane.body.scrollTop]);
      parted = content.parted;
      content.lanes.forEach((lane, index) => {
        lanes[index].clear(content.prompt);
        lanes[index].add(lane, by.select.value, parted);
        lanes[index].body.scrollTop = before[index][1];
        if (before[index][0] >= 0) lanes[index].point(before[index][0]);
      });
      const [lane, at] = model.get("selection");
      lanes[lane]?.select(at);
    },
  });
  repaint();
  if (model.get("in_page")) compute(model, view);
  view.tell("hello");
  return view.close;
}

export default { render };

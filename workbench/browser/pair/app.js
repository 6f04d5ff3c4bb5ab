// The page of two models. What comes from files or the models is written as text, never as markup.

import { Engine } from "./browser/port.js";
import { append, chosen, control, element, fail, Form, loading, made, say } from "./browser/form.js";

const SERVICE = { worker: "./browser/pair.js", calls: () => import("./browser/pair.js") };
/** @type {Record<string, string>} */
const ENDED = { eos: "ended by the model", length: "as long as asked for", context: "the context is full", stopped: "stopped" };
/** Unseen, or moving what stands around. */
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const visible = (/** @type {string} */ text) =>
  text.replace(UNSEEN, (c) => `⟨U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
/** With spaces at the ends and line ends seen too. @param {string} text */
const named = (text) => `“${visible(text).replaceAll("\n", "↵").replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length))}”`;
const percent = (/** @type {number} */ p) => `${(100 * p).toFixed(p < 0.1 ? 2 : 1)} %`;
const digits = (/** @type {number} */ value) => Number(value.toPrecision(3)).toString();
/** Of a KL's colour: 0.001 to 1 nat, logarithmic. @param {number} kl */
const strength = (kl) => Math.min(1, Math.max(0, 1 + Math.log10(kl + 1e-12) / 3));

/** One text: a listbox of tokens with one tab stop. */
class Lane {
  /** @param {string} title @param {string} given what stands in front @param {string[]} names of the models */
  constructor(title, given, names) {
    this.names = names;
    /** @type {Unit[]} */
    this.units = [];
    this.at = -1;
    const heading = made("h2", title);
    heading.id = `lane-${document.querySelectorAll(".lane").length}`;
    this.facts = made("p", "", "note facts");
    this.body = made("div", "", "text");
    this.body.tabIndex = 0;
    this.body.dir = "auto";
    this.body.setAttribute("role", "listbox");
    this.body.setAttribute("aria-labelledby", heading.id);
    const before = made("span", visible(given), "given");
    before.setAttribute("role", "presentation");
    this.body.append(before);
    this.element = made("section", "", "lane");
    this.element.append(heading, this.facts, this.body);
    this.body.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("focus", () => this.point(Math.max(this.at, 0)));
    this.body.addEventListener("click", ({ target }) => {
      const at = /** @type {HTMLElement} */ (target).dataset.at;
      if (at !== undefined) this.point(Number(at));
    });
  }

  /** Text that comes. @param {string} text */
  more(text) {
    append(this.body, visible(text));
  }

  /** What both say of tokens. @param {Unit[]} units @param {number | null} parted tokens that texts share */
  show(units, parted) {
    this.units = units;
    let tokens = 0;
    const spans = units.map(({ text, tokens: count, kl, flip }, at) => {
      const span = made("span", visible(text) || "▫", "unit");
      const inside = parted !== null && parted >= tokens && parted < tokens + count;
      tokens += count;
      span.classList.toggle("flip", flip);
      span.classList.toggle("parted", inside);
      span.id = `${this.element.querySelector("h2")?.id}-${at}`;
      span.dataset.at = String(at);
      span.setAttribute("role", "option");
      span.setAttribute("aria-selected", "false");
      span.setAttribute("aria-label", `${named(text)}, KL ${digits(kl)}${flip ? ", likeliest differs" : ""}${inside ? ", the texts part" : ""}`);
      span.style.setProperty("--v", strength(kl).toFixed(3));
      return span;
    });
    const before = /** @type {Element} */ (this.body.firstElementChild);
    this.body.replaceChildren(before, ...spans);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const last = this.units.length - 1;
    /** @type {Record<string, number>} */
    const to = { ArrowRight: this.at + 1, ArrowDown: this.at + 1, ArrowLeft: this.at - 1, ArrowUp: this.at - 1, Home: 0, End: last };
    if (!(event.key in to) || last < 0) return;
    event.preventDefault();
    this.point(Math.min(last, Math.max(0, to[event.key])));
  }

  /** Tells of one token. @param {number} at */
  point(at) {
    const unit = this.units[at];
    if (!unit) return;
    for (const [place, selected] of /** @type {[number, boolean][]} */ ([[this.at, false], [at, true]])) {
      const span = this.body.querySelector(`[data-at="${place}"]`);
      span?.classList.toggle("at", selected);
      span?.setAttribute("aria-selected", String(selected));
      if (selected) span?.scrollIntoView({ block: "nearest" });
      if (selected && span) this.body.setAttribute("aria-activedescendant", span.id);
    }
    this.at = at;
    const of = this.names.map((name, which) => {
      const likely = unit.likely[which].map((each) => `${named(each.name)} ${percent(each.p)}`).join(", ");
      return `${name}: ${percent(unit.p[which])}, likeliest ${likely}`;
    });
    say("token", `${named(unit.text)}: KL ${digits(unit.kl)} nats. ${of.join(". ")}.`);
  }
}

/**
 * Two models that continue prompts or read texts, one at a time.
 * @extends {Form<PairFacts>}
 */
class Comparer extends Form {
  /** @param {Engine} engine @param {PairFacts} facts */
  constructor(engine, facts) {
    super(engine, facts, { busy: "lanes", ways: ["continues", "answers", "reads"], chat: "answers", working: "Working …" });
  }

  turn() {
    const answers = control("answers").checked;
    this.prompt(control("reads").checked ? "Text" : answers ? "Message" : "Prompt", answers);
    element("how").hidden = control("fields").disabled = control("reads").checked;
  }

  async run() {
    await (control("reads").checked ? this.read() : this.write());
    return "Done.";
  }

  /** @param {boolean} working */
  begin(working) {
    super.begin(working);
    if (!working) return;
    say("token", "");
    element("lanes").replaceChildren();
  }

  /** @param {string} title @param {string} given */
  lane(title, given) {
    const lane = new Lane(title, given, this.facts.names);
    element("lanes").append(lane.element);
    return lane;
  }

  /** What is said of a text that both have read. @param {Reading} read */
  measured({ tokens, kl, flips, ppl }) {
    const error = Number.isNaN(kl.error) ? "" : ` ± ${digits(kl.error)}`;
    const [first, second] = this.facts.names.map((name, which) => `${name} ${ppl[which].toFixed(3)}`);
    return [`${tokens} tokens`, `mean KL ${digits(kl.mean)}${error} nats`, `${flips} differ in the likeliest`, `perplexity: ${first}, ${second}`];
  }

  /** Both models continue the prompt or answer the message. */
  async write() {
    const prompt = control("prompt").value;
    const chats = control("answers").checked;
    const lanes = this.facts.names.map((name) => this.lane(name, chats ? "" : prompt));
    /** @type {(Reading | undefined)[]} */
    const reads = [];
    const wanted = { prompt: chats ? [{ role: "user", content: prompt }] : prompt, count: Number(control("count").value), options: chosen() };
    const { ended } = await this.engine.call("write", wanted, ({ which, text, read }) => {
      if (text !== undefined) lanes[which].more(text);
      if (read) reads[which] = read;
    });
    for (const [which, lane] of lanes.entries()) {
      const { reason, tokens, ms, first, parted } = ended[which];
      const read = reads[which];
      const speed = tokens > 1 ? [`${((1000 * (tokens - 1)) / (ms - first)).toFixed(1)} tokens/s`] : [];
      if (read) lane.show(read.units, parted);
      lane.facts.textContent = [...(read ? this.measured(read) : [`${tokens} tokens`]), ...speed, ENDED[reason]].join(" · ");
    }
  }

  /** Both models read the text. */
  async read() {
    const lane = this.lane("The text", "");
    await this.engine.call("score", { text: control("prompt").value }, ({ read }) => {
      lane.show(read.units, null);
      lane.facts.textContent = this.measured(read).join(" · ");
    });
  }
}

for (const key of document.querySelectorAll(".key[data-kl]")) {
  const { dataset, style } = /** @type {HTMLElement} */ (key);
  style.setProperty("--v", strength(Number(dataset.kl)).toFixed(3));
}
Engine.load(SERVICE, loading).then(([engine, facts]) => new Comparer(engine, facts).ready(), fail);

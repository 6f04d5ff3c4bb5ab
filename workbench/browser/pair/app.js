// The page of two models. What comes from files or the models is written as text, never as markup.

import { megabytes } from "./browser/device.js";
import { Engine } from "./browser/engine.js";
import { BrowserError } from "./browser/errors.js";
import { PROGRAMS } from "./browser/loader.js";
import { forgetPage, keepPage } from "./browser/offline.js";

/** @typedef {import("./browser/pair.js").Unit} Unit */

const element = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
const control = (/** @type {string} */ id) => /** @type {HTMLInputElement} */ (document.getElementById(id));
const say = (/** @type {string} */ id, /** @type {string} */ text) => (element(id).textContent = text);

/** Who answers for two models: a worker, or the page itself where only that has WebGPU. */
const PAIR = { worker: new URL("browser/pair_worker.js", document.baseURI), calls: () => import("./browser/pair.js") };
const NUMBERS = ["temperature", "topK", "topP", "minP", "repetitionPenalty", "seed"];
/** @type {Record<string, string>} */
const ENDED = { eos: "ended by the model", length: "as long as asked for", context: "the context is full", stopped: "stopped" };
/** Errors after which the page goes on as it is. */
const HARMLESS = new Set(["input", "context", "not-finite"]);
/** Characters that are not seen, or that move what stands around them. */
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const visible = (/** @type {string} */ text) =>
  text.replace(UNSEEN, (c) => `⟨U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
/** A token by itself: spaces at its ends and line ends are seen too. @param {string} text */
const named = (text) => `“${visible(text).replaceAll("\n", "↵").replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length))}”`;
const percent = (/** @type {number} */ p) => `${(100 * p).toFixed(p < 0.1 ? 2 : 1)} %`;
const digits = (/** @type {number} */ value) => Number(value.toPrecision(3)).toString();
/** How strongly a KL is coloured, 0 to 1: from 0.001 to 1 nat on a logarithmic scale. @param {number} kl */
const strength = (kl) => Math.min(1, Math.max(0, 1 + Math.log10(kl + 1e-12) / 3));

/** Tells what went wrong; errors that no one foresaw go to the console too. @param {unknown} error */
function fail(error) {
  const known = error instanceof BrowserError;
  if (!known) console.error(error);
  say("problem", known ? error.message : `Something unforeseen happened: ${error}`);
  element("alert").hidden = false;
  element("again").hidden = known && HARMLESS.has(error.kind);
  element("progress").hidden = true;
  say("status", "");
  return known && HARMLESS.has(error.kind);
}

/** One text: a listbox of tokens with one tab stop. */
class Lane {
  /** @param {string} title @param {string} given what stands in front @param {string[]} names of the models */
  constructor(title, given, names) {
    this.names = names;
    /** @type {Unit[]} */
    this.units = [];
    this.at = -1;
    const heading = document.createElement("h2");
    heading.textContent = title;
    heading.id = `lane-${document.querySelectorAll(".lane").length}`;
    this.facts = document.createElement("p");
    this.facts.className = "facts";
    this.body = document.createElement("div");
    this.body.className = "text";
    this.body.tabIndex = 0;
    this.body.dir = "auto";
    this.body.setAttribute("role", "listbox");
    this.body.setAttribute("aria-labelledby", heading.id);
    const before = document.createElement("span");
    before.className = "given";
    before.setAttribute("role", "presentation");
    before.textContent = visible(given);
    this.body.append(before);
    this.element = document.createElement("section");
    this.element.className = "lane";
    this.element.append(heading, this.facts, this.body);
    this.body.addEventListener("keydown", (event) => this.key(event));
    this.body.addEventListener("focus", () => this.point(Math.max(this.at, 0)));
    this.body.addEventListener("click", ({ target }) => {
      const at = /** @type {HTMLElement} */ (target).dataset.at;
      if (at !== undefined) this.point(Number(at));
    });
  }

  /** Text that comes, before anything is known of its tokens. @param {string} text */
  more(text) {
    const follow = this.body.scrollTop + this.body.clientHeight >= this.body.scrollHeight - 8;
    this.body.append(visible(text));
    if (follow) this.body.scrollTop = this.body.scrollHeight;
  }

  /** Tokens with what both models say of them. @param {Unit[]} units @param {number | null} parted tokens that texts share */
  show(units, parted) {
    this.units = units;
    let tokens = 0;
    const made = units.map(({ text, tokens: count, kl, flip }, at) => {
      const span = document.createElement("span");
      const inside = parted !== null && parted >= tokens && parted < tokens + count;
      tokens += count;
      span.className = ["unit", ...(flip ? ["flip"] : []), ...(inside ? ["parted"] : [])].join(" ");
      span.id = `${this.element.querySelector("h2")?.id}-${at}`;
      span.dataset.at = String(at);
      span.setAttribute("role", "option");
      span.setAttribute("aria-selected", "false");
      span.setAttribute("aria-label", `${named(text)}, KL ${digits(kl)}${flip ? ", likeliest differs" : ""}${inside ? ", the texts part" : ""}`);
      span.style.setProperty("--v", strength(kl).toFixed(3));
      span.textContent = visible(text) || "▫";
      return span;
    });
    const before = /** @type {Element} */ (this.body.firstElementChild);
    this.body.replaceChildren(before, ...made);
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

/** Two models that continue prompts or read texts, one at a time. */
class Comparer {
  /** @param {Engine} engine @param {import("./browser/pair.js").Facts} facts */
  constructor(engine, facts) {
    this.engine = engine;
    this.facts = facts;
    this.usable = true;
    this.working = false;
  }

  ready() {
    const { names, adapter, memory, chat, kept, unkept, bundles, certificate } = this.facts;
    const title = names.join(" beside ");
    document.title = title;
    say("name", title);
    element("progress").hidden = true;
    control("write").disabled = false;
    control("answers").disabled = !chat;
    say("status", "Ready.");
    say("adapter", adapter);
    say("memory", megabytes(memory));
    say("kept", kept ? "the models" : `not: ${unkept}`);
    element("forget").hidden = !kept;
    element("certify").hidden = !certificate;
    element("form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.working) this.work();
    });
    for (const id of ["continues", "answers", "reads"]) element(id).addEventListener("change", () => this.turn());
    element("stop").addEventListener("click", () => this.stop());
    element("forget").addEventListener("click", () => this.forget());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.stop();
      const form = /** @type {HTMLFormElement} */ (element("form"));
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    const files = [PROGRAMS + bundles[0], `beside/${PROGRAMS}${bundles[1]}`];
    if (kept) keepPage(files).then((done) => done && say("kept", "all of it; this page works without a network"), console.warn);
  }

  turn() {
    say("prompt-label", control("reads").checked ? "Text" : control("answers").checked ? "Message" : "Prompt");
    element("how").hidden = control("reads").checked;
  }

  stop() {
    if (this.working) this.engine.call("stop");
  }

  async forget() {
    await Promise.all([this.engine.call("forget"), forgetPage()]);
    say("kept", "nothing any more");
    element("forget").hidden = true;
  }

  async work() {
    this.begin(true);
    try {
      await (control("reads").checked ? this.read() : this.write());
      say("status", "Done.");
    } catch (error) {
      this.usable = fail(error);
    } finally {
      this.begin(false);
    }
  }

  /** @param {boolean} working */
  begin(working) {
    this.working = working;
    control("write").disabled = working || !this.usable;
    control("stop").disabled = !working;
    for (const id of ["continues", "answers", "reads"]) control(id).disabled = working || (id === "answers" && !this.facts.chat);
    element("lanes").setAttribute("aria-busy", String(working)); // screen readers then read the texts once, whole
    if (!working) return;
    element("alert").hidden = true;
    say("status", "Working …");
    say("token", "");
    element("lanes").replaceChildren();
  }

  /** @param {string} title @param {string} given */
  lane(title, given) {
    const made = new Lane(title, given, this.facts.names);
    element("lanes").append(made.element);
    return made;
  }

  /** What is said of a text that both have read. @param {import("./browser/pair.js").Read} read */
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
    /** @type {(import("./browser/pair.js").Read | undefined)[]} */
    const reads = [];
    const options = Object.fromEntries(NUMBERS.map((id) => [id, Number(control(id).value)]));
    const wanted = { prompt: chats ? [{ role: "user", content: prompt }] : prompt, count: Number(control("count").value), options };
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
element("again").addEventListener("click", () => location.reload());
Engine.load({ base: document.baseURI, keep: true }, ({ which, done, total }) => {
  control("progress").value = /** @type {any} */ ((which + done / total) / 2);
  say("status", `Loading model ${which + 1} of 2: ${megabytes(done)} of ${megabytes(total)}${done === total ? "; preparing the GPU …" : ""}`);
}, PAIR).then(([engine, facts]) => new Comparer(engine, facts).ready(), fail);

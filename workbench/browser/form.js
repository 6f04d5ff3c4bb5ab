// What the pages of one model and of two share: a form that does one thing at a time, and what is told beside it. What comes
// from files or models is text, never markup.

import { megabytes } from "./device.js";
import { BrowserError } from "./errors.js";
import { forgetPage, keepPage } from "./storage.js";

export const element = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
export const control = (/** @type {string} */ id) => /** @type {HTMLInputElement} */ (document.getElementById(id));
export const say = (/** @type {string} */ id, /** @type {string} */ text) => (element(id).textContent = text);

/** @param {string} tag @param {string} [text] @param {string} [name] of a class */
export function made(tag, text = "", name = "") {
  const one = document.createElement(tag);
  one.textContent = text;
  one.className = name;
  return one;
}

/**
 * Text that comes; an end in sight stays there.
 * @param {HTMLElement} log @param {string} text @param {HTMLElement} [into]
 */
export function append(log, text, into = log) {
  const follow = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  into.append(text);
  if (follow) log.scrollTop = log.scrollHeight;
}

const NUMBERS = ["temperature", "topK", "topP", "minP", "repetitionPenalty", "seed"];
const HARMLESS = ["input", "context", "not-finite"];

/** As the fields say whose names end so. @returns {Options} */
export const chosen = (end = "") => Object.fromEntries(NUMBERS.map((id) => [id, Number(control(id + end).value)]));

/**
 * Tells what went wrong; whether the page goes on. Errors that no one foresaw go to the console too.
 * @param {unknown} error
 */
export function fail(error) {
  const known = error instanceof BrowserError;
  const harmless = known && HARMLESS.includes(error.kind);
  if (!known) console.error(error);
  say("problem", known ? error.message : `Something unforeseen happened: ${error}`);
  element("alert").hidden = false;
  element("alert").scrollIntoView({ block: "nearest" });
  element("again").hidden = harmless;
  element("progress").hidden = true;
  say("status", "");
  return harmless;
}

/** How far loading has come. @param {Progress} progress */
export function loading({ done, total, which = 0, of = 1 }) {
  const what = of > 1 ? ` model ${which + 1} of ${of}` : "";
  control("progress").value = /** @type {any} */ ((which + done / total) / of);
  say("status", `Loading${what}: ${megabytes(done)} of ${megabytes(total)}${done === total ? "; preparing the GPU …" : ""}`);
}

/** One thing at a time, begun by the form and ended by itself, a button or a key. @template {Facts} Known */
export class Form {
  /** @param {import("./port.js").Engine} engine @param {Known} facts @param {Manner} manner */
  constructor(engine, facts, manner) {
    this.engine = engine;
    this.facts = facts;
    this.manner = manner;
    this.usable = true;
    this.working = false;
  }

  /** Tells what is known of the models that were loaded. */
  loaded() {
    const { title, files, adapter, memory, unkept, activations, offered } = this.facts;
    document.title = title;
    say("name", title);
    element("progress").hidden = true;
    say("adapter", adapter);
    say("memory", megabytes(memory));
    say("kept", unkept ? `not: ${unkept}` : "the weights");
    element("forget").hidden = unkept !== "";
    element("activations").replaceChildren();
    say("lacking", "");
    for (const [kind, lacks] of Object.entries(offered)) {
      const name = kind.replace("int", "INT");
      const option = new Option(name, kind, false, kind === activations);
      option.disabled = lacks !== "";
      element("activations").append(option);
      if (lacks) element("lacking").append(` ${name} needs ${lacks}, which is not here.`);
    }
    if (unkept) return;
    keepPage(files).then((done) => done && say("kept", "all of it; this page works without a network"), console.warn);
  }

  /** Begins, in a chat where there can be one. */
  ready() {
    const { chat, certificate } = this.facts;
    this.loaded();
    if (chat) control(this.manner.chat).checked = true;
    this.turn();
    this.begin(false);
    say("status", "Ready.");
    element("certify").hidden = !certificate;
    const form = /** @type {HTMLFormElement} */ (element("form"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.working) return;
      this.work(() => {
        const running = this.run();
        element(this.manner.busy).scrollIntoView({ block: "nearest" });
        return running;
      });
    });
    const select = control("activations");
    select.addEventListener("change", () => this.work(() => this.reload()).then(() => select.focus()));
    // what is wrong may be out of sight
    form.addEventListener("invalid", () => form.querySelector("details")?.setAttribute("open", ""), true);
    for (const id of this.manner.ways) element(id).addEventListener("change", () => this.turn());
    element("stop").addEventListener("click", () => this.stop());
    element("forget").addEventListener("click", () => this.forget());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.stop();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
  }

  /**
   * What is written into the prompt: a text to go on from, or a message, which is never empty.
   * @param {string} label @param {boolean} message
   */
  prompt(label, message) {
    const prompt = control("prompt");
    say("prompt-label", label);
    prompt.required = message;
    if (prompt.value === (message ? prompt.defaultValue : "")) prompt.value = message ? "" : prompt.defaultValue;
  }

  /** To another way of using the page, which pages have of their own. */
  turn() {}

  /** What the form asks for, which pages do; how it ended. */
  async run() {
    return "";
  }

  stop() {
    if (this.working) this.engine.call("stop");
  }

  async forget() {
    await Promise.all([this.engine.call("forget"), forgetPage()]);
    say("kept", "nothing any more");
    element("forget").hidden = true;
  }

  /** Loads what computes in the activations that are chosen. */
  async reload() {
    const given = { base: document.baseURI, activations: control("activations").value };
    control("stop").disabled = true; // there is no text yet
    element("progress").hidden = false;
    control("progress").value = "0";
    say("status", "Loading …");
    this.facts = await this.engine.call("load", given, loading);
    this.loaded();
    return "Ready.";
  }

  /** @param {() => Promise<string>} what */
  async work(what) {
    this.begin(true);
    try {
      say("status", await what());
    } catch (error) {
      this.usable = fail(error);
    } finally {
      this.begin(false);
    }
  }

  /** @param {boolean} working */
  begin(working) {
    const { busy, ways, chat } = this.manner;
    const [next, last] = working ? ["stop", "write"] : ["write", "stop"];
    const focused = document.activeElement === element(last); // a button that is disabled loses it
    this.working = working;
    control("write").disabled = working || !this.usable;
    control("stop").disabled = !working;
    if (focused) element(next).focus();
    for (const id of ways) control(id).disabled = working || (id === chat && !this.facts.chat);
    control("activations").disabled = working || !this.usable || Object.keys(this.facts.offered).length < 2;
    element(busy).setAttribute("aria-busy", String(working)); // screen readers then read the texts once, whole
    if (!working) return;
    element("alert").hidden = true;
    say("status", this.manner.working);
  }
}

element("again").addEventListener("click", () => location.reload());

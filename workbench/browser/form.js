// What the pages of one model and of two share: a form that does one thing at a time, and what is told beside it. What comes
// from files or models is written as text, never as markup.

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
 * Text that comes; where the end of a log was in sight, it stays there.
 * @param {HTMLElement} log @param {string} text @param {HTMLElement} [into]
 */
export function append(log, text, into = log) {
  const follow = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  into.append(text);
  if (follow) log.scrollTop = log.scrollHeight;
}

const NUMBERS = ["temperature", "topK", "topP", "minP", "repetitionPenalty", "seed"];
const HARMLESS = ["input", "context", "not-finite"];

/** How tokens are chosen, as the fields say whose names end so. @returns {Options} */
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

/**
 * How far loading has come.
 * @param {string} what @param {number} before of all, 0 to 1 @param {number} share @param {Progress} progress
 */
export function loading(what, before, share, { done, total }) {
  control("progress").value = /** @type {any} */ (before + (share * done) / total);
  say("status", `${what}: ${megabytes(done)} of ${megabytes(total)}${done === total ? "; preparing the GPU …" : ""}`);
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

  /** @param {string} title @param {string} what the browser keeps @param {string[]} files kept with the page */
  ready(title, what, files) {
    const { adapter, memory, kept, unkept, certificate } = this.facts;
    document.title = title;
    say("name", title);
    element("progress").hidden = true;
    this.begin(false);
    say("status", "Ready.");
    say("adapter", adapter);
    say("memory", megabytes(memory));
    say("kept", kept ? what : `not: ${unkept}`);
    element("forget").hidden = !kept;
    element("certify").hidden = !certificate;
    const form = /** @type {HTMLFormElement} */ (element("form"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.working) this.work();
    });
    // what is wrong may be out of sight
    form.addEventListener("invalid", () => form.querySelector("details")?.setAttribute("open", ""), true);
    for (const id of this.manner.ways) element(id).addEventListener("change", () => this.turn());
    element("stop").addEventListener("click", () => this.stop());
    element("forget").addEventListener("click", () => this.forget());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.stop();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    if (kept) keepPage(files).then((done) => done && say("kept", "all of it; this page works without a network"), console.warn);
  }

  /** To another way of using the page. */
  turn() {
    throw new Error("a page says what its ways are");
  }

  /** What the form asks for; how it ended. @returns {Promise<string>} */
  run() {
    throw new Error("a page says what it does");
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
      const running = this.run();
      element(this.manner.busy).scrollIntoView({ block: "nearest" });
      say("status", await running);
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
    element(busy).setAttribute("aria-busy", String(working)); // screen readers then read the texts once, whole
    if (!working) return;
    element("alert").hidden = true;
    say("status", this.manner.working);
  }
}

element("again").addEventListener("click", () => location.reload());

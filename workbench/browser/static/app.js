// The page: one model, one text or conversation. What comes from files or the model is written as text, never as markup.

import { megabytes } from "./browser/device.js";
import { Engine } from "./browser/engine.js";
import { BrowserError } from "./browser/errors.js";
import { PROGRAMS } from "./browser/loader.js";
import { keepPage, forgetPage } from "./browser/offline.js";

const element = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
const control = (/** @type {string} */ id) => /** @type {HTMLInputElement} */ (document.getElementById(id));
const say = (/** @type {string} */ id, /** @type {string} */ text) => (element(id).textContent = text);

const NUMBERS = ["temperature", "topK", "topP", "minP", "repetitionPenalty", "seed"];
/** @type {Record<import("./browser/service.js").Ended["reason"], string>} */
const ENDED = {
  eos: "The model ended the text.",
  length: "As many tokens as were asked for.",
  context: "The model's context is full.",
  stop: "A text came before which to stop.",
  stopped: "Stopped.",
};
/** Errors after which the page goes on as it is. */
const HARMLESS = new Set(["input", "context", "not-finite"]);

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

/** A piece of the text or of the conversation. @param {string} tag @param {string} text @param {string} [name] of a class */
function written(tag, text, name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = name;
  return made;
}

/** Continues prompts or answers in a chat, one at a time. */
class Writer {
  /** @param {Engine} engine @param {import("./browser/service.js").Facts} facts */
  constructor(engine, facts) {
    this.engine = engine;
    this.facts = facts;
    this.usable = true;
    this.writing = false;
    /** @type {import("./browser/text.js").Message[]} */
    this.talk = [];
  }

  ready() {
    const { name, adapter, memory, chat, kept, unkept, bundle, certificate } = this.facts;
    document.title = name;
    say("name", name);
    element("progress").hidden = true;
    control("write").disabled = false;
    control("chats").disabled = !chat;
    say("status", "Ready.");
    say("adapter", adapter);
    say("memory", megabytes(memory));
    say("kept", kept ? "the model" : `not: ${unkept}`);
    element("forget").hidden = !kept;
    element("certify").hidden = !certificate;
    element("form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.writing) this.write();
    });
    for (const id of ["continues", "chats"]) element(id).addEventListener("change", () => this.turn());
    element("stop").addEventListener("click", () => this.stop());
    element("fresh").addEventListener("click", () => this.turn());
    element("forget").addEventListener("click", () => this.forget());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.stop();
      const form = /** @type {HTMLFormElement} */ (element("form"));
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    if (kept) keepPage([PROGRAMS + bundle]).then((done) => done && say("kept", "all of it; this page works without a network"), console.warn);
  }

  /** To texts, or to a new chat. */
  turn() {
    const chats = control("chats").checked;
    this.talk = [];
    element("text").replaceChildren();
    say("prompt-label", chats ? "Message" : "Prompt");
    say("text-label", chats ? "Chat" : "Text");
    say("write", chats ? "Send" : "Write");
    for (const id of ["fresh", "system-label"]) element(id).hidden = !chats;
    if (chats) control("prompt").value = "";
  }

  stop() {
    if (this.writing) this.engine.call("stop");
  }

  async forget() {
    await Promise.all([this.engine.call("forget"), forgetPage()]);
    say("kept", "nothing any more");
    element("forget").hidden = true;
  }

  async write() {
    this.begin(true);
    try {
      const { reason } = await (control("chats").checked ? this.answer() : this.text());
      say("status", ENDED[reason]);
    } catch (error) {
      this.usable = fail(error);
    } finally {
      this.begin(false);
    }
  }

  /** @param {boolean} writing */
  begin(writing) {
    this.writing = writing;
    control("write").disabled = writing || !this.usable;
    control("stop").disabled = !writing;
    for (const id of ["fresh", "continues", "chats"]) control(id).disabled = writing || (id === "chats" && !this.facts.chat);
    element("text").setAttribute("aria-busy", String(writing)); // screen readers then read the text once, whole
    if (!writing) return;
    element("alert").hidden = true;
    say("status", "Writing …");
    for (const id of ["first", "speed", "tokens"]) say(id, "–");
  }

  /** Continues the prompt. */
  text() {
    const prompt = control("prompt").value;
    const more = written("span", "", "written");
    element("text").replaceChildren(written("span", prompt, "given"), more);
    return this.stream(prompt, more);
  }

  /** Answers the message; where that fails, the conversation is what it was. */
  async answer() {
    const message = control("prompt").value;
    const system = control("system").value;
    const log = element("text");
    /** @type {import("./browser/text.js").Message[]} */
    const asked = [...this.talk, { role: "user", content: message }];
    const all = system ? [{ role: "system", content: system }, ...asked] : asked;
    const turn = document.createElement("article");
    const more = written("p", "", "written");
    turn.append(written("h3", "You"), written("p", message, "given"), written("h3", "Model"), more);
    log.append(turn);
    try {
      const ended = await this.stream(all, more);
      this.talk = [...asked, { role: "assistant", content: more.textContent ?? "" }];
      control("prompt").value = "";
      control("prompt").focus();
      return ended;
    } catch (error) {
      turn.remove();
      throw error;
    }
  }

  /**
   * Writes the text that comes.
   * @param {import("./browser/service.js").Wanted["prompt"]} prompt
   * @param {HTMLElement} into
   * @returns {Promise<import("./browser/service.js").Ended>}
   */
  async stream(prompt, into) {
    const options = Object.fromEntries(NUMBERS.map((id) => [id, Number(control(id).value)]));
    const stop = control("stops").value.split("\n").filter((line) => line);
    const log = element("text");
    let given = 0;
    let [first, firstTokens] = [0, 0];
    const tell = (/** @type {number} */ tokens, /** @type {number} */ ms) => {
      say("tokens", `${given} + ${tokens} of ${this.facts.capacity}`);
      if (tokens > firstTokens) say("speed", ((1000 * (tokens - firstTokens)) / (ms - first)).toFixed(1));
    };
    const wanted = { prompt, count: Number(control("count").value), options, stop };
    const ended = await this.engine.call("write", wanted, (event) => {
      if (event.given !== undefined) return (given = event.given);
      const follow = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
      into.append(event.text);
      if (follow) log.scrollTop = log.scrollHeight;
      if (!first) {
        [first, firstTokens] = [event.ms, event.tokens];
        say("first", `${(first / 1000).toFixed(2)} s`);
      }
      return tell(event.tokens, event.ms);
    });
    tell(ended.tokens, ended.ms);
    return ended;
  }
}

element("again").addEventListener("click", () => location.reload());
Engine.load({ base: document.baseURI, keep: true }, ({ done, total }) => {
  control("progress").value = /** @type {any} */ (done / total);
  say("status", `Loading: ${megabytes(done)} of ${megabytes(total)}${done === total ? "; preparing the GPU …" : ""}`);
}).then(([engine, facts]) => new Writer(engine, facts).ready(), fail);

// The page: one model, one text at a time. What comes from files or the model is written as text, never as markup.

import { megabytes } from "./browser/device.js";
import { readJson } from "./browser/loader.js";
import { BrowserError, Model, overHttp } from "./browser/model.js";
import { Text } from "./browser/text.js";

const element = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
const control = (/** @type {string} */ id) => /** @type {HTMLInputElement} */ (document.getElementById(id));
const say = (/** @type {string} */ id, /** @type {string} */ text) => (element(id).textContent = text);

const ENDED = {
  eos: "The model ended the text.",
  length: "As many tokens as were asked for.",
  context: "The model's context is full.",
  stopped: "Stopped.",
};

/** Tells what went wrong; errors that no one foresaw go to the console too. @param {unknown} error */
function fail(error) {
  const known = error instanceof BrowserError;
  if (!known) console.error(error);
  say("problem", known ? error.message : `Something unforeseen happened: ${error}`);
  element("alert").hidden = false;
  element("again").hidden = known && (error.kind === "input" || error.kind === "context");
  say("status", "");
}

async function load() {
  const read = overHttp(document.baseURI);
  const page = await readJson(read, "page.json");
  document.title = page.name;
  say("name", page.name);
  const model = await Model.load(navigator.gpu, read, {
    onProgress: ({ done, total }) => {
      control("progress").value = /** @type {any} */ (done / total);
      say("status", `Loading: ${megabytes(done)} of ${megabytes(total)}${done === total ? "; preparing the GPU …" : ""}`);
    },
  });
  const text = await Text.load(read, model.tokenizerFiles, page.sample);
  return new Writer(model, await model.session(), text, new Set(page.ends));
}

/** Continues prompts, one at a time. */
class Writer {
  /**
   * @param {Model} model
   * @param {import("./browser/session.js").Session} session
   * @param {Text} text
   * @param {Set<number>} ends tokens that end a text
   */
  constructor(model, session, text, ends) {
    this.model = model;
    this.session = session;
    this.text = text;
    this.ends = ends;
    this.stopping = false;
    this.writing = false;
  }

  ready() {
    element("progress").hidden = true;
    control("write").disabled = false;
    say("status", "Ready.");
    say("adapter", this.model.device.name);
    say("memory", megabytes(this.model.device.allocated));
    element("form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.writing) this.write();
    });
    element("stop").addEventListener("click", () => (this.stopping = true));
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.stopping = true;
      const form = /** @type {HTMLFormElement} */ (element("form"));
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
  }

  async write() {
    this.begin(true);
    try {
      say("status", ENDED[await this.tokens()]);
    } catch (error) {
      fail(error);
    } finally {
      this.begin(false);
    }
  }

  /** @param {boolean} writing */
  begin(writing) {
    this.writing = writing;
    this.stopping = false;
    control("write").disabled = writing || this.model.device.failure !== null;
    control("stop").disabled = !writing;
    element("text").setAttribute("aria-busy", String(writing)); // screen readers then read the text once, whole
    if (!writing) return;
    element("alert").hidden = true;
    say("status", "Writing …");
    for (const id of ["first", "speed", "tokens"]) say(id, "–");
  }

  /** Writes the tokens that come, and returns why they ended. @returns {Promise<keyof typeof ENDED>} */
  async tokens() {
    const prompt = control("prompt").value;
    const given = this.text.encode(prompt);
    say("given", prompt);
    say("written", "");
    /** @type {number[]} */
    const ids = [];
    const began = performance.now();
    let first = 0;
    const stream = this.session.generate(given, {
      count: Number(control("count").value),
      options: Object.fromEntries(["temperature", "topK", "topP", "seed"].map((id) => [id, Number(control(id).value)])),
      ends: this.ends,
    });
    const show = (/** @type {boolean} */ open) => {
      const log = element("text");
      const follow = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
      say("written", this.text.continuation(given, ids, open));
      if (follow) log.scrollTop = log.scrollHeight;
      say("tokens", `${given.length} + ${ids.length} of ${this.model.capacity}`);
      if (first) say("first", `${((first - began) / 1000).toFixed(2)} s`);
      if (ids.length > 1) say("speed", ((ids.length - 1) / ((performance.now() - first) / 1000)).toFixed(1));
    };
    for (;;) {
      const { value, done } = await stream.next();
      if (done || this.stopping) {
        await stream.return("length");
        show(false);
        return done ? value : "stopped";
      }
      ids.push(value);
      first ||= performance.now();
      show(true);
    }
  }
}

element("again").addEventListener("click", () => location.reload());
load().then((writer) => writer.ready(), fail);

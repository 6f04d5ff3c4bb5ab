// A page's model, in its worker, or in the page where workers have no WebGPU.

import { BrowserError } from "./errors.js";
import { PROGRAMS, readJson } from "./loader.js";
import { Model, overHttp } from "./model.js";
import { serve } from "./port.js";
import { forget } from "./storage.js";
import { Detokenizer, StopStrings, streamText, Text } from "./text.js";

/** One model and one session. */
class Service {
  /** @param {GPU | undefined} gpu */
  constructor(gpu) {
    this.gpu = gpu;
    this.writing = false;
    this.stopping = false;
  }

  /**
   * In place of what was loaded before.
   * @param {{base: string, activations?: string}} given @param {(event: object) => void} tell @returns {Promise<Facts>}
   */
  async load({ base, activations }, tell) {
    const read = overHttp(base);
    this.model?.close();
    this.model = undefined;
    const { name, sample, chat, ends, certificate } = await readJson(read, "page.json");
    const model = await Model.load(this.gpu, read, { activations, keep: true, onProgress: tell });
    this.model = model;
    this.text = await Text.load(read, model.tokenizerFiles, sample, chat);
    this.session = await model.session();
    this.ends = new Set(ends);
    return { ...model.facts, title: name, files: [PROGRAMS + model.bundle], chat: chat !== null, certificate };
  }

  /**
   * One text, or two, at a time.
   * @template Result
   * @param {(loaded: {model: Model, session: Session, text: Text}, since: () => number) => Promise<Result>} work
   * @returns {Promise<Result>}
   */
  async alone(work) {
    const { model, session, text } = this;
    if (!model || !session || !text) throw new BrowserError("input", "no model is loaded");
    if (this.writing) throw new BrowserError("input", "one text is written at a time");
    [this.writing, this.stopping] = [true, false];
    const began = performance.now();
    try {
      return await work({ model, session, text }, () => performance.now() - began);
    } finally {
      this.writing = false;
    }
  }

  /** @param {Wanted} given @param {(event: Begun | Piece) => void} tell @returns {Promise<Ended>} */
  write({ prompt, count, options, stop }, tell) {
    return this.alone(async ({ session, text }, since) => {
      const ids = typeof prompt === "string" ? text.encode(prompt) : text.encodeChat(prompt);
      tell({ given: ids.length });
      const tokens = session.generate(ids, { count, options, ends: this.ends });
      return streamText(text, tokens, { prompt: ids, stop, since, wanted: () => !this.stopping, tell });
    });
  }

  /**
   * A prompt continued twice, with settings of its own each time, in shared steps.
   * @param {Together & {prompt: string, stop?: string[]}} given @param {(event: Begun | RowPiece) => void} tell
   * @returns {Promise<BothEnded>}
   */
  twice({ prompt, count, settings, stop = [] }, tell) {
    return this.alone(async ({ model, session, text }, since) => {
      const ids = text.encode(prompt);
      tell({ given: ids.length });
      const { ROWS, together } = await import("./together.js"); // few ask for it
      const texts = settings.map(() => ({ pieces: new Detokenizer(text, ids), stops: new StopStrings(stop) }));
      let tokens = 0;
      const say = (/** @type {number} */ row, /** @type {string} */ piece) => {
        if (piece) tell({ row, text: piece, tokens, ms: since() });
      };
      const enough = (/** @type {number} */ row) => this.stopping || texts[row].stops.stopped !== null;
      if (session.sequences < ROWS) {
        session.close(); // each has a cache
        this.session = session = await model.session(ROWS);
      }
      const stream = together(session, ids, { count, settings, ends: this.ends, enough });
      let next = await stream.next();
      for (; !next.done; next = await stream.next()) {
        tokens += next.value.filter((token) => token !== undefined).length;
        for (const [row, token] of next.value.entries()) {
          if (token !== undefined) say(row, texts[row].stops.push(texts[row].pieces.push(token)));
        }
      }
      for (const [row, { pieces, stops }] of texts.entries()) say(row, stops.push(pieces.finish()) + stops.finish());
      const reasons = next.value.map((reason, row) => (texts[row].stops.stopped === null ? reason : "stop"));
      return { reasons, tokens, ms: since() };
    });
  }

  /** What is written ends with the next token. */
  stop() {
    this.stopping = true;
  }

  async forget() {
    if (this.model) await forget(this.model.key);
  }
}

/** The calls of a page of one model. @param {GPU | undefined} gpu @returns {Calls} */
export function calls(gpu) {
  const service = new Service(gpu);
  return {
    load: (given, tell) => service.load(given, tell),
    write: (given, tell) => service.write(given, tell),
    twice: (given, tell) => service.twice(given, tell),
    stop: () => service.stop(),
    forget: () => service.forget(),
  };
}

if ("WorkerGlobalScope" in globalThis) serve(/** @type {any} */ (self), calls(navigator.gpu));

// A model for a page: what its worker does.

import { BrowserError } from "./errors.js";
import { readJson } from "./loader.js";
import { Model, overHttp } from "./model.js";
import { forget } from "./storage.js";
import { Text } from "./text.js";
import { Detokenizer, StopStrings, streamText } from "./textstream.js";

/**
 * What is known of a model that is ready. memory: bytes of the GPU. kept: whether the browser's storage holds the whole
 * model, else `unkept` says why not. bundle: the programs that were loaded. certificate: whether there is a page that certifies the adapter.
 * @typedef {{name: string, adapter: string, memory: number, capacity: number, chat: boolean, kept: boolean, unkept: string,
 *   bundle: string, certificate: boolean}} Facts
 */
/**
 * prompt: a text, or a conversation. count: tokens at most. stop: strings that end the text.
 * @typedef {{prompt: string | import("./text.js").Message[], count: number, options?: import("./sampling.js").Options,
 *   stop?: string[]}} Wanted
 */
/** @typedef {{given: number}} Begun tokens of the prompt */
/** @typedef {{text: string, tokens: number, ms: number}} Piece tokens and milliseconds since the call, until now */
/** @typedef {{reasons: Ended["reason"][], tokens: number, ms: number}} Both tokens: of both texts */
/** @typedef {{row: number, text: string, tokens: number, ms: number}} RowPiece of one of two texts; tokens: of both */
/** @typedef {{reason: "eos" | "length" | "context" | "stop" | "stopped", tokens: number, ms: number, first: number}} Ended */

/**
 * Tokens until it is enough; `came` hears of each.
 * @param {ReturnType<import("./session.js").Session["generate"]>} stream
 * @param {() => boolean} stopped
 * @param {(token: number) => void} came
 * @returns {AsyncGenerator<number, Exclude<Ended["reason"], "stop">>}
 */
export async function* counted(stream, stopped, came) {
  try {
    for (;;) {
      const { value, done } = await stream.next();
      if (done) return value;
      if (stopped()) return "stopped";
      came(value);
      yield value;
    }
  } finally {
    await stream.return("length");
  }
}

/** One model and one sequence. */
class Service {
  /** @param {GPU | undefined} gpu */
  constructor(gpu) {
    this.gpu = gpu;
    this.writing = false;
    this.stopping = false;
  }

  /** @param {{base: string, keep: boolean}} given @param {(event: object) => void} tell @returns {Promise<Facts>} */
  async load({ base, keep }, tell) {
    const read = overHttp(base);
    const page = await readJson(read, "page.json");
    const model = await Model.load(this.gpu, read, { keep, onProgress: tell });
    this.model = model;
    this.text = await Text.load(read, model.tokenizerFiles, page.sample, page.chat);
    this.session = await model.session();
    this.ends = new Set(page.ends);
    const { device, player, capacity, bundle } = model;
    const unkept = player.store ? player.store.problem : "this browser has no storage for it here";
    const { name, certificate } = page;
    const found = { name, adapter: device.name, memory: device.allocated, capacity, chat: page.chat !== null, certificate };
    return { ...found, kept: !unkept, unkept, bundle };
  }

  /**
   * One text, or two, at a time.
   * @template Result
   * @param {number} count
   * @param {(session: import("./session.js").Session, text: Text, since: () => number) => Promise<Result>} work
   * @returns {Promise<Result>}
   */
  async alone(count, work) {
    const { session, text } = this;
    if (!session || !text) throw new BrowserError("input", "no model is loaded");
    if (this.writing) throw new BrowserError("input", "one text is written at a time");
    if (!Number.isInteger(count) || count < 1) {
      throw new BrowserError("input", `new tokens = ${count}; allowed: an integer >= 1`);
    }
    [this.writing, this.stopping] = [true, false];
    const began = performance.now();
    try {
      return await work(session, text, () => performance.now() - began);
    } finally {
      this.writing = false;
    }
  }

  /** @param {Wanted} given @param {(event: Begun | Piece) => void} tell @returns {Promise<Ended>} */
  write({ prompt, count, options, stop = [] }, tell) {
    return this.alone(count, async (session, text, since) => {
      const ids = typeof prompt === "string" ? text.encode(prompt) : text.encodeChat(prompt);
      tell({ given: ids.length });
      const ended = { tokens: 0, first: 0 };
      const tokens = counted(session.generate(ids, { count, options, ends: this.ends }), () => this.stopping, () => {
        ended.tokens += 1;
        ended.first ||= since();
      });
      const pieces = streamText(text, tokens, ids, stop);
      for (;;) {
        const { value, done } = await pieces.next();
        if (done) return { ...ended, reason: value, ms: since() };
        tell({ ...value, ms: since() });
      }
    });
  }

  /**
   * A prompt continued twice, each time with settings of its own, in shared steps.
   * @param {{prompt: string, count: number, settings: import("./sampling.js").Options[], stop?: string[]}} given
   * @param {(event: Begun | RowPiece) => void} tell
   * @returns {Promise<Both>}
   */
  twice({ prompt, count, settings, stop = [] }, tell) {
    return this.alone(count, async (session, text, since) => {
      const ids = text.encode(prompt);
      tell({ given: ids.length });
      const { ROWS, together } = await import("./together.js"); // few ask for it
      const texts = settings.map(() => ({ pieces: new Detokenizer(text, ids), stops: new StopStrings(stop) }));
      let tokens = 0;
      const say = (/** @type {number} */ row, /** @type {string} */ piece) => {
        if (piece) tell({ row, text: piece, tokens, ms: since() });
      };
      const enough = (/** @type {number} */ row) => this.stopping || texts[row].stops.stopped !== null;
      const stream = together(await this.withRows(session, ROWS), ids, { count, settings, ends: this.ends, enough });
      let next = await stream.next();
      for (; !next.done; next = await stream.next()) {
        tokens += next.value.filter((token) => token !== undefined).length;
        for (const [row, token] of next.value.entries()) {
          if (token !== undefined) say(row, texts[row].stops.push(texts[row].pieces.push(token)));
        }
      }
      for (const [row, { pieces, stops }] of texts.entries()) say(row, stops.push(pieces.finish()) + stops.finish());
      const reasons = next.value.map((reason, row) => {
        if (texts[row].stops.stopped !== null) return "stop";
        return reason === "enough" ? "stopped" : reason;
      });
      return { reasons, tokens, ms: since() };
    });
  }

  /** A session with room for more sequences from now on, in the other's place, since each has a cache. @param {import("./session.js").Session} session @param {number} rows */
  async withRows(session, rows) {
    if (session.sequences >= rows) return session;
    session.close();
    return (this.session = await /** @type {Model} */ (this.model).session(rows));
  }

  /** What is being written ends with the token that comes next. */
  stop() {
    this.stopping = true;
  }

  /** The model is not kept in the browser any longer. */
  async forget() {
    if (this.model) await forget(this.model.key);
  }
}

/**
 * The calls of a page of one model.
 * @param {GPU | undefined} gpu
 * @returns {import("./port.js").Calls}
 */
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

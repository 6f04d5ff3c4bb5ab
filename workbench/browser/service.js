// A model for a page: what its worker does.

import { BrowserError } from "./errors.js";
import { readJson } from "./loader.js";
import { Model, overHttp } from "./model.js";
import { forget } from "./storage.js";
import { Text } from "./text.js";
import { streamText } from "./textstream.js";

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

  /** @param {Wanted} given @param {(event: Begun | Piece) => void} tell @returns {Promise<Ended>} */
  async write({ prompt, count, options, stop = [] }, tell) {
    const { session, text } = this;
    if (!session || !text) throw new BrowserError("input", "no model is loaded");
    if (this.writing) throw new BrowserError("input", "one text is written at a time");
    if (!Number.isInteger(count) || count < 1) {
      throw new BrowserError("input", `new tokens = ${count}; allowed: an integer >= 1`);
    }
    [this.writing, this.stopping] = [true, false];
    const began = performance.now();
    const since = () => performance.now() - began;
    try {
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
    } finally {
      this.writing = false;
    }
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
    stop: () => service.stop(),
    forget: () => service.forget(),
  };
}

// Two models beside each other, in a page's worker. Each continues a prompt, or both read a text; then both say of every token how
// likely it was, and KL(first || second) how far apart they are there.

import { BrowserError, notFinite } from "./errors.js";
import { PROGRAMS, readJson } from "./loader.js";
import { Model, overHttp } from "./model.js";
import { serve } from "./port.js";
import { steps } from "./steps.js";
import { forget } from "./storage.js";
import { Detokenizer, streamText, Text } from "./text.js";

const HEADS = ["last", "all", "greedy", "draw"];
/** Of a step's logits, at most. */
const LOGIT_BYTES = 16 << 20;
/** Tokens told of each. */
const LIKELY = 3;

/** ln of the sum of exp over numbers, in f64. @param {ArrayLike<number>} logits */
function logSum(logits) {
  let largest = -Infinity;
  for (let n = 0; n < logits.length; n++) largest = Math.max(largest, logits[n]);
  let sum = 0;
  for (let n = 0; n < logits.length; n++) sum += Math.exp(logits[n] - largest);
  return largest + Math.log(sum);
}

/**
 * How two models stand to one place of a text, in f64: `divergence` of eval/statistics.py.
 * @param {ArrayLike<number>} first logits @param {ArrayLike<number>} second @param {number} target the token that stands there
 * @returns {{kl: number, nll: [number, number], top: [number, number]}} KL(first || second) and -ln p of the target, in nats
 */
export function divergence(first, second, target) {
  const [a, b] = [logSum(first), logSum(second)];
  let kl = 0;
  const top = /** @type {[number, number]} */ ([0, 0]);
  for (let n = 0; n < first.length; n++) {
    const p = Math.exp(first[n] - a);
    if (p > 0) kl += p * (first[n] - a - (second[n] - b));
    if (first[n] > first[top[0]]) top[0] = n;
    if (second[n] > second[top[1]]) top[1] = n;
  }
  return { kl: Math.max(kl, 0), nll: [a - first[target], b - second[target]], top };
}

/** Mean, and its standard error sd / sqrt(n); NaN for less than two. @param {number[]} values */
export function meanError(values) {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, error: values.length > 1 ? Math.sqrt(squares / (values.length - 1) / values.length) : NaN };
}

/** The largest few, in order. @param {Float32Array} logits @returns {number[]} */
function largest(logits) {
  /** @type {number[]} */
  const found = [];
  for (let n = 0; n < logits.length; n++) {
    if (found.length === LIKELY && logits[n] <= logits[found[LIKELY - 1]]) continue;
    let at = found.length;
    while (at > 0 && logits[n] > logits[found[at - 1]]) at -= 1;
    found.splice(at, 0, n);
    found.length = Math.min(found.length, LIKELY);
  }
  return found;
}

/** Two models and a sequence of each. */
class Pair {
  /** @param {GPU | undefined} gpu */
  constructor(gpu) {
    this.gpu = gpu;
    this.working = false;
    this.stopping = false;
    /** @type {Model[]} */
    this.models = [];
    /** @type {Session[]} */
    this.sessions = [];
    /** @type {Text | undefined} */
    this.text = undefined;
    /** @type {Set<number>} */
    this.ends = new Set();
  }

  /**
   * In place of what was loaded before.
   * @param {{base: string, activations?: string}} given @param {(event: object) => void} tell @returns {Promise<PairFacts>}
   */
  async load({ base, activations }, tell) {
    const read = overHttp(base);
    const page = await readJson(read, "page.json");
    for (const model of this.models.splice(0)) model.close();
    const folders = [read, overHttp(new URL("beside/", base))];
    /** @type {LoadOptions["wanted"]} */
    const wanted = ({ head, tokens }, vocab) =>
      HEADS.includes(head) && (tokens === 1 || head !== "all" || 4 * tokens * vocab <= LOGIT_BYTES);
    for (const [which, from] of folders.entries()) {
      const beside = this.models.map(({ key }) => key);
      const onProgress = (/** @type {Progress} */ event) => tell({ which, of: 2, ...event });
      const model = await Model.load(this.gpu, from, { activations, keep: true, beside, wanted, onProgress });
      this.models.push(model);
      activations = model.activations;
    }
    const [first, second] = this.models;
    if (first.vocabSize !== second.vocabSize) throw new BrowserError("damaged", "the two models have different vocabularies");
    this.ends = new Set(page.ends);
    this.sessions = [await first.session(), await second.session()];
    this.text = await Text.load(read, first.tokenizerFiles, page.sample, page.chat);
    const [one, other] = this.models.map(({ facts }) => facts);
    return {
      ...one,
      title: page.names.join(" beside "),
      names: page.names,
      files: this.models.map(({ bundle }, which) => ["", "beside/"][which] + PROGRAMS + bundle),
      memory: one.memory + other.memory,
      capacity: Math.min(one.capacity, other.capacity),
      chat: page.chat !== null,
      unkept: one.unkept || other.unkept,
      certificate: page.certificate,
    };
  }

  /**
   * Both continue a prompt, the first one first; then both read what each has written.
   * @param {Wanted} given
   * @param {(event: {which: number, text?: string, tokens?: number, ms?: number, read?: Reading}) => void} tell
   * @returns {Promise<{ended: PairEnded[]}>}
   */
  async write({ prompt, count, options }, tell) {
    return this.alone(async (text) => {
      const ids = typeof prompt === "string" ? text.encode(prompt) : text.encodeChat(prompt);
      const ended = [];
      /** @type {number[][]} */
      const written = [];
      for (const which of [0, 1]) {
        written.push([]);
        const began = performance.now();
        const tokens = this.sessions[which].generate(ids, { count, options, ends: this.ends });
        const since = () => performance.now() - began;
        const wanted = (/** @type {number} */ token) => !this.stopping && written[which].push(token) > 0;
        ended.push(await streamText(text, tokens, { prompt: ids, since, wanted, tell: (piece) => tell({ which, ...piece }) }));
      }
      const places = written[0].findIndex((id, n) => n < written[1].length && written[1][n] !== id);
      for (const [which, tokens] of written.entries()) {
        if (tokens.length && !this.stopping) tell({ which, read: await this.read(text, [...ids, ...tokens], ids.length) });
      }
      return { ended: ended.map((each) => ({ ...each, parted: places < 0 ? null : places })) };
    });
  }

  /**
   * @param {{text: string}} given @param {(event: {which: number, read: Reading}) => void} tell
   */
  async score({ text: given }, tell) {
    return this.alone(async (text) => {
      const ids = text.encode(given);
      if (ids.length < 2) throw new BrowserError("input", "the text has less than two tokens: one to predict from and one to predict");
      tell({ which: 0, read: await this.read(text, ids, 1) });
    });
  }

  /** @template Result @param {(text: Text) => Promise<Result>} work @returns {Promise<Result>} */
  async alone(work) {
    if (!this.text) throw new BrowserError("input", "no models are loaded");
    if (this.working) throw new BrowserError("input", "one text is written at a time");
    [this.working, this.stopping] = [true, false];
    for (const { player } of this.models) player.working += 1; // no compiler takes the other's time
    try {
      return await work(this.text);
    } finally {
      for (const { player } of this.models) player.working -= 1;
      this.working = false;
    }
  }

  /**
   * What both say of the tokens behind a place.
   * @param {Text} text @param {number[]} ids @param {number} from at least 1
   * @returns {Promise<Reading>}
   */
  async read(text, ids, from) {
    const inputs = ids.slice(0, -1);
    const streams = [];
    for (const session of this.sessions) {
      session.reset();
      if (from > 1) await session.append(inputs.slice(0, from - 1), true);
      streams.push(steps(session, inputs.slice(from - 1), "all", "logits"));
    }
    const units = new Units(text, ids.slice(0, from));
    for (;;) {
      const [first, second] = [await streams[0].next(), await streams[1].next()];
      if (first.done || second.done || this.stopping) break;
      const { start, count, rows } = first.value;
      const size = rows.length / count;
      for (let row = 0; row < count; row++) {
        const logits = [first.value.rows, second.value.rows].map((all) => all.subarray(row * size, (row + 1) * size));
        units.add(ids[from + start + row], logits[0], logits[1], from + start + row);
      }
    }
    return units.finish();
  }

  stop() {
    this.stopping = true;
  }

  async forget() {
    await Promise.all(this.models.map(({ key }) => forget(key)));
  }
}

/** Tokens put together to pieces of text, with what two models say of them. */
class Units {
  /** @param {Text} text @param {number[]} before ids in front */
  constructor(text, before) {
    this.text = text;
    this.pieces = new Detokenizer(text, before);
    /** @type {Unit[]} */
    this.units = [];
    /** What is known of tokens whose text has not come. @type {Omit<Unit, "text"> | null} */
    this.open = null;
    /** @type {number[]} */
    this.kl = [];
    this.flips = 0;
    this.nll = [0, 0];
  }

  /** @param {number} id @param {Float32Array} first logits @param {Float32Array} second @param {number} position */
  add(id, first, second, position) {
    const { kl, nll, top } = divergence(first, second, id);
    if (!Number.isFinite(nll[0] + nll[1])) throw notFinite(position);
    const flip = top[0] !== top[1];
    this.kl.push(kl);
    this.flips += Number(flip);
    nll.forEach((value, which) => (this.nll[which] += value));
    const before = this.open ?? { tokens: 0, kl: 0, p: [1, 1], flip: false };
    this.open = {
      tokens: before.tokens + 1,
      kl: before.kl + kl,
      p: [before.p[0] * Math.exp(-nll[0]), before.p[1] * Math.exp(-nll[1])],
      likely: [this.likely(first), this.likely(second)],
      flip: before.flip || flip,
    };
    const text = this.pieces.push(id);
    if (text) this.close(text);
  }

  /** @param {Float32Array} logits @returns {Likely[]} */
  likely(logits) {
    const sum = logSum(logits);
    return largest(logits).map((id) => ({ name: this.text.decode([id]) || `token ${id}`, p: Math.exp(logits[id] - sum) }));
  }

  /** @param {string} text */
  close(text) {
    if (this.open) this.units.push({ text, ...this.open });
    this.open = null;
  }

  /** @returns {Reading} */
  finish() {
    const rest = this.pieces.finish();
    this.close(rest); // tokens without a text are a unit too
    const tokens = this.kl.length;
    const ppl = /** @type {[number, number]} */ (this.nll.map((sum) => Math.exp(sum / tokens)));
    return { units: this.units, tokens, kl: meanError(this.kl), flips: this.flips, ppl };
  }
}

/** The calls of a page of two models. @param {GPU | undefined} gpu @returns {Calls} */
export function calls(gpu) {
  const pair = new Pair(gpu);
  return {
    load: (given, tell) => pair.load(given, tell),
    write: (given, tell) => pair.write(given, tell),
    score: (given, tell) => pair.score(given, tell),
    stop: () => pair.stop(),
    forget: () => pair.forget(),
  };
}

if ("WorkerGlobalScope" in globalThis) serve(/** @type {any} */ (self), calls(navigator.gpu));

// One sequence: feeding tokens, and a stream of those that follow, which the device chooses itself.

import { BrowserError, notFinite } from "./errors.js";
import { checkCount, isPlain, optionWords, seenWords } from "./sampling.js";

/** Groups on the device at a time: while one is waited for, the other runs. */
const AHEAD = 2;
/** What the device makes of logits that are all NaN: TOKEN_OF_NAN in workbench/runtime/finite.py. */
const TOKEN_OF_NAN = 0;
/** Likeliest tokens told beside one that was drawn: LIKELY in workbench/models/endings.py. */
const LIKELY = 5;
/** Steps of one token that are sooner done than a program is compiled. */
const FEW_TOKENS = 24;
/** How long a group lasts: longer than the page needs to send the next, shorter than a reader notices. */
const GROUP_MS = 16;

/** @typedef {{steps: number, words: Promise<Words>}} Group on the device */

/**
 * Steps of a group: one at first, then as many as take `GROUP_MS`, measured from the arrival of the one before to its own;
 * where the page is what takes that long, longer groups let it keep up.
 */
class Pace {
  /** @param {number} most */
  constructor(most) {
    this.steps = 1;
    this.most = most;
    /** @type {number | undefined} */
    this.last = undefined;
  }

  /** An idle device gets a group now. */
  begins() {
    this.last = performance.now();
  }

  /** @param {number} steps of a group that came back */
  arrived(steps) {
    const now = performance.now();
    if (this.last !== undefined) {
      const step = Math.max((now - this.last) / steps, 1e-3);
      this.steps = Math.max(1, Math.min(this.most, 2 * this.steps, Math.round(GROUP_MS / step)));
    }
    this.last = now;
  }
}

/** Keys and values of one sequence, or of several, of which most programs know the first. One call at a time. */
export class Session {
  /** @param {Player} player @param {number} vocabSize @param {Buffers} own @param {number} sequences */
  constructor(player, vocabSize, own, sequences) {
    this.player = player;
    this.device = player.device;
    this.vocabSize = vocabSize;
    this.own = own;
    this.sequences = sequences;
    /** Those in the cache. @type {number[]} */
    this.ids = [];
    /** @type {Map<Program, Recorded>} */
    this.recorded = new Map();
    /** @type {GPUBuffer[]} */
    this.free = [];
    const { capacity, steps, back } = player.ending("last")[0].target;
    this.capacity = capacity;
    this.most = steps;
    /** How far back it can go where windows bound the cache; 0: anywhere. */
    this.back = back;
    /** Positions of the cache that were written. */
    this.furthest = 0;
  }

  /** @param {Player} player @param {number} vocabSize @param {number} [sequences] */
  static async open(player, vocabSize, sequences = 1) {
    return new Session(player, vocabSize, await player.allocateOwn(sequences), sequences);
  }

  get position() {
    return this.ids.length;
  }

  /** Whether the cache has what a position sees. @param {number} position */
  holds(position) {
    return !this.back || !position || this.furthest - position <= this.back;
  }

  /** Forget all but the first. @param {number} [count] */
  reset(count = 0) {
    this.ids.length = Math.min(count, this.ids.length);
  }

  close() {
    this.device.release(this.own.values());
    for (const staging of this.free.splice(0)) staging.destroy();
  }

  /**
   * Throws unless ids can be fed, and so many positions be written.
   * @param {number[]} ids @param {number} [count]
   */
  check(ids, count = ids.length) {
    this.device.check();
    const wrong = ids.findIndex((id) => !Number.isInteger(id) || id < 0 || id >= this.vocabSize);
    if (wrong >= 0) {
      throw new BrowserError("input", `token id ${ids[wrong]} at place ${wrong} is outside the vocabulary of ${this.vocabSize}`);
    }
    if (this.position + count > this.capacity) {
      const room = `there is room for ${this.capacity} in all`;
      throw new BrowserError("context", `${count} tokens do not fit behind ${this.position}: ${room}`);
    }
    if (!this.holds(this.position)) {
      throw new BrowserError(
        "context",
        `windows bound the cache, which has come to ${this.furthest} and no longer has what position ${this.position} sees`,
      );
    }
  }

  /** Append tokens; the logits [vocab] after the last one. @param {number[]} ids */
  async feed(ids) {
    if (!ids.length) throw new BrowserError("input", "at least one token is fed");
    const program = await this.append(ids);
    const { buffer, shape } = this.player.value(program, "logits");
    const values = new Float32Array(await this.device.read(buffer, shape.reduce((product, size) => product * size, 4)));
    if (values.every(Number.isFinite)) return values;
    const end = this.position;
    this.reset(end - ids.length);
    throw notFinite(end);
  }

  /**
   * Append tokens, without waiting for the device; the last step's program.
   * @param {number[]} ids at least one
   * @param {boolean} [blind] without logits: where few tokens would wait for a compiler, the greedy program takes them
   */
  async append(ids, blind = false) {
    this.check(ids);
    let program = this.player.fitting("last", ids.length);
    for (let start = 0; start < ids.length; ) {
      const left = ids.length - start;
      program = this.player.fitting("last", left);
      const early = blind && left <= FEW_TOKENS && !this.player.ready.has(program);
      if (early) program = this.player.programs.find(({ target }) => target.head === "greedy") ?? program;
      const recorded = await this.record(program);
      const step = ids.slice(start, start + program.target.tokens);
      const padded = new Uint32Array(program.target.tokens);
      padded.set(step);
      this.write("ids", padded);
      this.submit(recorded, this.position, step.length, 1);
      this.ids.push(...step);
      start += step.length;
    }
    return program;
  }

  /**
   * Feed `token` and hand out the `count` tokens after it; all but the last are in the cache then. What is not taken
   * leaves no trace.
   * @param {number} token @param {number} count @param {Options} [options] greedy by default
   */
  async *stream(token, count, options = {}) {
    const words = optionWords(options);
    this.check([token], count);
    const head = isPlain(options) ? "greedy" : "draw";
    const recorded = await this.record(this.player.ending(head)[0]);
    this.write("ids", Uint32Array.of(token));
    if (head === "draw") {
      this.write("options", words);
      this.write("seen", seenWords(Math.ceil(this.vocabSize / 32) + 1, [...this.ids, token]));
    }
    for (let left = count; left; ) {
      let doubtful = false;
      for await (const { steps, words } of this.groups(recorded, head, this.position, left)) {
        const found = words.subarray(0, steps);
        if (head === "draw" && words[steps]) throw notFinite(this.position + steps);
        doubtful = head === "greedy" && found[steps - 1] === TOKEN_OF_NAN;
        if (doubtful) await this.requireFinite([token, ...found.subarray(0, -1)]);
        for (const next of found) {
          this.ids.push(token);
          token = next;
          left -= 1;
          yield next;
        }
        if (doubtful) break; // what was sent meanwhile is overwritten by the check
      }
      if (doubtful) this.write("ids", Uint32Array.of(token));
    }
  }

  /**
   * What `count` steps leave, as many at a time as come back together: tokens; of drawn ones a word that tells of unusable
   * logits; of told ones then how likely they and others were, and the others' ids.
   * @param {Recorded} recorded @param {"greedy" | "draw" | "told"} head @param {number} start @param {number} count
   * @param {number} [ahead] groups at a time; with one, none runs while nobody waits
   */
  async *groups(recorded, head, start, count, ahead = AHEAD) {
    const pace = new Pace(this.most);
    /** @type {Group[]} */
    const pending = [];
    let sent = 0;
    const fill = () => {
      while (sent < count && pending.length < ahead) {
        const steps = Math.min(pace.steps, count - sent);
        pending.push(this.send(recorded, head, start + sent, steps));
        sent += steps;
      }
    };
    try {
      for (let given = 0; given < count; ) {
        if (ahead === 1) pace.begins();
        fill();
        const group = /** @type {Group} */ (pending.shift());
        const words = await group.words;
        pace.arrived(group.steps);
        given += group.steps;
        if (ahead > 1) fill(); // before the consumer takes its time
        yield { steps: group.steps, words };
      }
    } finally {
      for (const { words: abandoned } of pending) abandoned.catch(() => {});
    }
  }

  /**
   * Throws if a greedy group has ended in NaN: a cache that holds NaN gives nothing else from there on, and so one token
   * until the end, whose step is run again for its logits.
   * @param {number[]} fed tokens, not yet counted as such
   */
  async requireFinite(fed) {
    const before = this.position;
    this.ids.push(...fed.slice(0, -1));
    try {
      await this.feed(fed.slice(-1));
    } finally {
      this.reset(before);
    }
  }

  /**
   * The tokens that follow a prompt, until one of `ends` comes (which is not handed out) or the cache is full; why it ended.
   * @param {number[]} ids
   * @param {{count: number, options?: Options, ends?: Set<number>}} wanted
   * @returns {AsyncGenerator<number, Reason>}
   */
  async *generate(ids, { count, options = {}, ends = new Set() }) {
    checkCount(count); // what is wrong is told before anything is computed
    optionWords(options);
    this.player.working += 1;
    try {
      await this.prefill(ids);
      const room = this.capacity - this.position;
      for await (const token of this.stream(ids[ids.length - 1], Math.min(count, room), options)) {
        if (ends.has(token)) return "eos";
        yield token;
      }
      return count > room ? "context" : "length";
    } finally {
      this.player.working -= 1;
    }
  }

  /**
   * Have all but the last of these in the cache; what it holds is not computed again.
   * @param {number[]} ids
   */
  async prefill(ids) {
    if (!ids.length) throw new BrowserError("input", "the prompt is empty, and there is no token that begins a text");
    let same = 0;
    while (same < Math.min(this.position, ids.length - 1) && this.ids[same] === ids[same]) same += 1;
    this.reset(this.holds(same) ? same : 0);
    same = this.position;
    this.check(ids.slice(same));
    if (same < ids.length - 1) await this.append(ids.slice(same, -1), true);
  }

  // ---- steps -----------------------------------------------------------------------------------------------------

  /**
   * Of each row: position, whether it is real, its sequence, steps so far.
   * @param {number} position @param {number} valid real rows @param {number} rows with those of padding
   */
  writeState(position, valid, rows) {
    const state = new Uint32Array(4 * rows);
    for (let row = 0; row < rows; row++) state.set([position + row, row < valid ? 1 : 0], 4 * row);
    this.write("state", state);
    if (this.own.has("result_rows")) this.write("result_rows", Uint32Array.of(valid - 1));
  }

  /** @param {string} name @param {Words} words */
  write(name, words) {
    this.device.write(this.own.get(name), 0, words);
  }

  /** A program, bound; waits for its pipelines. @param {Program} program */
  async record(program) {
    let recorded = this.recorded.get(program);
    if (!recorded) this.recorded.set(program, (recorded = await this.player.record(program, this.own)));
    return recorded;
  }

  /**
   * Steps in one pass, and a copy of what they leave.
   * @param {Recorded} recorded @param {number} position @param {number} valid tokens of the first step
   * @param {number} steps @param {(encoder: GPUCommandEncoder) => void} [copy]
   */
  submit(recorded, position, valid, steps, copy) {
    this.writeState(position, valid, recorded.rows);
    this.run(recorded, position, valid + steps - 1, steps, copy);
  }

  /**
   * The same, with a state that is there.
   * @param {Recorded} recorded @param {number} position @param {number} count positions that are written
   * @param {number} steps @param {(encoder: GPUCommandEncoder) => void} [copy]
   */
  run(recorded, position, count, steps, copy) {
    const encoder = this.device.gpu.createCommandEncoder();
    recorded.encode(encoder, steps);
    copy?.(encoder);
    this.device.gpu.queue.submit([encoder.finish()]);
    this.furthest = Math.max(position ? this.furthest : 0, position + count); // from 0 on it is another text
  }

  /**
   * A group of steps, whose tokens are on their way.
   * @param {Recorded} recorded @param {"greedy" | "draw" | "told"} head @param {number} position @param {number} steps
   */
  send(recorded, head, position, steps) {
    const likely = Math.min(LIKELY, this.vocabSize);
    /** @type {[buffer: string, words: number, offset: number][]} */
    const wanted = [["history", steps, 0]];
    if (head !== "greedy") wanted.push(["seen", 1, Math.ceil(this.vocabSize / 32)]);
    if (head === "told") wanted.push(["told", steps * (likely + 1), 0], ["told_ids", steps * likely, 0]);
    const staging = this.free.pop() ?? this.device.staging(4 * (this.most * (2 + 2 * LIKELY) + 1));
    let total = 0;
    this.submit(recorded, position, 1, steps, (encoder) => {
      for (const [name, words, offset] of wanted) {
        const buffer = this.own.get(name);
        encoder.copyBufferToBuffer(buffer, 4 * offset, staging, 4 * total, 4 * words);
        total += words;
      }
    });
    const words = this.device.mapped(staging, 4 * total).then((data) => {
      this.free.push(staging);
      return new Uint32Array(data);
    });
    return { steps, words };
  }
}

// Programs played, and kernels tried, for a kernel far away: what a notebook's worker does. Messages are {call, name, given,
// buffers}, answered by {call, done | error, buffers}; for weights the worker asks, {read, file, offset, length}, and hears
// {read, buffers}.

import { Bench } from "./bench.js";
import { Device } from "./device.js";
import { BrowserError } from "./errors.js";
import { unbundled } from "./loader.js";
import { Player } from "./player.js";
import { Session } from "./session.js";

/** @typedef {{cache: number, program: number, position: number}} Step a program of the list, on a sequence of its own */

const json = (/** @type {Bytes} */ bytes) => JSON.parse(new TextDecoder().decode(bytes));

class Remote {
  /** @param {(message: object, buffers?: ArrayBuffer[]) => void} post */
  constructor(post) {
    this.post = post;
    /** @type {Map<number, Session>} */
    this.caches = new Map();
    /** @type {Map<number, AsyncGenerator<{steps: number, words: Words}>>} */
    this.streams = new Map();
    /** Answers that are waited for. @type {Map<number, {came: (bytes: Bytes) => void, failed: (error: Error) => void}>} */
    this.reads = new Map();
    this.asked = 0;
  }

  /** @param {string} file @param {number} [offset] @param {number} [length] @returns {Promise<Bytes>} */
  read(file, offset = 0, length = 0) {
    return new Promise((came, failed) => {
      this.reads.set((this.asked += 1), { came, failed });
      this.post({ read: this.asked, file, offset, length });
    });
  }

  /** vocabSize: of a model. @param {Needs & {vocabSize?: number}} needs */
  async open(needs) {
    this.vocabSize = needs.vocabSize;
    this.device = await Device.open(navigator.gpu, needs);
    this.bench = new Bench(this.device);
    const { name, subgroupSize, bindings } = this.device;
    return { adapter: name, lanes: subgroupSize, f16: needs.f16 && !this.device.lacks("f16"), bindings };
  }

  /** @param {object} _ @param {Bytes[]} buffers a bundle of programs, and the manifest of the weights */
  async load(_, [bundle, manifest]) {
    this.player = new Player(/** @type {Device} */ (this.device), unbundled(json(bundle)));
    await this.player.load((file, offset, length) => this.read(file, offset, length), json(manifest));
    return { memory: /** @type {Device} */ (this.device).allocated };
  }

  /** @param {{cache: number}} given */
  async cache({ cache }) {
    this.caches.set(cache, await Session.open(/** @type {Player} */ (this.player), /** @type {number} */ (this.vocabSize)));
  }

  /** @param {{cache: number}} given */
  free({ cache }) {
    this.session(cache).close();
    this.caches.delete(cache);
  }

  /** @param {number} cache */
  session(cache) {
    const found = this.caches.get(cache);
    if (!found) throw new BrowserError("input", `there is no cache ${cache}`);
    return found;
  }

  /**
   * One step, and the first `rows` rows of some values, as bytes.
   * @param {Step & {rows: number, names: string[]}} given
   * @param {Bytes[]} buffers ids, padded to the program's tokens
   */
  async run({ cache, program: n, position, rows, names }, [ids]) {
    const [session, player] = [this.session(cache), /** @type {Player} */ (this.player)];
    const program = player.programs[n];
    const recorded = await session.record(program);
    const wanted = names.map((name) => {
      const { buffer, shape } = player.value(program, name);
      const row = shape.slice(1).reduce((product, size) => product * size, 4);
      return { buffer, bytes: row * Math.min(rows, shape[0]) };
    });
    const total = wanted.reduce((sum, { bytes }) => sum + bytes, 0);
    const staging = session.device.staging(total);
    session.write("ids", new Uint32Array(ids.slice().buffer));
    let at = 0;
    session.submit(recorded, position, rows, 1, (encoder) => {
      for (const { buffer, bytes } of wanted) {
        encoder.copyBufferToBuffer(buffer, 0, staging, at, bytes);
        at += bytes;
      }
    });
    const data = await session.device.mapped(staging, total).finally(() => staging.destroy());
    return { done: {}, buffers: [data] };
  }

  /**
   * Steps from a position on, whose groups are asked for with `next`.
   * @param {Step & {stream: number, count: number, ahead: boolean}} given
   * @param {Bytes[]} buffers the first id, and for drawn tokens options and those that were seen
   */
  async stream({ cache, program: n, position, stream, count, ahead }, [first, options, seen]) {
    const session = this.session(cache);
    const program = /** @type {Player} */ (this.player).programs[n];
    const recorded = await session.record(program);
    const words = (/** @type {Bytes} */ bytes) => new Uint32Array(bytes.slice().buffer);
    session.write("ids", words(first));
    if (options) session.write("options", words(options));
    if (seen) session.write("seen", words(seen));
    const head = /** @type {"greedy" | "draw" | "told"} */ (program.target.head);
    this.streams.set(stream, session.groups(recorded, head, position, count, ahead ? undefined : 1));
  }

  /** @param {{stream: number}} given */
  async next({ stream }) {
    const { value } = (await this.streams.get(stream)?.next()) ?? {};
    return value ? { done: { steps: value.steps }, buffers: [value.words.buffer] } : { done: { steps: 0 } };
  }

  /** @param {{stream: number}} given */
  async leave({ stream }) {
    await this.streams.get(stream)?.return(undefined);
    this.streams.delete(stream);
  }

  /** @param {{call?: number, read?: number, name: string, given: any, error?: string, buffers: Bytes[]}} message */
  async hear({ call, read, name, given, error, buffers }) {
    if (read !== undefined) {
      const waiting = this.reads.get(read);
      this.reads.delete(read);
      return error ? waiting?.failed(new BrowserError("not-found", error)) : waiting?.came(buffers[0]);
    }
    /** @type {Record<string, (given: any, buffers: Bytes[]) => any>} */
    const calls = {
      open: (needs) => this.open(needs),
      load: (_, all) => this.load(_, all),
      cache: (which) => this.cache(which),
      free: (which) => this.free(which),
      run: (step, all) => this.run(step, all),
      stream: (step, all) => this.stream(step, all),
      next: (which) => this.next(which),
      leave: (which) => this.leave(which),
      inputs: (ports, all) => this.bench?.inputs(ports, all),
      once: (variant) => this.bench?.once(variant),
      timed: (which) => this.bench?.timed(which),
    };
    try {
      const answer = (await calls[name](given, buffers)) ?? {};
      this.post({ call, done: answer.done ?? answer }, answer.buffers);
    } catch (failure) {
      const { kind, message, stack } = /** @type {BrowserError} */ (failure);
      this.post({ call, error: { kind, message: kind ? message : `something unforeseen: ${stack ?? failure}` } });
    }
  }
}

const port = /** @type {any} */ (globalThis);
const remote = new Remote((message, buffers = []) => port.postMessage({ ...message, buffers }, buffers));
port.onmessage = (/** @type {MessageEvent} */ { data }) => remote.hear(data);

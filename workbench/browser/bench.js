// Variants of one kernel for a lab far away, on this adapter: run once on the same inputs, then timed in the same rounds.

import { bind, compile, dispatched, paced, Uncompiled } from "./kernels.js";

/**
 * bindings, ports: of each binding, its kind and the name of what lies there; outputs: those that are read back.
 * @typedef {{name: string, label: string, code: string, bindings: [number, GPUBufferBindingType][], ports: string[],
 *   grid: [number, number, number], outputs: string[]}} Variant
 */

/** Inputs, and the variants that have run on them. */
export class Bench {
  /** @param {Device} device */
  constructor(device) {
    this.device = device;
    /** What lies in each port before a call. @type {Map<string, Bytes>} */
    this.contents = new Map();
    /** @type {Map<string, import("./kernels.js").Bound>} */
    this.bound = new Map();
  }

  /** Begin anew. @param {{ports: string[]}} given @param {Bytes[]} buffers of each port */
  inputs({ ports }, buffers) {
    for (const { buffers: old } of this.bound.values()) this.device.release(old);
    this.bound.clear();
    this.contents = new Map(ports.map((port, n) => [port, buffers[n]]));
  }

  /** One call of a variant. @param {Variant} variant */
  async once(variant) {
    const { device } = this;
    let pipeline;
    try {
      pipeline = await compile(device, variant);
    } catch (error) {
      if (!(error instanceof Uncompiled)) throw error;
      device.check();
      return { done: { problem: error.message, places: error.places } };
    }
    const contents = variant.ports.map((port) => /** @type {Bytes} */ (this.contents.get(port)));
    const bound = await bind(device, pipeline, variant, contents);
    this.bound.set(variant.name, bound);
    await dispatched(device, bound, 1);
    const buffers = [];
    for (const port of variant.outputs) {
      const at = variant.ports.indexOf(port);
      buffers.push(await device.read(bound.buffers[at], contents[at].length));
    }
    return { done: {}, buffers };
  }

  /**
   * Seconds of a dispatch of each variant, a sample a round; a warm pass precedes each.
   * @param {{names: string[], rounds: number}} given
   */
  async timed({ names, rounds }) {
    const { device } = this;
    const all = names.map((name) => /** @type {import("./kernels.js").Bound} */ (this.bound.get(name)));
    const pace = [];
    for (const bound of all) pace.push(await paced(device, bound));
    /** @type {number[][]} */
    const samples = all.map(() => []);
    for (let round = 0; round < rounds; round++) {
      for (const [n, bound] of all.entries()) {
        await dispatched(device, bound, pace[n].repeats);
        samples[n].push((await dispatched(device, bound, pace[n].repeats)) / 1000 / pace[n].repeats);
      }
    }
    return { samples, repeats: pace.map(({ repeats }) => repeats), warm: pace.map(({ ms }) => ms / 1000) };
  }
}

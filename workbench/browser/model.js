// A model from a folder of files: the device, the programs for it, and the weights on it.

import { Device } from "./device.js";
import { bindingsOf, bundleFor, readBundle, readIndex, readManifest } from "./loader.js";
import { Player } from "./player.js";
import { Session } from "./session.js";
import { Store } from "./storage.js";

export { BrowserError } from "./errors.js";
export { overHttp } from "./loader.js";

/** What ends the programs that prompts and decoding need. */
const HEADS = new Set(["last", "greedy", "draw", "together"]);
const usual = (/** @type {{head: string}} */ { head }) => HEADS.has(head);

/** @typedef {(target: import("./player.js").Program["target"], vocabSize: number) => boolean} Wanted */

/** A model that is ready to run. */
export class Model {
  /** @param {Player} player @param {any} index @param {any} manifest @param {string} bundle the programs' file */
  constructor(player, index, manifest, bundle) {
    this.player = player;
    this.device = player.device;
    this.name = index.model.name;
    /** By which its shards are kept. */
    this.key = index.model.manifest_sha256;
    this.vocabSize = index.model.vocab_size;
    /** Tokens that a session holds at most. */
    this.capacity = index.capacity;
    /** Names and checksums of the tokenizer's files. @type {Record<string, {checksum: string}>} */
    this.tokenizerFiles = manifest.tokenizer;
    this.bundle = bundle;
  }

  /**
   * @param {GPU | undefined} gpu `navigator.gpu`, or Dawn's
   * @param {import("./loader.js").Read} read of a folder that holds `model/` and `programs/`
   * @param {{activations?: "f32" | "f16", keep?: boolean, beside?: string[], wanted?: Wanted,
   *   onProgress?: (progress: import("./player.js").Progress) => void}} [how] keep: shards in the browser's storage, where
   *   there is one; beside: keys of models that make no room for it there; wanted: the programs that will be played
   */
  static async load(gpu, read, { activations = "f32", keep = false, beside, wanted = usual, onProgress } = {}) {
    const index = await readIndex(read);
    const subgroupSizes = index.bundles.map((/** @type {any} */ each) => each.subgroup_size);
    const needs = { bindings: bindingsOf(index), subgroupSizes, f16: activations === "f16" };
    const device = await Device.open(gpu, needs);
    try {
      const bundle = bundleFor(index, activations, device);
      const [programs, manifest] = await Promise.all([readBundle(read, bundle), readManifest(read, index)]);
      const player = new Player(device, programs.filter(({ target }) => wanted(target, index.model.vocab_size)));
      const store = keep ? (/** @type {number} */ bytes) => Store.open(index.model.manifest_sha256, bytes, beside) : undefined;
      await player.load(read, manifest, { onProgress, keep: store });
      return new Model(player, index, manifest, bundle.file);
    } catch (error) {
      device.close();
      throw error;
    }
  }

  /** A sequence of its own, or two for `together`. @param {number} [sequences] */
  session(sequences = 1) {
    return Session.open(this.player, this.vocabSize, sequences);
  }

  close() {
    this.device.close();
  }
}

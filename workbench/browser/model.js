// A model from a folder of files: a device, programs for it, and weights on it.

import { Device } from "./device.js";
import { bindingsOf, bundleFor, MODEL, PROGRAMS, readIndex, readJson, unbundled } from "./loader.js";
import { Player } from "./player.js";
import { Session } from "./session.js";
import { Store } from "./storage.js";

export { BrowserError } from "./errors.js";
export { overHttp } from "./loader.js";

/** Ends of the programs of prompts and decoding. */
const HEADS = ["last", "greedy", "draw", "together"];
/** @type {NonNullable<LoadOptions["wanted"]>} */
const usual = ({ head }) => HEADS.includes(head);

/** A model that is ready to run. */
export class Model {
  /**
   * @param {Player} player @param {Index} index @param {any} manifest @param {Bundle} bundle the programs
   * @param {Facts["offered"]} offered
   */
  constructor(player, index, manifest, bundle, offered) {
    this.player = player;
    this.device = player.device;
    /** By which its shards are kept. */
    this.key = index.model.manifest_sha256;
    this.vocabSize = index.model.vocab_size;
    /** Tokens of a session at most. */
    this.capacity = index.capacity;
    /** By name. @type {Record<string, {checksum: string}>} */
    this.tokenizerFiles = manifest.tokenizer;
    /** The programs' file. */
    this.bundle = bundle.file;
    this.activations = bundle.activations;
    this.offered = offered;
  }

  /**
   * @param {GPU | undefined} gpu `navigator.gpu`, or Dawn's
   * @param {Read} read of a folder that holds `model/` and `programs/`
   * @param {LoadOptions} [how]
   */
  static async load(gpu, read, { activations, keep = false, beside, wanted = usual, onProgress } = {}) {
    const index = await readIndex(read);
    const { bundles, model } = index;
    const subgroupSizes = bundles.map((each) => each.subgroup_size);
    const f16 = bundles.some((each) => each.activations === "f16");
    const device = await Device.open(gpu, { bindings: bindingsOf(bundles), subgroupSizes, f16 });
    try {
      const offered = Object.fromEntries(bundles.map(({ activations: each }) => [each, device.lacks(each)]));
      const kinds = Object.keys(offered);
      const found = bundleFor(bundles, activations ?? kinds.find((each) => !offered[each]) ?? kinds[0], device);
      const [programs, manifest] = await Promise.all([
        readJson(read, PROGRAMS + found.file, found.sha256),
        readJson(read, `${MODEL}manifest.json`, model.manifest_sha256),
      ]);
      const player = new Player(device, unbundled(programs).filter(({ target }) => wanted(target, model.vocab_size)));
      const store = (/** @type {number} */ bytes) => Store.open(model.manifest_sha256, bytes, beside);
      await player.load(read, manifest, { onProgress, keep: keep ? store : undefined });
      return new Model(player, index, manifest, found, offered);
    } catch (error) {
      device.close();
      throw error;
    }
  }

  /** What pages say of it. */
  get facts() {
    const { device, capacity, activations, offered, player } = this;
    const unkept = player.store ? player.store.problem : "this browser has no storage for models here";
    return { adapter: device.name, memory: device.allocated, capacity, activations, offered, unkept };
  }

  /** A sequence of its own, or two for `together`. @param {number} [sequences] */
  session(sequences = 1) {
    return Session.open(this.player, this.vocabSize, sequences);
  }

  close() {
    this.device.close();
  }
}

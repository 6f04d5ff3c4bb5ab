// A model from a folder of files: the device, the programs for it, and the weights on it.

import { Device } from "./device.js";
import { bindingsOf, bundleFor, MODEL, PROGRAMS, readIndex, readJson, unbundled } from "./loader.js";
import { Player } from "./player.js";
import { Session } from "./session.js";
import { Store } from "./storage.js";

export { BrowserError } from "./errors.js";
export { overHttp } from "./loader.js";

/** What ends the programs that prompts and decoding need. */
const HEADS = ["last", "greedy", "draw", "together"];
/** @type {NonNullable<LoadOptions["wanted"]>} */
const usual = ({ head }) => HEADS.includes(head);

/** A model that is ready to run. */
export class Model {
  /** @param {Player} player @param {Index} index @param {any} manifest @param {string} bundle the programs' file */
  constructor(player, index, manifest, bundle) {
    this.player = player;
    this.device = player.device;
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
   * @param {Read} read of a folder that holds `model/` and `programs/`
   * @param {LoadOptions} [how]
   */
  static async load(gpu, read, { activations = "f32", keep = false, beside, wanted = usual, onProgress } = {}) {
    const index = await readIndex(read);
    const { bundles, model } = index;
    const subgroupSizes = bundles.map((each) => each.subgroup_size);
    const device = await Device.open(gpu, { bindings: bindingsOf(bundles), subgroupSizes, f16: activations === "f16" });
    try {
      const { file, sha256 } = bundleFor(bundles, activations, device);
      const [bundle, manifest] = await Promise.all([
        readJson(read, PROGRAMS + file, sha256),
        readJson(read, `${MODEL}manifest.json`, model.manifest_sha256),
      ]);
      const player = new Player(device, unbundled(bundle).filter(({ target }) => wanted(target, model.vocab_size)));
      const store = (/** @type {number} */ bytes) => Store.open(model.manifest_sha256, bytes, beside);
      await player.load(read, manifest, { onProgress, keep: keep ? store : undefined });
      return new Model(player, index, manifest, file);
    } catch (error) {
      device.close();
      throw error;
    }
  }

  /** Why the browser's storage does not hold all of it; empty where it does. */
  get unkept() {
    return this.player.store ? this.player.store.problem : "this browser has no storage for models here";
  }

  /** A sequence of its own, or two for `together`. @param {number} [sequences] */
  session(sequences = 1) {
    return Session.open(this.player, this.vocabSize, sequences);
  }

  close() {
    this.device.close();
  }
}

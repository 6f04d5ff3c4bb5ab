// Text to token ids and back, with the model's own tokenizer files.

import { BrowserError } from "./errors.js";
import { MODEL, readJson } from "./loader.js";
import { Tokenizer } from "./vendor/tokenizers.js";

const REPLACEMENT = "\ufffd";

/** A model's tokenizer. */
export class Text {
  /** @param {InstanceType<typeof Tokenizer>} tokenizer */
  constructor(tokenizer) {
    this.tokenizer = tokenizer;
  }

  /**
   * @param {import("./loader.js").Read} read
   * @param {Record<string, {checksum: string}>} files of the manifest
   * @param {{text: string, ids: number[]}} sample what Python's tokenizer made of a text: another would say other ids
   */
  static async load(read, files, sample) {
    const json = (/** @type {string} */ name) =>
      name in files ? readJson(read, `${MODEL}tokenizer/${name}`, files[name].checksum.replace("sha256:", "")) : {};
    const text = new Text(new Tokenizer(await json("tokenizer.json"), await json("tokenizer_config.json")));
    if (text.encode(sample.text).join() !== sample.ids.join()) {
      throw new BrowserError(
        "unsupported",
        "this model's tokenizer gives other tokens here than it gave in Python: the page does not know one of its parts",
      );
    }
    return text;
  }

  /** Token ids, with what the tokenizer puts around a text. @param {string} text @returns {number[]} */
  encode(text) {
    return this.tokenizer.encode(text).ids;
  }

  /** @param {number[]} ids */
  decode(ids) {
    return ids.length ? this.tokenizer.decode(ids, { skip_special_tokens: true, clean_up_tokenization_spaces: false }) : "";
  }

  /**
   * What `ids` add to the text of a prompt; `open` while more may come, so that half a character is held back.
   * @param {number[]} prompt
   * @param {number[]} ids
   * @param {boolean} open
   */
  continuation(prompt, ids, open) {
    const [before, whole] = [this.decode(prompt), this.decode([...prompt, ...ids])];
    const text = whole.startsWith(before) ? whole.slice(before.length) : this.decode(ids);
    return open ? text.replace(new RegExp(`${REPLACEMENT}+$`), "") : text;
  }
}

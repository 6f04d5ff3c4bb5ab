// Text to token ids and back, with the model's own tokenizer files; conversations, with its chat template.

import { BrowserError } from "./errors.js";
import { MODEL, readJson } from "./loader.js";
import { Template } from "./vendor/jinja.js";
import { Tokenizer } from "./vendor/tokenizers.js";

/**
 * A chat template as Python's transformers applies it.
 * @typedef {object} Chat
 * @property {string} template
 * @property {Record<string, string>} tokens that templates may name, such as bos_token
 * @property {{messages: Message[], ids: number[]} | null} sample what Python made of a conversation; null: it says the date
 */
/** @typedef {{role: string, content: string}} Message */

/** A model's tokenizer. */
export class Text {
  /** @param {InstanceType<typeof Tokenizer>} tokenizer @param {Set<number>} special ids that are no text @param {Chat | null} chat */
  constructor(tokenizer, special, chat) {
    this.tokenizer = tokenizer;
    this.special = special;
    this.chat = chat;
  }

  /**
   * @param {import("./loader.js").Read} read
   * @param {Record<string, {checksum: string}>} files of the manifest
   * @param {{text: string, ids: number[]}} sample what Python's tokenizer made of a text: another would say other ids
   * @param {Chat | null} [chat]
   */
  static async load(read, files, sample, chat = null) {
    const json = async (/** @type {string} */ name) =>
      name in files ? readJson(read, `${MODEL}tokenizer/${name}`, files[name].checksum.replace("sha256:", "")) : {};
    const [main, config] = [await json("tokenizer.json"), await json("tokenizer_config.json")];
    const named = Object.entries(config.added_tokens_decoder ?? {}).map(([id, token]) => ({ ...token, id: Number(id) }));
    const special = [...(main.added_tokens ?? []), ...named].filter((each) => each.special).map(({ id }) => id);
    const text = new Text(new Tokenizer(main, config), new Set(special), chat);
    const same = (/** @type {number[]} */ found, /** @type {number[]} */ wanted) => found.join() === wanted.join();
    const told = "gives other tokens here than it gave in Python: the page does not know one of its parts";
    if (!same(text.encode(sample.text), sample.ids)) throw new BrowserError("unsupported", `this model's tokenizer ${told}`);
    if (chat?.sample && !same(text.encodeChat(chat.sample.messages), chat.sample.ids)) {
      throw new BrowserError("unsupported", `this model's chat template ${told}`);
    }
    return text;
  }

  /** Token ids, with what the tokenizer puts around a text. @param {string} text @returns {number[]} */
  encode(text) {
    return this.tokenizer.encode(text).ids;
  }

  /** Token ids of a conversation and of the beginning of an answer. @param {Message[]} messages @returns {number[]} */
  encodeChat(messages) {
    if (!this.chat) throw new BrowserError("input", "this model has no chat template: it continues texts only");
    let text;
    try {
      const given = { messages, add_generation_prompt: true, tools: null, documents: null, ...this.chat.tokens };
      text = new Template(this.chat.template).render(given);
    } catch (error) {
      throw new BrowserError("input", `the model's chat template refuses: ${/** @type {Error} */ (error).message}`, error);
    }
    return this.tokenizer.encode(text, { add_special_tokens: false }).ids;
  }

  /** Without special tokens. @param {number[]} ids @returns {string} */
  decode(ids) {
    return ids.length ? this.tokenizer.decode(ids, { skip_special_tokens: true, clean_up_tokenization_spaces: false }) : "";
  }
}

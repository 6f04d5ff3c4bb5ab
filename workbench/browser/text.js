// Text to token ids and back, with the model's tokenizer files; conversations, with its chat template; text while ids arrive, up
// to a stop string (workbench/runtime/textstream.py).

import { because, BrowserError } from "./errors.js";
import { MODEL, readJson } from "./loader.js";
import { Template } from "./vendor/jinja.js";
import { Tokenizer } from "./vendor/tokenizers.js";

const REPLACEMENT = "\ufffd";
/** Of the prompt: they tell whether a space precedes the first piece. */
const CONTEXT_TOKENS = 8;
/** A character has 4 bytes at most: more are no text, and are given out. */
const PENDING_TOKENS = 16;

/** A model's tokenizer. */
export class Text {
  /**
   * @param {InstanceType<typeof Tokenizer>} tokenizer @param {Set<number>} special ids that are no text @param {Chat | null} chat
   */
  constructor(tokenizer, special, chat) {
    this.tokenizer = tokenizer;
    this.special = special;
    this.chat = chat;
  }

  /**
   * @param {Read} read
   * @param {Record<string, {checksum: string}>} files of the manifest
   * @param {{text: string, ids: number[]}} sample what Python's tokenizer made of a text
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

  /** Token ids, with what the tokenizer puts around a text. @param {string} text */
  encode(text) {
    return this.tokenizer.encode(text).ids;
  }

  /** Token ids of a conversation and an answer's beginning. @param {Message[]} messages */
  encodeChat(messages) {
    if (!this.chat) throw new BrowserError("input", "this model has no chat template: it continues texts only");
    let text;
    try {
      const given = { messages, add_generation_prompt: true, tools: null, documents: null, ...this.chat.tokens };
      text = new Template(this.chat.template).render(given);
    } catch (error) {
      throw because("input", "the model's chat template refuses", error);
    }
    return this.tokenizer.encode(text, { add_special_tokens: false }).ids;
  }

  /** Without special tokens. @param {number[]} ids */
  decode(ids) {
    return ids.length ? this.tokenizer.decode(ids, { skip_special_tokens: true, clean_up_tokenization_spaces: false }) : "";
  }
}

/** Pieces of text, each the difference of two decodings from one token on. */
export class Detokenizer {
  /**
   * @param {Pick<Text, "decode" | "special">} text
   * @param {number[]} prompt ids that come before
   */
  constructor(text, prompt) {
    this.text = text;
    const plain = prompt.filter((id) => !text.special.has(id));
    let start = Math.max(0, plain.length - CONTEXT_TOKENS);
    while (start > 0 && text.decode(plain.slice(start)).startsWith(REPLACEMENT)) start -= 1; // inside a character
    this.ids = plain.slice(start);
    /** How many of them have been given out. */
    this.given = this.ids.length;
  }

  /** What is certain with this token; empty inside a character. @param {number} token */
  push(token) {
    if (this.text.special.has(token)) return "";
    this.ids.push(token);
    return this.advance(this.ids.length - this.given <= PENDING_TOKENS);
  }

  /** What is pending, complete or not. */
  finish() {
    return this.advance(false);
  }

  /** @param {boolean} hold */
  advance(hold) {
    const before = this.text.decode(this.ids.slice(0, this.given));
    const text = this.text.decode(this.ids);
    if (hold && (text.length <= before.length || text.endsWith(REPLACEMENT))) return "";
    const pending = this.ids.slice(this.given);
    const piece = text.startsWith(before) ? text.slice(before.length) : this.text.decode(pending);
    if (pending.length) [this.ids, this.given] = [pending, pending.length];
    return piece;
  }
}

/** Holds text back while it may begin a stop string, and ends it before the first. */
export class StopStrings {
  /** @param {string[]} stop */
  constructor(stop) {
    this.stop = stop.filter((each) => each);
    this.held = "";
    /** The one that came. @type {string | null} */
    this.stopped = null;
  }

  /** What is certain; nothing after a stop string. @param {string} text */
  push(text) {
    if (this.stopped !== null) return "";
    this.held += text;
    // the one that ends first counts, as if characters came singly; then the longest
    const found = this.stop
      .map((stop) => ({ stop, at: this.held.indexOf(stop) }))
      .filter(({ at }) => at >= 0)
      .sort((a, b) => a.at + a.stop.length - (b.at + b.stop.length) || a.at - b.at)[0];
    if (found) this.stopped = found.stop;
    return this.release(found ? found.at : this.held.length - Math.max(0, ...this.stop.map((stop) => this.overlap(stop))));
  }

  /** What was held back. */
  finish() {
    return this.stopped === null ? this.release(this.held.length) : "";
  }

  /** @param {number} count */
  release(count) {
    const certain = this.held.slice(0, count);
    this.held = this.stopped === null ? this.held.slice(count) : "";
    return certain;
  }

  /** Length of the longest end of the held text that begins `stop`. @param {string} stop */
  overlap(stop) {
    let length = Math.min(stop.length - 1, this.held.length);
    while (length > 0 && !this.held.endsWith(stop.slice(0, length))) length -= 1;
    return length;
  }
}

/**
 * Tells the text of token ids that follow a prompt as it comes, until they end or a stop string comes; how it ended.
 * @param {Pick<Text, "decode" | "special">} text
 * @param {AsyncGenerator<number, Reason>} tokens closed at a stop string, so that no further token is computed
 * @param {{prompt: number[], stop?: string[], since: () => number, wanted: (token: number) => boolean,
 *   tell: (piece: Piece) => void}} how since: milliseconds since the call; wanted: whether a token is, and more
 * @returns {Promise<Ended>}
 */
export async function streamText(text, tokens, { prompt, stop = [], since, wanted, tell }) {
  const [detokenizer, stops] = [new Detokenizer(text, prompt), new StopStrings(stop)];
  let [count, first] = [0, 0];
  const say = (/** @type {string} */ piece) => piece && tell({ text: piece, tokens: count, ms: since() });
  try {
    for (;;) {
      const { value, done } = await tokens.next();
      let reason = done ? value : wanted(value) ? undefined : "stopped";
      if (!done && !reason) {
        count += 1;
        first ||= since();
        say(stops.push(detokenizer.push(value)));
      } else say(stops.push(detokenizer.finish()));
      if (stops.stopped !== null) reason = "stop";
      if (!reason) continue;
      say(stops.finish());
      return { reason, tokens: count, ms: since(), first };
    }
  } finally {
    await tokens.return("stopped");
  }
}

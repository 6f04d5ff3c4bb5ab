// Token ids into text while they arrive: workbench/runtime/textstream.py in JavaScript.

const REPLACEMENT = "\ufffd";
/** Tokens of the prompt, so that the first piece knows whether a space precedes it. */
const CONTEXT_TOKENS = 8;
/** A character has at most 4 bytes: more tokens than this are no text, and are given out. */
const PENDING_TOKENS = 16;

/** Pieces of text: each the difference of two decodings that begin at the same earlier token. */
export class Detokenizer {
  /**
   * @param {{decode: (ids: number[]) => string, special: Set<number>}} text
   * @param {number[]} prompt ids that come before
   */
  constructor(text, prompt) {
    this.text = text;
    const plain = prompt.filter((id) => !text.special.has(id));
    let start = Math.max(0, plain.length - CONTEXT_TOKENS);
    while (start > 0 && text.decode(plain.slice(start)).startsWith(REPLACEMENT)) start -= 1; // inside a character
    this.ids = plain.slice(start);
    /** Tokens of the window whose text has been given out. */
    this.given = this.ids.length;
  }

  /** The text that is certain with this token; empty inside a character. @param {number} token */
  push(token) {
    if (this.text.special.has(token)) return "";
    this.ids.push(token);
    return this.advance(this.ids.length - this.given <= PENDING_TOKENS);
  }

  /** What is still pending, complete or not. */
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

/** Holds text back while it may begin a stop string, and ends it before the first one completed. */
export class StopStrings {
  /** @param {string[]} stop */
  constructor(stop) {
    this.stop = stop.filter((each) => each);
    this.held = "";
    /** The one that came. @type {string | null} */
    this.stopped = null;
  }

  /** The part of the text that is certain; after a stop string always empty. @param {string} text */
  push(text) {
    if (this.stopped !== null) return "";
    this.held += text;
    // Of several, the one that ends first counts, as if characters came singly; then the longest.
    const found = this.stop
      .map((stop) => ({ stop, at: this.held.indexOf(stop) }))
      .filter(({ at }) => at >= 0)
      .sort((a, b) => a.at + a.stop.length - (b.at + b.stop.length) || a.at - b.at)[0];
    if (found) this.stopped = found.stop;
    return this.release(found ? found.at : this.held.length - Math.max(0, ...this.stop.map((stop) => this.overlap(stop))));
  }

  /** What was held back, when no more text comes. */
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
 * Non-empty pieces of text for token ids that follow a prompt; ends with the tokens or before a stop string.
 * @template {string} Reason
 * @param {ConstructorParameters<typeof Detokenizer>[0]} text
 * @param {AsyncGenerator<number, Reason>} tokens closed at a stop string, so that no further token is computed
 * @param {number[]} prompt
 * @param {string[]} stop
 * @returns {AsyncGenerator<{text: string, tokens: number}, Reason | "stop">} tokens: so many have come
 */
export async function* streamText(text, tokens, prompt, stop) {
  const detokenizer = new Detokenizer(text, prompt);
  const stops = new StopStrings(stop);
  let count = 0;
  try {
    for (;;) {
      const { value, done } = await tokens.next();
      const piece = stops.push(done ? detokenizer.finish() : detokenizer.push(value));
      if (!done) count += 1;
      if (piece) yield { text: piece, tokens: count };
      if (stops.stopped !== null) return "stop";
      if (!done) continue;
      const rest = stops.finish();
      if (rest) yield { text: rest, tokens: count };
      return value;
    }
  } finally {
    await tokens.return(/** @type {any} */ (undefined));
  }
}

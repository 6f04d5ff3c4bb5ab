// The page: one model, one text or conversation. What comes from files or the model is written as text, never as markup.

import { Engine } from "./browser/engine.js";
import { chosen, control, element, fail, Form, loading, say } from "./browser/form.js";
import { PROGRAMS } from "./browser/loader.js";

/** @type {Record<import("./browser/service.js").Ended["reason"], string>} */
const ENDED = {
  eos: "The model ended the text.",
  length: "As many tokens as were asked for.",
  context: "The model's context is full.",
  stop: "A text came before which to stop.",
  stopped: "Stopped.",
};

/** A piece of the text or of the conversation. @param {string} tag @param {string} text @param {string} [name] of a class */
function written(tag, text, name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = name;
  return made;
}

/**
 * Continues prompts or answers in a chat, one at a time.
 * @extends {Form<import("./browser/service.js").Facts>}
 */
class Writer extends Form {
  /** @param {Engine} engine @param {import("./browser/service.js").Facts} facts */
  constructor(engine, facts) {
    super(engine, facts, { busy: "text", ways: ["continues", "chats"], chat: "chats", working: "Writing …" });
    /** @type {import("./browser/text.js").Message[]} */
    this.talk = [];
    element("fresh").addEventListener("click", () => this.turn());
  }

  /** To texts, or to a new chat. */
  turn() {
    const chats = control("chats").checked;
    this.talk = [];
    element("text").replaceChildren();
    say("prompt-label", chats ? "Message" : "Prompt");
    say("text-label", chats ? "Chat" : "Text");
    say("write", chats ? "Send" : "Write");
    for (const id of ["fresh", "system-label"]) element(id).hidden = !chats;
    if (chats) control("prompt").value = "";
  }

  async run() {
    const { reason } = await (control("chats").checked ? this.answer() : this.text());
    return ENDED[reason];
  }

  /** @param {boolean} working */
  begin(working) {
    super.begin(working);
    control("fresh").disabled = working;
    if (working) for (const id of ["first", "speed", "tokens"]) say(id, "–");
  }

  /** Continues the prompt. */
  text() {
    const prompt = control("prompt").value;
    const more = written("span", "", "written");
    element("text").replaceChildren(written("span", prompt, "given"), more);
    return this.stream(prompt, more);
  }

  /** Answers the message; where that fails, the conversation is what it was. */
  async answer() {
    const message = control("prompt").value;
    const system = control("system").value;
    const log = element("text");
    /** @type {import("./browser/text.js").Message[]} */
    const asked = [...this.talk, { role: "user", content: message }];
    const all = system ? [{ role: "system", content: system }, ...asked] : asked;
    const turn = document.createElement("article");
    const more = written("p", "", "written");
    turn.append(written("h3", "You"), written("p", message, "given"), written("h3", "Model"), more);
    log.append(turn);
    try {
      const ended = await this.stream(all, more);
      this.talk = [...asked, { role: "assistant", content: more.textContent ?? "" }];
      control("prompt").value = "";
      control("prompt").focus();
      return ended;
    } catch (error) {
      turn.remove();
      throw error;
    }
  }

  /**
   * Writes the text that comes.
   * @param {import("./browser/service.js").Wanted["prompt"]} prompt
   * @param {HTMLElement} into
   * @returns {Promise<import("./browser/service.js").Ended>}
   */
  async stream(prompt, into) {
    const stop = control("stops").value.split("\n").filter((line) => line);
    const log = element("text");
    let given = 0;
    let [first, firstTokens] = [0, 0];
    const tell = (/** @type {number} */ tokens, /** @type {number} */ ms) => {
      say("tokens", `${given} + ${tokens} of ${this.facts.capacity}`);
      if (tokens > firstTokens) say("speed", ((1000 * (tokens - firstTokens)) / (ms - first)).toFixed(1));
    };
    const wanted = { prompt, count: Number(control("count").value), options: chosen(), stop };
    const ended = await this.engine.call("write", wanted, (event) => {
      if (event.given !== undefined) return (given = event.given);
      const follow = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
      into.append(event.text);
      if (follow) log.scrollTop = log.scrollHeight;
      if (!first) {
        [first, firstTokens] = [event.ms, event.tokens];
        say("first", `${(first / 1000).toFixed(2)} s`);
      }
      return tell(event.tokens, event.ms);
    });
    tell(ended.tokens, ended.ms);
    return ended;
  }
}

element("again").addEventListener("click", () => location.reload());
Engine.load({ base: document.baseURI, keep: true }, (progress) => loading("Loading", 0, 1, progress)).then(
  ([engine, facts]) => new Writer(engine, facts).ready(facts.name, "the model", [PROGRAMS + facts.bundle]),
  fail,
);

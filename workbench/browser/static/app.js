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
    element("twice").addEventListener("change", () => (element("second").hidden = !control("twice").checked));
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
    element("twice-label").hidden = chats;
    element("second").hidden = chats || !control("twice").checked;
    control("prompt").required = chats;
    if (chats) control("prompt").value = "";
  }

  async run() {
    if (control("chats").checked) return ENDED[(await this.answer()).reason];
    if (!control("twice").checked) return ENDED[(await this.text()).reason];
    const [first, second] = (await this.twice()).reasons;
    return first === second ? ENDED[first] : `First: ${ENDED[first]} Second: ${ENDED[second]}`;
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

  /** Continues the prompt twice, side by side. @returns {Promise<import("./browser/service.js").Both>} */
  async twice() {
    const prompt = control("prompt").value;
    const texts = [written("p", "", "written"), written("p", "", "written")];
    const columns = written("div", "", "twice");
    for (const [row, text] of texts.entries()) {
      const column = document.createElement("section");
      column.append(written("h3", row ? "Second" : "First"), text);
      columns.append(column);
    }
    element("text").replaceChildren(written("p", prompt, "given"), columns);
    const settings = [chosen(), chosen("2")];
    const wanted = { prompt, count: Number(control("count").value), settings, stop: stops() };
    const told = this.teller();
    const ended = await this.engine.call("twice", wanted, (event) => told(event, texts[event.row]));
    told(ended);
    return ended;
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
      if (control("prompt").value === message) control("prompt").value = ""; // else the next one is being typed
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
    const wanted = { prompt, count: Number(control("count").value), options: chosen(), stop: stops() };
    const told = this.teller();
    const ended = await this.engine.call("write", wanted, (event) => told(event, into));
    told(ended);
    return ended;
  }

  /** Writes text that comes, and tells how much has come and how fast. */
  teller() {
    const log = element("text");
    let given = 0;
    let [first, firstTokens] = [0, 0];
    /** @param {{given?: number, text?: string, tokens: number, ms: number}} event @param {HTMLElement} [into] */
    return (event, into) => {
      if (event.given !== undefined) {
        given = event.given;
        return;
      }
      if (event.text && into) {
        const follow = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
        into.append(event.text);
        if (follow) log.scrollTop = log.scrollHeight;
        if (!first) {
          [first, firstTokens] = [event.ms, event.tokens];
          say("first", `${(first / 1000).toFixed(2)} s`);
        }
      }
      const { tokens, ms } = event;
      say("tokens", `${given} + ${tokens} of ${this.facts.capacity}`);
      if (tokens > firstTokens) say("speed", ((1000 * (tokens - firstTokens)) / (ms - first)).toFixed(1));
    };
  }
}

const stops = () => control("stops").value.split("\n").filter((line) => line);

element("again").addEventListener("click", () => location.reload());
Engine.load({ base: document.baseURI, keep: true }, (progress) => loading("Loading", 0, 1, progress)).then(
  ([engine, facts]) => new Writer(engine, facts).ready(facts.name, "the model", [PROGRAMS + facts.bundle]),
  fail,
);

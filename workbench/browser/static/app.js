// The page: one model, one text or conversation. What comes from files or the model is written as text, never as markup.

import { Engine } from "./browser/port.js";
import { append, chosen, control, element, fail, Form, loading, made, say } from "./browser/form.js";

const SERVICE = { worker: "./browser/service.js", calls: () => import("./browser/service.js") };
/** @type {Record<Reason, string>} */
const ENDED = {
  eos: "The model ended the text.",
  length: "As many tokens as were asked for.",
  context: "The model's context is full.",
  stop: "A text came before which to stop.",
  stopped: "Stopped.",
};

/**
 * Continues prompts or answers in a chat, one at a time.
 * @extends {Form<Facts>}
 */
class Writer extends Form {
  /** @param {Engine} engine @param {Facts} facts */
  constructor(engine, facts) {
    super(engine, facts, { busy: "text", ways: ["continues", "chats"], chat: "chats", working: "Writing …" });
    /** @type {Message[]} */
    this.talk = [];
    element("fresh").addEventListener("click", () => this.turn());
    element("twice").addEventListener("change", () => this.second());
  }

  /** To texts, or to a new chat. */
  turn() {
    const chats = control("chats").checked;
    this.talk = [];
    element("text").replaceChildren();
    this.prompt(chats ? "Message" : "Prompt", chats);
    say("text-label", chats ? "Chat" : "Text");
    say("write", chats ? "Send" : "Write");
    for (const id of ["fresh", "system-label"]) element(id).hidden = !chats;
    element("twice-label").hidden = chats;
    this.second();
  }

  /** Settings of a second text are there, and must be right, where one is written. */
  second() {
    element("second").hidden = control("second").disabled = control("chats").checked || !control("twice").checked;
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
    const more = made("span", "", "written");
    element("text").replaceChildren(made("span", prompt, "given"), more);
    return this.write(prompt, more);
  }

  /** Continues the prompt twice, side by side. @returns {Promise<BothEnded>} */
  twice() {
    const prompt = control("prompt").value;
    const texts = [made("p", "", "written"), made("p", "", "written")];
    const columns = made("div", "", "twice");
    for (const [row, text] of texts.entries()) {
      const column = made("section");
      column.append(made("h3", row ? "Second" : "First"), text);
      columns.append(column);
    }
    element("text").replaceChildren(made("p", prompt, "given"), columns);
    return this.ask("twice", { prompt, settings: [chosen(), chosen("2")] }, texts);
  }

  /** Answers the message; where nothing comes of it, the conversation is what it was. */
  async answer() {
    const message = control("prompt").value;
    const system = control("system").value;
    /** @type {Message[]} */
    const asked = [...this.talk, { role: "user", content: message }];
    const turn = made("article");
    const more = made("p", "", "written");
    turn.append(made("h3", "You"), made("p", message, "given"), made("h3", "Model"), more);
    element("text").append(turn);
    try {
      const ended = await this.write(system ? [{ role: "system", content: system }, ...asked] : asked, more);
      if (ended.reason === "stopped" && !more.textContent) return turn.remove(), ended;
      this.talk = [...asked, { role: "assistant", content: more.textContent ?? "" }];
      if (control("prompt").value === message) control("prompt").value = ""; // else the next one is being typed
      control("prompt").focus();
      return ended;
    } catch (error) {
      turn.remove();
      throw error;
    }
  }

  /** @param {Wanted["prompt"]} prompt @param {HTMLElement} into @returns {Promise<Ended>} */
  write(prompt, into) {
    return this.ask("write", { prompt, options: chosen() }, [into]);
  }

  /**
   * Writes the texts that come, and tells how much has come and how fast.
   * @param {"write" | "twice"} call @param {object} given @param {HTMLElement[]} texts
   */
  async ask(call, given, texts) {
    let [prompt, first, firstTokens] = [0, 0, 0];
    const tell = (/** @type {{tokens: number, ms: number}} */ { tokens, ms }) => {
      say("tokens", `${prompt} + ${tokens} of ${this.facts.capacity}`);
      if (tokens > firstTokens) say("speed", ((1000 * (tokens - firstTokens)) / (ms - first)).toFixed(1));
    };
    const stop = control("stops").value.split("\n").filter((line) => line);
    const wanted = { ...given, count: Number(control("count").value), stop };
    const ended = await this.engine.call(call, wanted, (/** @type {Begun & RowPiece} */ event) => {
      if (event.given !== undefined) return void (prompt = event.given);
      append(element("text"), event.text, texts[event.row ?? 0]);
      if (!first) {
        [first, firstTokens] = [event.ms, event.tokens];
        say("first", `${(first / 1000).toFixed(2)} s`);
      }
      return tell(event);
    });
    tell(ended);
    return ended;
  }
}

Engine.load(SERVICE, loading).then(([engine, facts]) => new Writer(engine, facts).ready(), fail);

// Code in colours, and a text area to edit it in: a tokenizer a language, whose pieces only ever become text nodes.
import { focusNear, h, visible } from "./shared.js";

/** Height of a line in pixels, as in the style sheet. */
const LINE = 18;

const words = (text) => text.split(" ").join("|");
const RULES = {
  wgsl: [
    ["remark", String.raw`\/\/[^\n]*|\/\*[\s\S]*?\*\/`],
    ["attribute", String.raw`@\w+`],
    ["number", String.raw`\b(?:0x[\da-fA-F]+|\d[\d.]*(?:[eE][+-]?\d+)?)[fhiu]?\b`],
    ["keyword", String.raw`\b(?:${words("alias break case const const_assert continue continuing default diagnostic discard else enable false fn for if let loop override requires return struct switch true var while")})\b`],
    ["type", String.raw`\b(?:array|atomic|bool|[fiu](?:16|32)|vec[234]\w?|mat[234]x[234]\w?|ptr|sampler|storage|uniform|workgroup|private|function|read|read_write|\w+_type)\b`],
    ["constant", String.raw`\b[A-Z][A-Z\d_]+\b`],
    ["call", String.raw`\b[a-z_]\w*(?=\s*\()`],
  ],
  python: [
    ["string", String.raw`[rbfRBF]{0,2}(?:"""[\s\S]*?"""|'''[\s\S]*?'''|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')`],
    ["remark", String.raw`#[^\n]*`],
    ["attribute", String.raw`@[\w.]+`],
    ["number", String.raw`\b\d[\d_.]*(?:[eE][+-]?\d+)?\b`],
    ["keyword", String.raw`\b(?:${words("and as assert async await break class continue def del elif else except finally for from global if import in is lambda not or pass raise return try while with yield None True False")})\b`],
    ["call", String.raw`\b\w+(?=\s*\()`],
  ],
};
const PATTERNS = Object.fromEntries(Object.entries(RULES).map(([name, rules]) => [name, new RegExp(rules.map(([kind, rule]) => `(?<${kind}>${rule})`).join("|"), "g")]));

function highlighted(text, language) {
  const seen = visible(text);
  const nodes = [];
  let at = 0;
  for (const match of seen.matchAll(PATTERNS[language])) {
    if (match.index > at) nodes.push(seen.slice(at, match.index));
    const kind = Object.keys(match.groups).find((name) => match.groups[name] !== undefined);
    nodes.push(h("span", { class: `wb-c-${kind}` }, match[0]));
    at = match.index + match[0].length;
  }
  return [...nodes, seen.slice(at)];
}

/** Code to read. language: "wgsl" or "python". */
export function listing(text, language, label) {
  return h("pre", { class: "wb-listing", tabindex: "0", "aria-label": label }, highlighted(text, language));
}

/** A place at which a text does not compile, in words. */
export const where = (place) => `line ${place.line}, column ${place.column}${place.in_header ? " of the header" : ""}: ${visible(place.message)}`;

/** A textarea over its own text in colours. Tab indents, Escape leaves, Ctrl+Enter runs. */
export class Editor {
  constructor({ run, leave, changed }) {
    this.gutter = h("pre", { class: "wb-gutter", "aria-hidden": "true" });
    this.colours = h("pre", { class: "wb-colours", "aria-hidden": "true" });
    this.marks = h("div", { "aria-hidden": "true" });
    this.problems = h("ul", { class: "wb-problems" });
    this.area = h("textarea", { spellcheck: "false", autocomplete: "off", autocapitalize: "off", wrap: "off", "aria-label": "WGSL, editable; Tab indents, Escape leaves, Control and Enter run it",
      oninput: () => (this.draw(), changed()),
      onkeydown: (event) => {
        event.stopPropagation();
        if (event.key === "Tab" && !event.shiftKey) (event.preventDefault(), this.insert("  "));
        else if (event.key === "Escape") (event.preventDefault(), leave());
        else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) (event.preventDefault(), run());
      } });
    this.element = h("div", {}, h("div", { class: "wb-editor" }, this.gutter, h("div", { class: "wb-stack" }, this.marks, this.colours, this.area)), this.problems);
    this.mark([]);
  }

  get text() {
    return this.area.value;
  }

  insert(text) {
    // The browser's own way keeps its undo.
    if (!document.execCommand("insertText", false, text)) (this.area.setRangeText(text, this.area.selectionStart, this.area.selectionEnd, "end"), this.area.dispatchEvent(new Event("input")));
  }

  set(text) {
    this.area.value = text;
    this.draw();
  }

  /** Another text, which undo takes back. */
  replace(text) {
    const focused = focusNear(this.area);
    this.area.focus();
    this.area.select();
    this.insert(text);
    if (this.text !== text) this.set(text);
    this.area.setSelectionRange(0, 0);
    focused?.focus?.();
  }

  draw() {
    const count = this.text.split("\n").length;
    if (count !== this.count || this.stale) {
      this.count = count;
      this.stale = false;
      this.gutter.replaceChildren(...Array.from({ length: count }, (_, i) => {
        const bad = this.places.find((place) => place.line === i + 1 && !place.in_header);
        return h("span", { class: bad && "wb-bad", title: bad && visible(bad.message) }, `${bad ? "\u25b8" : ""}${i + 1}\n`);
      }));
    }
    this.colours.replaceChildren(...highlighted(this.text, "wgsl"), "\n");
  }

  /** Lines at which the text does not compile. */
  mark(places) {
    this.places = places;
    this.stale = true;
    const own = places.filter((place) => !place.in_header);
    this.marks.replaceChildren(...own.map((place) => h("div", { class: "wb-mark", style: `top:${LINE * (place.line - 1)}px` })));
    this.problems.replaceChildren(...places.map((place) => h("li", {}, place.in_header ? where(place) : h("button", { type: "button", class: "wb-link", onclick: () => this.go(place) }, where(place)))));
    this.area.setAttribute("aria-invalid", String(places.length > 0));
    this.draw();
  }

  go({ line, column }) {
    const before = this.text.split("\n").slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
    this.area.focus();
    this.area.setSelectionRange(before + column - 1, before + column - 1);
  }
}

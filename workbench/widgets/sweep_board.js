import { field, focusNear, frame, h, scrolls, visible } from "./shared.js";

const STATUSES = ["running", "waiting", "done", "failed"];
const CAN_START = { idle: "Start", stopped: "Resume", lost: "Resume", failed: "Try failed again" };
const SAYS = {
  stopping: "stopping \u2026",
  stopped: "stopped",
  idle: "nothing runs: Start measures what waits, unconverted models first",
  elsewhere: "runs in another process",
  lost: "its process is gone: resume to go on",
};
const inline = (text) => visible(text, { name: true });
const { compare } = new Intl.Collator(undefined, { numeric: true });

/** What a row is sorted by; undefined, which is last in any order, where its cell is empty. */
function value({ status, progress, cells }, column) {
  if (column === "status") return STATUSES.indexOf(status) - progress;
  const found = cells[column];
  return Array.isArray(found) ? found[1] : found || undefined;
}

/** The table: rows by key, drawn when they change and moved when the order does. One of them has the tab stop. */
class Board {
  constructor(chosen, explain) {
    Object.assign(this, { chosen, explain, rows: new Map(), columns: [], order: [], picked: new Set(), matches: () => true });
    this.every = h("input", { type: "checkbox", "aria-label": "select all rows that are shown", onchange: () => this.pick(this.seen(), this.every.checked) });
    this.head = h("tr", {});
    this.body = h("tbody", { onclick: (event) => this.click(event), onkeydown: (event) => this.key(event), onfocusin: (event) => {
      this.point(event.target.closest("tr").dataset.key);
      this.explain(this.rows.get(this.at).data);
    } });
    this.same = h("span", { class: "wb-note" });
    this.element = scrolls(h("div", { class: "wb-board" }, h("table", { "aria-label": "cells" }, h("thead", {}, this.head), this.body)), "cells");
  }

  all({ columns, rows, same }, sort) {
    this.columns = columns;
    this.figures = columns.filter(({ kind }) => kind === "figure").length;
    this.same.textContent = inline(same);
    this.head.replaceChildren(h("th", { scope: "col" }, this.every), ...columns.map(({ name, kind }) =>
      h("th", { scope: "col", "data-kind": kind, "data-column": name }, h("button", { type: "button", onclick: () => sort(name) }, name))));
    const before = this.rows;
    this.rows = new Map(rows.map(({ key }) => [key, before.get(key) ?? this.made(key)]));
    for (const [key, { tr }] of before) if (!this.rows.has(key)) tr.remove();
    [...this.rows.values()].forEach((row, index) => (row.index = index));
    this.update(rows);
  }

  made(key) {
    const box = h("input", { type: "checkbox", tabindex: "-1" });
    return { box, tr: h("tr", { "data-key": key }, h("td", {}, box)) };
  }

  update(changed) {
    for (const data of changed) {
      const row = this.rows.get(data.key);
      if (!row) continue; // this view has just opened, and is told everything by `all`
      row.data = data;
      this.paint(row);
      if (data.key === this.at) this.explain(data);
    }
    this.arrange();
    this.keep();
  }

  paint({ box, tr, data }) {
    box.setAttribute("aria-label", `${inline(data.label)}, ${data.said}`);
    tr.dataset.status = data.status;
    const instead = data.error.trim().split("\n").at(-1) || data.worker; // in the place of figures
    const drawn = this.columns.map(({ name, kind }, at) => {
      if (kind === "figure" && instead)
        return this.columns[at - 1].kind !== kind && h("td", { colspan: this.figures }, inline(instead));
      const found = kind === "status" ? data.said : data.cells[name] ?? "";
      const bar = kind === "status" && data.status === "running" && h("span", { class: "wb-bar", "aria-hidden": "true" }, h("span", { style: `width:${100 * data.progress}%` }));
      return h("td", { "data-kind": kind }, bar, inline(Array.isArray(found) ? found[0] : found));
    });
    tr.replaceChildren(tr.firstChild, ...drawn.filter(Boolean));
    tr.hidden = !this.matches(data);
  }

  /** Put the rows into order; one that is in its place is not touched. */
  arrange() {
    const [column, way] = this.order;
    const sign = way === "descending" ? -1 : 1;
    const found = [...this.rows.values()].map((row) => [row, column && value(row.data, column)]);
    found.sort(([a, x], [b, y]) => {
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined) || a.index - b.index;
      return sign * (typeof x === "number" && typeof y === "number" ? x - y : compare(x, y)) || a.index - b.index;
    });
    const focused = this.body.contains(focusNear(this.body));
    let next = this.body.firstChild;
    for (const [{ tr }] of found) {
      if (tr === next) next = tr.nextSibling;
      else this.body.insertBefore(tr, next);
    }
    if (focused) this.rows.get(this.at).box.focus({ preventScroll: true });
  }

  sort(order) {
    this.order = order;
    for (const th of this.head.children)
      if (th.dataset.column) th.setAttribute("aria-sort", th.dataset.column === order[0] ? order[1] : "none");
    this.arrange();
  }

  filter(matches) {
    this.matches = matches;
    for (const { tr, data } of this.rows.values()) tr.hidden = !matches(data);
    this.keep();
  }

  /** Keys of the rows that are shown, in order. */
  seen() {
    return [...this.body.children].filter((tr) => !tr.hidden).map((tr) => tr.dataset.key);
  }

  /** A shown row has the tab stop, and the box above says what is picked of those that are shown. */
  keep() {
    const seen = this.seen();
    if (!seen.includes(this.at)) this.point(seen[0]);
    const count = seen.filter((key) => this.picked.has(key)).length;
    Object.assign(this.every, { checked: count > 0 && count === seen.length, indeterminate: count > 0 && count < seen.length });
  }

  point(key) {
    for (const each of [this.at, key]) if (this.rows.has(each)) this.rows.get(each).box.tabIndex = each === key ? 0 : -1;
    this.at = key;
  }

  pick(keys, on) {
    const picked = new Set(this.picked);
    for (const key of keys) picked[on ? "add" : "delete"](key);
    this.chosen([...this.rows.keys()].filter((key) => picked.has(key)));
  }

  select(keys) {
    this.picked = new Set(keys);
    for (const [key, { box, tr }] of this.rows) {
      box.checked = this.picked.has(key);
      tr.classList.toggle("wb-picked", box.checked);
    }
    this.keep();
  }

  /** Keys of the rows from the one that was picked last to this one. */
  span(key) {
    const seen = this.seen();
    const [from, to] = [seen.indexOf(this.anchor), seen.indexOf(key)].sort((a, b) => a - b);
    return from < 0 ? [key] : seen.slice(from, to + 1);
  }

  click(event) {
    const key = event.target.closest("tr").dataset.key;
    const { box } = this.rows.get(key);
    this.pick(event.shiftKey ? this.span(key) : [key], event.target === box ? box.checked : !box.checked);
    this.anchor = key;
    box.focus({ preventScroll: true });
  }

  key(event) {
    const seen = this.seen();
    const at = seen.indexOf(this.at);
    const moves = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 10, PageUp: at - 10, Home: 0, End: seen.length };
    if (Object.hasOwn(moves, event.key)) {
      const to = seen[Math.min(seen.length - 1, Math.max(0, moves[event.key]))];
      if (!event.shiftKey) this.anchor = to;
      else this.pick(this.span(to), true);
      this.rows.get(to).box.focus();
    } else if (event.key === "a" && (event.ctrlKey || event.metaKey)) this.pick(seen, true);
    else if (event.key === "Enter") this.pick([this.at], !this.picked.has(this.at));
    else return;
    event.preventDefault();
  }
}

function render({ model, el }) {
  const view = frame(model, el, "sweep_board", "Sweep board");
  const set = (name, to) => {
    model.set(name, to);
    model.save_changes();
  };
  const detail = h("div", { class: "wb-detail" });
  const board = new Board((keys) => set("selection", keys), ({ label, said, worker, key, error, doubts }) => {
    const facts = [said, worker, `key ${key}`].filter(Boolean).map(inline).join(" \u00b7 ");
    detail.replaceChildren(h("b", {}, inline(label)), " ", h("span", { class: "wb-note" }, facts));
    detail.append(...doubts.map((each) => h("div", { class: "wb-alert" }, inline(each))));
    if (error) detail.append(h("pre", { tabindex: "0", "aria-label": "error" }, visible(error)));
  });
  const button = (text, onclick, more) => h("button", { type: "button", onclick, ...more }, text);
  const headline = h("b", {});
  const bar = h("progress", { max: 1, "aria-label": "share of the sweep that is done" });
  const doubtful = h("div", { class: "wb-doubts" });
  const [status, shown, note] = [0, 0, 0].map(() => h("span", { class: "wb-note" }));
  const live = h("span", { class: "wb-unseen", role: "status" });
  const processes = h("input", { type: "number", min: 1, step: 1 });
  const place = field("processes", processes);
  const start = button("Start", () => {
    status.textContent = "starting \u2026";
    view.tell("start", { processes: Math.max(1, Math.round(processes.value)) });
  }, { class: "wb-main" });
  const stop = button("Stop", () => {
    status.textContent = SAYS.stopping;
    view.tell("stop");
  });
  const search = h("input", { type: "search", placeholder: "int4 hqq", oninput: () => set("search", search.value) });
  const filters = STATUSES.map((name) => button(name, () => {
    const only = model.get("only");
    set("only", only.includes(name) ? only.filter((each) => each !== name) : [...only, name]);
  }));
  view.section.append(
    h("div", { class: "wb-row wb-actions" }, start, stop, place, status, live), view.alert,
    h("div", { class: "wb-told" }, headline, bar, note, board.same), doubtful,
    h("div", { class: "wb-row wb-actions" }, field("filter", search), h("div", { class: "wb-filters", role: "group", "aria-label": "show only" }, filters), shown),
    board.element, detail);

  const say = () => {
    const [seen, all, picked] = [board.seen().length, board.rows.size, board.picked.size];
    shown.textContent = [seen < all && `${seen} of ${all} shown`, picked && `${picked} selected`].filter(Boolean).join(" \u00b7 ");
  };
  const refilter = () => {
    const [words, only] = [model.get("search").toLowerCase().split(/\s+/), model.get("only")];
    board.filter(({ label, said, worker, error, status }) => {
      const text = [label, said, worker, error].join(" ").toLowerCase();
      return (!only.length || only.includes(status)) && words.every((word) => text.includes(word));
    });
    filters.forEach((each, at) => each.setAttribute("aria-pressed", String(only.includes(STATUSES[at]))));
    say();
  };
  const sort = (name) => {
    const [column, way] = model.get("order");
    set("order", column !== name ? [name, "ascending"] : way === "ascending" ? [name, "descending"] : []);
  };

  view.changed("told", () => {
    const { headline: text = "", counts = {}, progress = 0, note: more = "", doubts = [] } = model.get("told");
    headline.textContent = inline(text);
    bar.value = progress;
    note.textContent = inline(more);
    doubtful.hidden = !doubts.length;
    doubtful.replaceChildren(...doubts.map((each) => h("div", { class: "wb-alert" }, inline(each))));
    filters.forEach((each, at) => (each.textContent = `${STATUSES[at]} ${counts[STATUSES[at]] ?? 0}`));
    const spoken = `${counts.done ?? 0} cells done, ${counts.failed ?? 0} failed`;
    if (live.textContent !== spoken) live.textContent = spoken; // heard when a cell has ended, and not every second
  });
  view.changed("state", () => {
    const state = model.get("state");
    view.section.dataset.state = state;
    const held = [start, stop].includes(focusNear(view.section));
    start.textContent = CAN_START[state] ?? start.textContent;
    start.disabled = processes.disabled = !CAN_START[state];
    stop.disabled = !["running", "stopping"].includes(state);
    if (held) (start.disabled ? stop : start).focus(); // what goes out of use hands its focus on
    status.textContent = SAYS[state] ?? "";
  });
  view.changed("cluster", () => (place.hidden = model.get("cluster")));
  view.changed("processes", () => (processes.value = model.get("processes")));
  view.changed("search", () => {
    if (search.value !== model.get("search")) search.value = model.get("search");
    refilter();
  });
  view.changed("only", refilter);
  view.changed("order", () => board.sort(model.get("order")));
  view.changed("selection", () => (board.select(model.get("selection")), say()));
  view.heard({
    all: (content) => {
      board.all(content, sort);
      board.sort(model.get("order"));
      board.select(model.get("selection"));
      say();
    },
    rows: ({ rows }) => (board.update(rows), say()),
  });
  view.tell("hello");
  return view.close;
}

export default { render };

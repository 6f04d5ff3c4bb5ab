// What goes wrong in a page, told so that a reader knows what to do.

/** An error of the page's own; `kind` says what it is about, for code that wants to go on. */
export class BrowserError extends Error {
  /** @param {ErrorKind} kind @param {string} message @param {unknown} [cause] */
  constructor(kind, message, cause) {
    super(message, { cause });
    this.name = "BrowserError";
    this.kind = kind;
  }
}

/** One that says what another says. @param {ErrorKind} kind @param {string} what @param {any} cause */
export const because = (kind, what, cause) => new BrowserError(kind, `${what}: ${cause.message}`, cause);

/** @param {number} position */
export const notFinite = (position) =>
  new BrowserError("not-finite", `the logits are not finite at or before position ${position}: weights or activations overflow`);

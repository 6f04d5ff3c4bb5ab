// What goes wrong in a page, told so that a reader knows what to do.

/**
 * @typedef {"no-webgpu" | "no-adapter" | "missing-feature" | "limits" | "out-of-memory" | "device-lost" | "device"
 *   | "not-found" | "damaged" | "unsupported" | "input" | "context" | "not-finite" | "worker"} Kind
 */

/** An error of the page's own; `kind` says what it is about, for code that wants to go on. */
export class BrowserError extends Error {
  /**
   * @param {Kind} kind
   * @param {string} message
   * @param {unknown} [cause]
   */
  constructor(kind, message, cause) {
    super(message, { cause });
    this.name = "BrowserError";
    this.kind = kind;
  }
}

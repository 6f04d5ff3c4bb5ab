// Both ends of a port between a page and its worker. Calls are {call, name, given}; answers are {call, event}, then {call, done}
// or {call, error}.

import { BrowserError } from "./errors.js";

/**
 * @param {{postMessage: (message: object) => void, onmessage: ((event: MessageEvent) => void) | null}} port @param {Calls} calls
 */
export function serve(port, calls) {
  port.onmessage = async ({ data: { call, name, given } }) => {
    try {
      port.postMessage({ call, done: await calls[name](given, (event) => port.postMessage({ call, event })) });
    } catch (error) {
      const { kind, message, stack } = /** @type {BrowserError} */ (error);
      port.postMessage({ call, error: { kind, message: kind ? message : `something unforeseen: ${stack ?? error}` } });
    }
  };
}

/** Calls of a service, answered. */
export class Engine {
  /** @param {Worker | MessagePort} port */
  constructor(port) {
    this.port = port;
    this.count = 0;
    /** @type {Map<number, Waiting>} */
    this.waiting = new Map();
    /** What ended the service. @type {BrowserError | null} */
    this.failure = null;
    port.onmessage = ({ data }) => this.hear(data);
    if (port instanceof Worker) {
      port.onerror = ({ message }) => this.end(`the browser ended the model's worker (${message || "no reason given"}); load again`);
    }
  }

  /**
   * A page's models: in a worker, or in the page where only that has WebGPU.
   * @param {Served} service @param {(progress: any) => void} onProgress
   * @returns {Promise<[Engine, any]>} what the service's `load` answers
   */
  static async load(service, onProgress) {
    const engine = new Engine(new Worker(new URL(service.worker, document.baseURI), { type: "module" }));
    const given = { base: document.baseURI };
    try {
      return [engine, await engine.call("load", given, onProgress)];
    } catch (error) {
      engine.end("the worker was closed");
      if (!(error instanceof BrowserError && error.kind === "no-webgpu" && navigator.gpu)) throw error;
    }
    const { calls } = await service.calls();
    const { port1, port2 } = new MessageChannel();
    serve(port1, calls(navigator.gpu));
    const here = new Engine(port2);
    return [here, await here.call("load", given, onProgress)];
  }

  /** @param {string} name @param {object} [given] @param {(event: any) => void} [event] @returns {Promise<any>} */
  call(name, given, event) {
    return new Promise((done, failed) => {
      if (this.failure) return failed(this.failure);
      this.count += 1;
      this.waiting.set(this.count, { event, done, failed });
      this.port.postMessage({ call: this.count, name, given });
    });
  }

  /** @param {{call: number, event?: unknown, done?: unknown, error?: {kind?: ErrorKind, message: string}}} data */
  hear({ call, event, done, error }) {
    const waiting = this.waiting.get(call);
    if (!waiting) return;
    if (event !== undefined) return waiting.event?.(event);
    this.waiting.delete(call);
    if (error) waiting.failed(error.kind ? new BrowserError(error.kind, error.message) : new Error(error.message));
    else waiting.done(done);
  }

  /** Nothing more is computed; what waits fails. @param {string} why */
  end(why) {
    this.failure ??= new BrowserError("worker", why);
    if (this.port instanceof Worker) this.port.terminate();
    else this.port.close();
    for (const { failed } of this.waiting.values()) failed(this.failure);
    this.waiting.clear();
  }
}

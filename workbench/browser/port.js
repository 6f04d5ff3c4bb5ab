// Calls that come through a port, as a worker's page sends them: {call, name, given}. Answers are {call, event} as they come,
// then {call, done} or {call, error}.

/** @typedef {Record<string, (given: any, tell: (event: object) => void) => unknown>} Calls */

/**
 * @param {{postMessage: (message: object) => void, onmessage: ((event: MessageEvent) => void) | null}} port
 * @param {Calls} calls
 */
export function serve(port, calls) {
  port.onmessage = async ({ data: { call, name, given } }) => {
    try {
      port.postMessage({ call, done: await calls[name](given, (event) => port.postMessage({ call, event })) });
    } catch (error) {
      const { kind, message, stack } = /** @type {import("./errors.js").BrowserError} */ (error);
      port.postMessage({ call, error: { kind, message: kind ? message : `something unforeseen: ${stack ?? error}` } });
    }
  };
}

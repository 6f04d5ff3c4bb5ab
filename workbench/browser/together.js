// One prompt continued twice, as two sequences of one session: a step has a row of each, so weights are read once for both.

import { Sampler } from "./drawing.js";
import { BrowserError } from "./errors.js";

/** What the head of programs with a row of each of two sequences is called: TOGETHER in workbench/runtime/export.py. */
const HEAD = "together";
export const ROWS = 2;

/** @typedef {"length" | "context" | "eos" | "enough"} Reason */

/**
 * The tokens that follow a prompt under each of two settings, drawn as `Session.generate` draws them; a text that has ended
 * has undefined. Returns why each ended. The session holds the prompt afterwards.
 * @param {import("./session.js").Session} session of two sequences
 * @param {number[]} ids
 * @param {{count: number, settings: import("./sampling.js").Options[], ends?: Set<number>,
 *   enough?: (row: number) => boolean}} wanted enough: whether no more is wanted of a text
 * @returns {AsyncGenerator<(number | undefined)[], Reason[]>}
 */
export async function* together(session, ids, { count, settings, ends = new Set(), enough = () => false }) {
  const { player } = session;
  const program = player.programs.find(({ target }) => target.head === HEAD);
  if (!program) throw new BrowserError("unsupported", "this model's programs have one sequence; write its page anew");
  if (session.sequences !== ROWS || settings.length !== ROWS) {
    throw new BrowserError("input", `${settings.length} settings, ${session.sequences} sequences; allowed: ${ROWS} of both`);
  }
  if (!ids.length) throw new BrowserError("input", "the prompt is empty, and there is no token that begins a text");
  const samplers = settings.map((options) => new Sampler(options));
  player.working += 1;
  try {
    await session.prefill(ids);
    const recorded = await session.record(program);
    share(session);
    return yield* rows(session, program, recorded, ids, { count, samplers, ends, enough });
  } finally {
    player.working -= 1;
  }
}

/**
 * @param {import("./session.js").Session} session
 * @param {import("./player.js").Program} program
 * @param {import("./player.js").Recorded} recorded
 * @param {number[]} ids
 * @param {{count: number, samplers: Sampler[], ends: Set<number>, enough: (row: number) => boolean}} wanted
 * @returns {AsyncGenerator<(number | undefined)[], Reason[]>}
 */
async function* rows(session, program, recorded, ids, { count, samplers, ends, enough }) {
  const { device, player, vocabSize } = session;
  const texts = samplers.map(() => ids.slice());
  const room = session.capacity - session.position;
  /** @type {(Reason | undefined)[]} */
  const ended = samplers.map(() => undefined);
  const logits = /** @type {GPUBuffer} */ (player.buffers.get(program.buffers[program.values.logits[0]].name));
  const bytes = 4 * ROWS * vocabSize;
  const staging = device.staging(bytes);
  session.write("result_rows", Uint32Array.of(0, 1));
  try {
    for (let step = 0; step < Math.min(count, room); step++) {
      ended.forEach((reason, row) => !reason && enough(row) && (ended[row] = "enough"));
      if (ended.every(Boolean)) break;
      const position = ids.length - 1 + step;
      session.write("ids", Uint32Array.from(texts, (text) => /** @type {number} */ (text.at(-1))));
      // position, real, sequence, steps so far
      session.write("state", Uint32Array.from(texts.flatMap((_, row) => [position, 1, row, 0])));
      session.run(recorded, position, 1, 1, (encoder) => encoder.copyBufferToBuffer(logits, 0, staging, 0, bytes));
      const data = await device.mapped(staging, bytes);
      const found = texts.map((text, row) => {
        if (ended[row]) return undefined;
        const token = samplers[row].draw(new Float32Array(data, 4 * row * vocabSize, vocabSize), position + 1, text);
        if (token === undefined) {
          throw new BrowserError(
            "not-finite",
            `the logits are not finite at or before position ${position + 1}: weights or activations overflow`,
          );
        }
        text.push(token);
        if (ends.has(token)) ended[row] = "eos";
        return ended[row] ? undefined : token;
      });
      if (found.some((token) => token !== undefined)) yield found;
    }
    return ended.map((reason) => reason ?? (count > room ? "context" : "length"));
  } finally {
    staging.destroy();
  }
}

/** What the first sequence has in its caches, the second has too. @param {import("./session.js").Session} session */
function share({ device, player, own }) {
  const { gpu } = device;
  const caches = player.sizes((kind) => kind === "cache", 1);
  const size = Math.max(0, ...Array.from(caches.values(), ({ bytes }) => bytes));
  // no copy goes from a buffer to itself
  const between = gpu.createBuffer({ size, usage: GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST });
  const encoder = gpu.createCommandEncoder();
  for (const [name, { bytes }] of caches) {
    const cache = /** @type {GPUBuffer} */ (own.get(name));
    encoder.copyBufferToBuffer(cache, 0, between, 0, bytes);
    encoder.copyBufferToBuffer(between, 0, cache, bytes, bytes);
  }
  gpu.queue.submit([encoder.finish()]);
  between.destroy();
}

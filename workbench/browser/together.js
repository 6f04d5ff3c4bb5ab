// One prompt continued twice, as two sequences of one session: a step has a row of each, so weights are read once for both.

import { Sampler } from "./drawing.js";
import { BrowserError, notFinite } from "./errors.js";
import { checkCount } from "./sampling.js";

/** Of programs with a row of each of two sequences: TOGETHER in workbench/runtime/export.py. */
const HEAD = "together";
export const ROWS = 2;

/**
 * The tokens that follow a prompt under each of two settings, as `Session.generate` draws them, undefined of a text that has
 * ended; why each ended. The session holds the prompt afterwards.
 * @param {Session} session of two sequences @param {number[]} ids @param {Together} wanted
 * @returns {AsyncGenerator<(number | undefined)[], Reason[]>}
 */
export async function* together(session, ids, { count, settings, ends = new Set(), enough = () => false }) {
  const { device, player, vocabSize } = session;
  const program = player.programs.find(({ target }) => target.head === HEAD);
  if (!program) throw new BrowserError("unsupported", "this model's programs have one sequence; write its page anew");
  if (session.sequences !== ROWS || settings.length !== ROWS) {
    throw new BrowserError("input", `${settings.length} settings, ${session.sequences} sequences; allowed: ${ROWS} of both`);
  }
  checkCount(count);
  const samplers = settings.map((options) => new Sampler(options));
  const bytes = 4 * ROWS * vocabSize;
  const staging = device.staging(bytes);
  const texts = samplers.map(() => ids.slice());
  /** @type {(Reason | undefined)[]} */
  const ended = samplers.map(() => undefined);
  player.working += 1;
  try {
    await session.prefill(ids);
    const recorded = await session.record(program);
    share(session);
    session.write("result_rows", Uint32Array.of(0, 1));
    const logits = player.value(program, "logits").buffer;
    const room = session.capacity - session.position;
    for (let step = 0; step < Math.min(count, room); step++) {
      ended.forEach((reason, row) => !reason && enough(row) && (ended[row] = "stopped"));
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
        if (token === undefined) throw notFinite(position + 1);
        text.push(token);
        if (ends.has(token)) ended[row] = "eos";
        return ended[row] ? undefined : token;
      });
      if (found.some((token) => token !== undefined)) yield found;
    }
    return ended.map((reason) => reason ?? (count > room ? "context" : "length"));
  } finally {
    player.working -= 1;
    staging.destroy();
  }
}

/** The second sequence's caches become the first's. @param {Session} session */
function share({ device, player, own }) {
  const { gpu } = device;
  const caches = player.sizes((kind) => kind === "cache", 1);
  const size = Math.max(0, ...Array.from(caches.values(), ({ bytes }) => bytes));
  // no copy goes from a buffer to itself
  const between = gpu.createBuffer({ size, usage: GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST });
  const encoder = gpu.createCommandEncoder();
  for (const [name, { bytes }] of caches) {
    const cache = own.get(name);
    encoder.copyBufferToBuffer(cache, 0, between, 0, bytes);
    encoder.copyBufferToBuffer(between, 0, cache, bytes, bytes);
  }
  gpu.queue.submit([encoder.finish()]);
  between.destroy();
}

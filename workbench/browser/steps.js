// A text in steps of the programs that end in one head, for what they say of each token: logits, or how likely targets were.

/** @typedef {{start: number, count: number, rows: Float32Array<ArrayBuffer>}} Rows of the tokens from `start` on, without padding */

/**
 * Append tokens to a session; what comes of each step.
 * @param {Session} session
 * @param {number[]} ids
 * @param {string} head
 * @param {string} value of the program's, a row a token
 * @param {Record<string, number[]>} [inputs] of a row each, beside the ids
 * @returns {AsyncGenerator<Rows>}
 */
export async function* steps(session, ids, head, value, inputs = {}) {
  const { player, device } = session;
  session.check(ids);
  for (let start = 0; start < ids.length; ) {
    const left = ids.length - start;
    const program = player.fitting(head, left);
    const recorded = await session.record(program);
    const count = Math.min(program.target.tokens, left);
    for (const [name, all] of Object.entries({ ids, ...inputs })) {
      const padded = new Uint32Array(program.target.tokens);
      padded.set(all.slice(start, start + count));
      session.write(name, padded);
    }
    const { buffer, shape } = player.value(program, value);
    const bytes = 4 * count * shape.slice(1).reduce((product, size) => product * size, 1);
    const staging = device.staging(bytes);
    session.submit(recorded, session.position, count, 1, (encoder) => encoder.copyBufferToBuffer(buffer, 0, staging, 0, bytes));
    session.ids.push(...ids.slice(start, start + count));
    const data = await device.mapped(staging, bytes).finally(() => staging.destroy());
    yield { start, count, rows: new Float32Array(data) };
    start += count;
  }
}

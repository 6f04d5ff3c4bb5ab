// A text in steps of the programs that end in one head, for what they say of each token: logits, or how likely targets were.

/**
 * Append tokens to a session; what comes of each step: rows of `count` tokens from `start` on, without padding.
 * @param {Session} session
 * @param {number[]} ids
 * @param {string} head
 * @param {string} value of the program's, a row a token
 * @param {Record<string, number[]>} [inputs] of a row each, beside the ids
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
    session.submit(recorded, session.position, count, 1);
    session.ids.push(...ids.slice(start, start + count));
    yield { start, count, rows: new Float32Array(await device.read(buffer, bytes)) };
    start += count;
  }
}

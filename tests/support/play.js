// What tests have the browser's modules do, in Node and in a page alike.
import { Model } from "../../workbench/browser/model.js";

async function played(gpu, read, { ids, count, options, activations, without }) {
  const model = await Model.load(without ? undefined : gpu, read, { activations });
  const session = await model.session();
  const logits = Array.from(await session.feed(ids));
  const tokens = [];
  for await (const token of session.generate(ids, { count })) tokens.push(token);
  const drawn = [];
  if (options) for await (const token of session.generate(ids, { count, options })) drawn.push(token);
  const answer = { adapter: model.device.name, logits, tokens, drawn, position: session.position };
  session.close();
  model.close();
  return answer;
}

/**
 * @param {GPU} gpu
 * @param {import("../../workbench/browser/loader.js").Read} read
 * @param {{ids: number[], count: number, options?: object, activations?: "f32" | "f16", without?: boolean}} request
 *   without: as if there were no WebGPU
 */
export async function play(gpu, read, request) {
  try {
    return await played(gpu, read, request);
  } catch (error) {
    if (!error.kind) throw error;
    return { error: { kind: error.kind, message: error.message } };
  }
}

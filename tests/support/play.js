// What tests have the browser's modules do, in Node and in a page alike.
import { Model } from "../../workbench/browser/model.js";

/**
 * @param {GPU} gpu
 * @param {import("../../workbench/browser/loader.js").Read} read
 * @param {{ids: number[], count: number, options?: object, activations?: "f32" | "f16"}} request
 */
export async function play(gpu, read, { ids, count, options, activations }) {
  let model;
  try {
    model = await Model.load(gpu, read, { activations });
  } catch (error) {
    return { error: { kind: error.kind, message: error.message } };
  }
  const session = await model.session();
  const logits = Array.from(await session.feed(ids));
  const tokens = [];
  for await (const token of session.generate(ids, { count })) tokens.push(token);
  const drawn = [];
  if (options) for await (const token of session.generate(ids, { count, options })) drawn.push(token);
  const answer = { adapter: model.device.name, logits, tokens, drawn, position: session.position, allocated: model.device.allocated };
  session.close();
  model.close();
  return answer;
}

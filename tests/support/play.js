// What tests have the browser's modules do, in Node and in a page alike.
import { Model } from "../../workbench/browser/model.js";
import { together } from "../../workbench/browser/together.js";

const failed = (promise) => promise.then(() => "none", ({ kind, message }) => `${kind}: ${message}`);

/** What is said of ids that cannot be fed, and of logits that are no numbers since weights are none. */
async function refusals(model, session, { ids, count, refused }) {
  const feeds = [];
  for (const each of refused) feeds.push(await failed(session.feed(each)));
  const [, buffer] = [...model.player.buffers].find(([name]) => name.includes("norm"));
  model.device.write(buffer, 0, new Float32Array(buffer.size / 4).fill(NaN));
  const all = async (stream) => { for await (const _ of stream); };
  const fed = await failed(session.feed(ids));
  const position = session.position;
  const greedy = await failed(all(session.generate(ids, { count })));
  const drawn = await failed(all(session.generate(ids, { count, options: { temperature: 1 } })));
  return { feeds, fed, position, greedy, drawn };
}

/** What two settings make of each prompt together, and each alone on the device. */
async function pairs(model, { prompts, count, settings }) {
  const session = await model.session(2);
  const runs = [];
  let end; // a token that only the first text has: the last prompt is to end there
  for (const [n, ids] of prompts.entries()) {
    const ends = new Set(n === prompts.length - 1 ? [end] : []);
    const both = settings.map(() => []);
    const rows = together(session, ids, { count, settings, ends });
    let next = await rows.next();
    for (; !next.done; next = await rows.next()) {
      next.value.forEach((token, row) => token !== undefined && both[row].push(token));
    }
    const alone = [];
    for (const options of settings) {
      alone.push([]);
      for await (const token of session.generate(ids, { count, options, ends })) alone.at(-1).push(token);
    }
    if (n === 0) end = both[0].find((token) => !both[1].includes(token));
    runs.push({ both, alone, reasons: next.value });
  }
  const wrong = await failed(together(await model.session(), prompts[0], { count, settings }).next());
  return { runs, end, wrong };
}

/** The same without the features of WGSL that browsers may lack. */
const plain = (gpu) => ({ requestAdapter: (how) => gpu.requestAdapter(how), wgslLanguageFeatures: new Set() });

async function played(gpu, read, { ids, count, options, activations, without, refused, back, settings, prompts }) {
  const given = { nothing: undefined, features: plain(gpu) };
  const model = await Model.load(without ? given[without] : gpu, read, { activations: activations ?? undefined });
  if (settings) return pairs(model, { prompts, count, settings });
  const session = await model.session();
  if (refused) {
    const said = await refusals(model, session, { ids, count, refused });
    model.close();
    return said;
  }
  const logits = Array.from(await session.feed(ids));
  const tokens = [];
  for await (const token of session.generate(ids, { count })) tokens.push(token);
  const drawn = [];
  if (options) for await (const token of session.generate(ids, { count, options })) drawn.push(token);
  const { bundle, offered, device } = model;
  const answer = { adapter: device.name, bundle, offered, logits, tokens, drawn, position: session.position };
  if (back) {
    session.reset(back.length);
    answer.refused = await failed(session.feed(ids.slice(0, 1)));
    answer.again = [];
    for await (const token of session.generate(back, { count })) answer.again.push(token);
  }
  session.close();
  model.close();
  return answer;
}

/**
 * @param {GPU} gpu
 * @param {import("../../workbench/browser/loader.js").Read} read
 * @param {{ids: number[], count: number, options?: object, activations?: string | null, without?: "nothing" | "features",
 *   refused?: number[][], back?: number[], settings?: object[], prompts?: number[][]}} request settings: two that continue
 *   prompts together; without: as if there were no WebGPU, or no features of WGSL; refused: ids that cannot be fed;
 *   back: the beginning of ids, to be continued afterwards
 */
export async function play(gpu, read, request) {
  try {
    return await played(gpu, read, request);
  } catch (error) {
    if (!error.kind) throw error;
    return { error: { kind: error.kind, message: error.message } };
  }
}

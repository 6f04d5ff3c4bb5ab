// node native_speed_node.js FOLDER [TOGGLES]: plays a model in Dawn, of the npm package `webgpu` installed in FOLDER, as it is
// asked to. A request is a line of JSON on stdin, {do, ...}, and its answer a line on stdout.
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

import { Model } from "../../workbench/browser/model.js";
import { Recorded } from "../../workbench/browser/player.js";
import { reading } from "./reading_node.js";

const [installed, ...toggles] = process.argv.slice(2);
const require = createRequire(join(resolve(installed), "package.json"));
const { create, globals } = await import(pathToFileURL(require.resolve("webgpu")).href);
Object.assign(globalThis, globals);
const gpu = create(toggles);
let model;
let session;

const run = {
  /** Lanes of the adapter's subgroups, as `Device.open` finds them. */
  async adapter() {
    const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
    if (!adapter) return { missing: "no adapter" };
    const { subgroupMinSize: least, subgroupMaxSize: most = 0 } = adapter.info;
    return { lanes: adapter.features.has("subgroups") && least === most ? most : 0 };
  },

  /** Until `close`. rows: of the longest prompt. */
  async load({ folder, activations, rows }) {
    const wanted = ({ head, tokens }) => head === "greedy" || (head === "last" && tokens <= rows);
    model = await Model.load(gpu, reading(folder), { activations, wanted });
    await Promise.all(model.player.programs.map((program) => model.player.compile(program))); // nothing compiles beside
    session = await model.session();
    const { name, gpu: device } = model.device;
    const runtime = `Node ${process.versions.node}, webgpu ${require("webgpu/package.json").version}`;
    return { adapter: name, runtime, bundle: model.bundle, features: [...device.features] };
  },

  /** Greedy tokens behind a prompt, and the seconds from the first of them to the last. */
  async write({ ids, count }) {
    session.reset();
    const tokens = [];
    let first;
    for await (const token of session.generate(ids, { count })) {
      first ??= performance.now();
      tokens.push(token);
    }
    return { tokens, seconds: (performance.now() - first) / 1000 };
  },

  /**
   * Of groups of greedy steps behind a position: microseconds a dispatch that recording takes, in its three parts, and
   * microseconds a step from when all groups are recorded until they have run. without: a kernel that is left out.
   */
  async record({ position, steps, groups, without }) {
    const program = model.player.programs.find(({ target }) => target.head === "greedy");
    const { label, rows, calls } = await session.record(program);
    const left = ([pipeline]) => program.pipelines[pipeline].label !== without;
    const recorded = new Recorded(label, rows, calls.filter((_, n) => left(program.dispatches[n])));
    const { queue } = model.device.gpu;
    await queue.onSubmittedWorkDone();
    session.writeState(position, 1, 1);
    const spent = { encode: 0, finish: 0, submit: 0 };
    const commands = [];
    for (let group = 0; group < groups; group++) {
      const began = performance.now();
      const encoder = model.device.gpu.createCommandEncoder();
      recorded.encode(encoder, steps);
      const encoded = performance.now();
      commands.push(encoder.finish());
      spent.encode += encoded - began;
      spent.finish += performance.now() - encoded;
    }
    const recordedAll = performance.now();
    queue.submit(commands);
    spent.submit = performance.now() - recordedAll;
    await queue.onSubmittedWorkDone();
    const step = (1000 * (performance.now() - recordedAll)) / (groups * steps);
    model.device.check();
    const dispatches = recorded.calls.length;
    for (const part of Object.keys(spent)) spent[part] *= 1000 / (groups * steps * dispatches);
    return { ...spent, step, dispatches };
  },

  /** The kernel of each dispatch of a greedy step. */
  async kernels() {
    const { pipelines, dispatches } = model.player.programs.find(({ target }) => target.head === "greedy");
    return { labels: dispatches.map(([pipeline]) => pipelines[pipeline].label) };
  },

  async close() {
    session.close();
    model.close();
    return {};
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  const answer = await run[request.do](request).catch((error) => ({ error: `${error.kind ?? error.name}: ${error.message}` }));
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0); // Dawn's threads would keep the process

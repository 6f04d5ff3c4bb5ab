// Reads {"sources": [WGSL, ...], "features": [...]} from stdin; Dawn prints each source and the SPIR-V that Tint makes of it,
// with its own names. A driver is needed, but nothing runs.
import { readFileSync } from "node:fs";
import { create, globals } from "webgpu";

Object.assign(globalThis, globals);
const { sources, features } = JSON.parse(readFileSync(0, "utf8"));
const gpu = create(["enable-dawn-features=dump_shaders,disable_symbol_renaming"]);
const adapter = await gpu.requestAdapter();
if (!adapter) throw new Error("no adapter");
const device = await adapter.requestDevice({ requiredFeatures: features });
for (const code of sources) {
  const module = device.createShaderModule({ code });
  device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } });
}
await device.queue.onSubmittedWorkDone();
process.exit(0);

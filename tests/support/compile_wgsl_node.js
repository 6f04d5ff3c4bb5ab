// Reads {"sources": {name: WGSL}, "features": [...]} from stdin and prints compileAll's answer as JSON.
// Dawn's null backend validates and compiles without a GPU.
import { readFileSync } from "node:fs";
import { create, globals } from "webgpu";

import { compileAll } from "./compile_wgsl.js";

Object.assign(globalThis, globals);
const { sources, features } = JSON.parse(readFileSync(0, "utf8"));
const answer = await compileAll(create(["backend=null"]), sources, features);
process.stdout.write(JSON.stringify(answer));

// Reads a request from stdin, plays it with the browser's modules on Dawn for Node, and prints the answer as JSON.
import { readFileSync } from "node:fs";
import { create, globals } from "webgpu";

import { play } from "./play.js";
import { reading } from "./reading_node.js";

Object.assign(globalThis, globals);
const request = JSON.parse(readFileSync(0, "utf8"));

const gpu = create([]);
const answer = (await gpu.requestAdapter()) ? await play(gpu, reading(request.folder), request) : { missing: "no adapter" };
process.stdout.write(JSON.stringify(answer), () => process.exit(0)); // Dawn's threads would keep the process

// node certify.js CASES FOLDER: what comes of a file of cases on Dawn, of the npm package `webgpu` installed in FOLDER, sealed.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

import { certificate, certify } from "../certificate.js";

const [cases, folder] = process.argv.slice(2);
const require = createRequire(join(resolve(folder), "package.json"));
const { create, globals } = await import(pathToFileURL(require.resolve("webgpu")).href);
Object.assign(globalThis, globals);
const gpu = create([]);
const runtime = `Node ${process.versions.node}, Dawn ${require("webgpu/package.json").version}`;
const NO_ADAPTER = "Dawn finds no GPU here; VK_DRIVER_FILES may name the file of a Vulkan driver";
const answer = await certify(gpu, new Uint8Array(readFileSync(cases)), runtime).then(certificate, ({ kind, message }) =>
  JSON.stringify({ error: kind === "no-adapter" ? NO_ADAPTER : message }),
);
process.stdout.write(answer, () => process.exit(0)); // Dawn's threads would keep the process

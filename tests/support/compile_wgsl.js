// Compiles WGSL as far as a WebGPU implementation takes it without running anything. Used by both hosts of Tint:
// Node (compile_wgsl_node.js) and a page in Chromium (tint.py).

/** Names of the compute entry points, in order of appearance. */
export function entryPoints(source) {
  const code = source.replace(/\/\/[^\n]*/g, "").replace(/\/\*[^]*?\*\//g, "");
  return [...code.matchAll(/@compute\b[^]*?\bfn\s+([^\s(]+)/g)].map((match) => match[1]);
}

async function compile(device, source) {
  const errors = [];
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code: source });
  const { messages } = await module.getCompilationInfo();
  for (const { type, lineNum, linePos, message } of messages) {
    if (type === "error") errors.push(`${lineNum}:${linePos}: ${message}`);
  }
  const invalid = await device.popErrorScope();
  if (errors.length === 0 && invalid) errors.push(invalid.message);
  if (errors.length > 0) return errors;

  // Sizes, bindings and overrides are checked only when a pipeline is made.
  const names = entryPoints(source);
  if (names.length === 0) return ["no compute entry point"];
  for (const entryPoint of names) {
    try {
      await device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint } });
    } catch (error) {
      errors.push(`${entryPoint}: ${error.message}`);
    }
  }
  return errors;
}

/**
 * Compile every source under the limits that WebGPU promises everywhere.
 * @param {GPU} gpu
 * @param {Object<string, string>} sources WGSL by name
 * @param {string[]} features WebGPU features that the device is asked for
 * @returns {Promise<{results?: Object<string, string[]>, missing?: string[]}>} errors by name, or features not offered
 */
export async function compileAll(gpu, sources, features) {
  const adapter = await gpu.requestAdapter();
  if (!adapter) throw new Error("no WebGPU adapter");
  const missing = features.filter((feature) => !adapter.features.has(feature));
  if (missing.length > 0) return { missing };
  const device = await adapter.requestDevice({ requiredFeatures: features });
  const results = {};
  for (const [name, source] of Object.entries(sources)) results[name] = await compile(device, source);
  device.destroy();
  return { results };
}

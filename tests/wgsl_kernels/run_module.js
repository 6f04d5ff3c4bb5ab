// Runs compute modules in a page, one after the other, on a device with the limits that every browser promises.

const decode = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

function encode(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
}

/**
 * Outputs of one call by name, base64. A call: {name, code, grid, buffers: [{name, binding, type, data, read}], lanes},
 * lanes: of the subgroups that it was written for, 0 for any.
 */
async function run(device, info, { name, code, grid, buffers, lanes }) {
  if (lanes && !(info.subgroupMinSize === lanes && info.subgroupMaxSize === lanes)) {
    throw new Error(`${name} is for subgroups of ${lanes}, not ${info.subgroupMinSize} to ${info.subgroupMaxSize}`);
  }
  device.pushErrorScope("validation");
  const { STORAGE, UNIFORM, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
  const layout = device.createBindGroupLayout({
    entries: buffers.map(({ binding, type }) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer: { type } })),
  });
  const pipeline = await device.createComputePipelineAsync({
    layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
    compute: { module: device.createShaderModule({ code }), entryPoint: "main" },
  });
  const made = buffers.map(({ type, data }) => {
    const bytes = decode(data);
    const usage = (type === "uniform" ? UNIFORM : STORAGE) | COPY_SRC | COPY_DST;
    const buffer = device.createBuffer({ size: bytes.length, usage });
    device.queue.writeBuffer(buffer, 0, bytes);
    return buffer;
  });
  const group = device.createBindGroup({
    layout,
    entries: buffers.map(({ binding }, i) => ({ binding, resource: { buffer: made[i] } })),
  });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, group);
  pass.dispatchWorkgroups(...grid);
  pass.end();
  const reads = [];
  buffers.forEach(({ name: port, read }, i) => {
    if (!read) return;
    const copy = device.createBuffer({ size: made[i].size, usage: MAP_READ | COPY_DST });
    encoder.copyBufferToBuffer(made[i], 0, copy, 0, made[i].size);
    reads.push([port, copy]);
  });
  device.queue.submit([encoder.finish()]);
  const error = await device.popErrorScope();
  if (error) throw new Error(`${name}: ${error.message}`);
  const outputs = {};
  for (const [port, copy] of reads) {
    await copy.mapAsync(GPUMapMode.READ);
    outputs[port] = encode(new Uint8Array(copy.getMappedRange()));
    copy.destroy();
  }
  for (const buffer of made) buffer.destroy();
  return outputs;
}

/** {results: {outputs} or {error} of each call}, or {missing: features that the adapter does not offer}. */
export async function runAll(gpu, calls, features) {
  const adapter = await gpu?.requestAdapter();
  if (!adapter) throw new Error("this page has no WebGPU adapter");
  const missing = features.filter((feature) => !adapter.features.has(feature));
  if (missing.length > 0) return { missing };
  const device = await adapter.requestDevice({ requiredFeatures: features });
  const results = [];
  for (const call of calls) {
    try {
      results.push({ outputs: await run(device, adapter.info, call) });
    } catch (error) {
      results.push({ error: error.message });
    }
  }
  device.destroy();
  return { results };
}

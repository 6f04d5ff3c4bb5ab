// Work for a kernel far away, in workers of the page that shows a widget.

import { fresh } from "./shared.js";

/** Workers that compute for the kernel while this view is open; what goes between the two is the kernel's affair. */
export function compute(model, view) {
  const here = fresh("page");
  const workers = new Map();
  const post = (engine, content, buffers) => model.send({ kind: "engine", view: here, engine, ...content }, undefined, buffers);
  const end = (engine) => {
    workers.get(engine)?.terminate();
    workers.delete(engine);
  };
  const start = (engine, script) => {
    const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
    const worker = new Worker(url);
    worker.onmessage = ({ data: { buffers, ...content } }) => (URL.revokeObjectURL(url), post(engine, content, buffers));
    worker.onerror = ({ message }) => post(engine, { ended: message ?? "" }, []);
    workers.set(engine, worker);
  };
  view.heard({
    engine: ({ view: meant, engine, start: first, end: last, ...message }, buffers) => {
      if (meant !== here) return;
      const given = buffers.map((each) => new Uint8Array(each.buffer, each.byteOffset, each.byteLength));
      if (first) start(engine, given[0]);
      else if (last) end(engine);
      else workers.get(engine)?.postMessage({ ...message, buffers: given });
    },
  });
  view.undo(() => {
    [...workers.keys()].forEach(end);
    view.tell("page_gone", { view: here });
  });
  view.tell("page_here", { view: here });
}

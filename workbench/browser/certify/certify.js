// A page that certifies its adapter, on a button or, where a program opened it (#report), at once.

import { certificate, certify } from "./browser/certificate.js";

const element = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** The browser's own name and version, as it tells them. */
const runtime = () => navigator.userAgent.match(/(Firefox|Edg|Chrome|Version)\/[\d.]+/)?.[0] ?? navigator.userAgent;

async function run() {
  const [status, progress] = [element("status"), /** @type {HTMLProgressElement} */ (element("progress"))];
  element("certify").hidden = true;
  progress.hidden = false;
  status.textContent = "Running …";
  const answer = await fetch("certificate.bin");
  if (!answer.ok) throw new Error(`certificate.bin: the server says ${answer.status}`);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  const found = await certify(navigator.gpu, bytes, runtime(), (done, total) => (progress.value = done / total));
  const off = found.cases.filter((each) => each.status !== "within");
  status.textContent = `${found.cases.length - off.length} of ${found.cases.length} cases are within their bounds on ${found.where.adapter}.`;
  for (const { kernel, variant, status: why } of off) {
    const item = document.createElement("li");
    item.textContent = `${kernel}/${variant}: ${why}`;
    element("beyond").append(item);
  }
  const made = await certificate(found);
  const save = /** @type {HTMLAnchorElement} */ (element("save"));
  save.href = URL.createObjectURL(new Blob([made], { type: "application/json" }));
  save.hidden = false;
  return made;
}

/** @param {string} body @param {string} to */
const report = async (body, to) => void (location.hash === "#report" && (await fetch(to, { method: "POST", body })));

element("certify").addEventListener("click", () => start());
const start = () =>
  run().then(
    (made) => report(made, "certificate"),
    (error) => {
      element("alert").textContent = error.message;
      element("alert").hidden = false;
      report(error.message, "failure");
    },
  );
if (location.hash === "#report") start();

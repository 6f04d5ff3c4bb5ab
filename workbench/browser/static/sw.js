// Without a network, what the page has kept answers; with one, the network. No other origin is asked, whoever wants to.

addEventListener("install", () => /** @type {any} */ (self).skipWaiting());
addEventListener("activate", (event) => /** @type {any} */ (event).waitUntil(/** @type {any} */ (self).clients.claim()));
addEventListener("fetch", (/** @type {any} */ event) => {
  /** @type {Request} */
  const request = event.request;
  if (new URL(request.url).origin !== location.origin) return event.respondWith(Response.error());
  if (request.method !== "GET" || request.headers.has("range")) return undefined;
  const kept = async () => (await caches.match(request, { ignoreSearch: true })) ?? Response.error();
  return event.respondWith(fetch(request).catch(kept));
});

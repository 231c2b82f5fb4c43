"use strict";

// The sample function of ../hello in Node.js: the same routes, and no more
// knowledge of signals than any script has.

const http = require("node:http");

function number(query, name, fallback) {
  const text = query.get(name);
  return /^\d+$/.test(text ?? "") ? Number(text) : fallback;
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function text(response, status, body) {
  response.writeHead(status, { "Content-Type": "text/plain", "Content-Length": Buffer.byteLength(body) });
  response.end(body);
}

async function events(response, count) {
  response.writeHead(200, { "Content-Type": "text/event-stream" });
  for (let i = 0; i < count && !response.destroyed; i++) {
    if (i > 0) await pause(100);
    response.write(`id: ${i}\ndata: ${new Date().toISOString()}\n\n`);
  }
  response.end();
}

async function serve(request, response) {
  const { pathname, searchParams } = new URL(request.url, "http://localhost");
  if (pathname === "/echo") {
    response.setHeader("Content-Type", request.headers["content-type"] ?? "application/octet-stream");
    request.on("error", () => response.destroy());
    request.pipe(response);
    return;
  }
  request.resume();
  switch (pathname) {
    case "/slow":
      await pause(number(searchParams, "ms", 250));
    // falls through
    case "/":
      text(response, 200, "Hello from Node.js\n");
      break;
    case "/sse":
      await events(response, number(searchParams, "n", 5));
      break;
    case "/env": {
      const lines = Object.entries(process.env).map(([name, value]) => `${name}=${value}\n`);
      text(response, 200, lines.sort().join(""));
      break;
    }
    default:
      text(response, 404, "404\n");
  }
}

// Only a watchdog connects, and it bounds the reading and the idle time itself.
const unbounded = { keepAliveTimeout: 0, headersTimeout: 0, requestTimeout: 0 };

http.createServer(unbounded, serve).listen({
  host: "127.0.0.1",
  port: Number(process.env.http_port ?? 3000),
  backlog: 1024, // connections that may wait to be accepted
});

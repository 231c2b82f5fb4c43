"use strict";

// Serves function/handler.js on loopback, for fwatchdog in http mode.

const http = require("node:http");
const { parse } = require("node:querystring");

const handler = require("./function/handler");

// fwatchdog bounds the reading of requests and closes idle connections. A
// second, shorter bound here would close a connection under a request.
const unbounded = { keepAliveTimeout: 0, headersTimeout: 0, requestTimeout: 0 };

// Connections that may wait to be accepted; fwatchdog opens one per request in
// flight.
const backlog = 1024;

class BadRequest extends Error {}

// bodyOf is what a handler is given: an object for JSON and forms, a string
// for text and where no type is said, else a Buffer. RAW_BODY=true: a Buffer
// always.
function bodyOf(type, raw) {
  if (process.env.RAW_BODY === "true") return raw;
  type = (type || "text/plain").split(";")[0].trim().toLowerCase();
  if (type === "application/json" || type.endsWith("+json")) {
    if (raw.length === 0) return {};
    try {
      return JSON.parse(raw.toString());
    } catch {
      throw new BadRequest("the request's body is not JSON");
    }
  }
  if (type === "application/x-www-form-urlencoded") return { ...parse(raw.toString()) };
  return type.startsWith("text/") ? raw.toString() : raw;
}

// split cuts the target of a request into its path, as sent, and its query.
function split(target) {
  const at = target.indexOf("?");
  return at < 0 ? [target, ""] : [target.slice(0, at), target.slice(at + 1)];
}

class FunctionEvent {
  constructor(request, body) {
    const [path, query] = split(request.url);
    this.method = request.method;
    this.path = path;
    this.query = { ...parse(query) };
    this.headers = request.headers;
    this.body = body;
  }
}

// FunctionContext is how a handler answers: once, by succeed or fail, or by
// what it returns.
class FunctionContext {
  constructor(answer) {
    this.answer = answer;
    this.answered = false;
    this.statusCode = 200;
    this.headerValues = {};
  }

  status(code) {
    if (code === undefined) return this.statusCode;
    this.statusCode = code;
    return this;
  }

  headers(values) {
    if (values === undefined) return this.headerValues;
    this.headerValues = values;
    return this;
  }

  succeed(value) {
    if (this.answered) return;
    this.answer(this.statusCode, this.headerValues, value);
    this.answered = true;
  }

  fail(value) {
    if (this.statusCode === 200) this.statusCode = 500;
    console.error(value);
    this.succeed(value instanceof Error ? value.message : value);
  }
}

function payload(value) {
  if (value === undefined || value === null) return ["", undefined];
  if (value instanceof Uint8Array) return [value, "application/octet-stream"];
  if (typeof value === "object") return [JSON.stringify(value), "application/json"];
  return [String(value), "text/plain; charset=utf-8"];
}

function send(response, status, headers, value) {
  const [body, type] = payload(value);
  if (type) response.setHeader("Content-Type", type);
  for (const [name, text] of Object.entries(headers)) response.setHeader(name, text);
  response.removeHeader("Transfer-Encoding");
  if (status !== 204 && status !== 304) response.setHeader("Content-Length", Buffer.byteLength(body));
  response.writeHead(status);
  response.end(body);
}

// refuse replaces whatever was begun on a response that has not been sent.
function refuse(response, status, text) {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  for (const name of response.getHeaderNames()) response.removeHeader(name);
  send(response, status, {}, `${text}\n`);
}

// sendOrFail keeps an answer that cannot be sent, such as one with a header that
// spans lines, from ending the process: it may come from a callback.
function sendOrFail(response, ...answer) {
  try {
    send(response, ...answer);
  } catch (e) {
    console.error(e);
    refuse(response, 500, "the function failed");
  }
}

async function read(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts);
}

async function invoke(request, response) {
  const body = bodyOf(request.headers["content-type"], await read(request));
  const context = new FunctionContext((...answer) => sendOrFail(response, ...answer));
  const callback = (err, value) => (err ? context.fail(err) : context.succeed(value));
  const result = await handler(new FunctionEvent(request, body), context, callback);
  // A handler that takes the callback may answer later by it.
  if (result !== undefined || handler.length < 3) {
    context.succeed(result === context ? undefined : result);
  }
}

async function serve(request, response) {
  try {
    await invoke(request, response);
  } catch (e) {
    if (request.destroyed && !request.complete) return; // the caller left
    if (e instanceof BadRequest) {
      refuse(response, 400, e.message);
      return;
    }
    console.error(e);
    refuse(response, 500, "the function failed");
  }
}

const server = http.createServer(unbounded, serve);
server.listen({ host: "127.0.0.1", port: Number(process.env.http_port || 3000), backlog });

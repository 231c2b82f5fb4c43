"use strict";

module.exports = async (event, context) => {
  if (event.method === "GET") {
    return context.status(200).succeed(`Hello from ${event.path}\n`);
  }
  const type = event.headers["content-type"] || "text/plain";
  return context.status(200).headers({ "Content-Type": type }).succeed(event.body);
};

// A handler as people write them: it knows nothing of signals.
//
// LISTEN is host:port. It answers ms (of the query) later with the body that
// came. RECORD is a file that gets a line of JSON per request.
const fs = require('fs');
const http = require('http');

const [host, port] = process.env.LISTEN.split(':');

http.createServer((req, res) => {
  const parts = [];
  req.on('data', (part) => parts.push(part));
  req.on('end', () => {
    fs.appendFileSync(process.env.RECORD, JSON.stringify({ ID: req.headers['x-id'] || '' }) + '\n');
    const ms = Number(new URL(req.url, 'http://x').searchParams.get('ms') || 0);
    const body = Buffer.concat(parts);
    setTimeout(() => {
      const answer = body.length ? body : Buffer.from('slow');
      res.writeHead(200, { 'Content-Length': answer.length });
      res.end(answer);
    }, ms);
  });
}).listen(Number(port), host);

// The sending side of `fanout` in Node: `ws` and Socket.IO as their documentation broadcasts, each on a port of its own.
// Commands and answers as in fanout_server.py. Their packages are beside this file's copy, in a scratch folder.

import { createServer } from "node:http";
import { createServer as createControl } from "node:net";
import { createInterface } from "node:readline";
import { readFileSync } from "node:fs";
import { Server as SocketIO } from "socket.io";
import { WebSocketServer } from "ws";

const given = JSON.parse(process.argv[2]);
const perMessageDeflate = given.compressed ? { threshold: 200, serverNoContextTakeover: true } : false;
const listen = (server) => new Promise((resolve) => server.listen(0, "127.0.0.1", 4096, () => resolve(server.address().port)));

const plain = createServer();
const ws = new WebSocketServer({ server: plain, perMessageDeflate });
const http = createServer();
const io = new SocketIO(http, { transports: ["websocket"], perMessageDeflate, serveClient: false });

// One byte for each message that every client has.
let acknowledged = () => {};
const control = createControl((socket) => {
  socket.on("data", (data) => {
    for (const _ of data) acknowledged();
  });
  socket.on("close", () => process.exit(1));
});

const contenders = {
  ws: (sample) => {
    const text = JSON.stringify(sample);
    for (const client of ws.clients) client.send(text);
  },
  socketio: (sample) => io.emit("sample", sample),
};

async function send({ contender, frames }) {
  const samples = JSON.parse(readFileSync(frames, "utf8"));
  const act = contenders[contender];
  const sent = [];
  const wall = performance.now();
  const cpu = process.cpuUsage();
  for (const sample of samples) {
    const arrived = new Promise((resolve) => (acknowledged = resolve));
    sent.push(Number(process.hrtime.bigint()) / 1e9);
    act(sample);
    await arrived;
  }
  const used = process.cpuUsage(cpu);
  return { cpu: (used.user + used.system) / 1e6, wall: (performance.now() - wall) / 1000, sent };
}

const memory = () => ({
  resident_kib: process.memoryUsage().rss / 1024,
  clients: ws.clients.size + io.of("/").sockets.size,
});

const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);
say({ ws: await listen(plain), socketio: await listen(http), control: await listen(control) });
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  say(command.do === "send" ? await send(command) : memory());
}
process.exit(0);

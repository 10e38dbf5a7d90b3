// Node's `engine.io-client` or `engine.io`, over WebSocket alone; `run` says what it is told and what it
// prints. It also prints `heartbeat` for each that went both ways: in Engine.IO the server asks, and
// either side closes when that does not happen in time.
"use strict";

const http = require("node:http");
const readline = require("node:readline");

const [role, url] = process.argv.slice(2);
const say = (event) => process.stdout.write(event + "\n");

if (role === "client") {
  const { Socket } = require("engine.io-client");
  const socket = new Socket(url, { transports: ["websocket"] });
  socket.on("open", () => converse(socket));
  socket.on("ping", () => say("heartbeat"));
  socket.on("error", (error) => console.error(error.message));
} else {
  const { Server } = require("engine.io");
  const limits = { pingInterval: 200, pingTimeout: 1000 };
  const engine = new Server({ transports: ["websocket"], ...limits });
  engine.on("connection", (socket) => {
    socket.on("heartbeat", () => say("heartbeat"));
    socket.on("message", (data) => socket.send(data));
    converse(socket);
  });
  const server = http.createServer();
  engine.attach(server);
  server.listen(0, "127.0.0.1", () => {
    const origin = `ws://127.0.0.1:${server.address().port}`;
    say(`listening ${origin}/engine.io/?EIO=4&transport=websocket`);
  });
}

function converse(socket) {
  say("open");
  const input = readline.createInterface({ input: process.stdin });
  input.on("line", (line) => obey(socket, line));
  socket.on("message", (data) => say(`message ${data}`));
  socket.on("close", (reason) => {
    input.close();
    say(`closed ${reason}`);
  });
}

function obey(socket, line) {
  const [name, ...rest] = line.split(" ");
  if (name === "send") socket.send(rest.join(" "));
}

// Phoenix: as client its own `phoenix.js`, as server a few lines over `ws` that repeat references as the
// framework does; `run` says what it is told and what it prints. It also prints `heartbeat` for each that
// was answered. The client asks, and closes when there is no answer before it asks again.
"use strict";

const readline = require("node:readline");
const { WebSocket, WebSocketServer } = require("ws");

const [role, url] = process.argv.slice(2);
const say = (event) => process.stdout.write(event + "\n");

function obey(send) {
  const input = readline.createInterface({ input: process.stdin });
  input.on("line", (line) => {
    const [name, ...rest] = line.split(" ");
    if (name === "send") send(rest.join(" "));
  });
}

if (role === "client") {
  const { Socket } = require("phoenix");
  const socket = new Socket(url, { transport: WebSocket, heartbeatIntervalMs: 500 });
  socket.onOpen(() => say("open"));
  socket.onError((error) => console.error(error.message));
  socket.onClose((event) => {
    say(`closed ${event.code} ${event.reason}`);
    process.exit();
  });
  socket.onMessage(({ topic, event, payload }) => {
    if (topic === "room") say(`message ${payload.text}`);
    if (topic === "phoenix" && event === "phx_reply") say("heartbeat");
  });
  socket.connect();
  const message = (text) => ({ topic: "room", event: "say", payload: { text }, ref: socket.makeRef() });
  obey((text) => socket.push(message(text)));
} else {
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0 });
  server.on("listening", () => say(`listening ws://127.0.0.1:${server.address().port}/socket/websocket`));
  server.on("connection", (socket) => {
    say("open");
    obey((text) => socket.send(text));
    socket.on("message", (data) => receive(socket, String(data)));
    socket.on("close", (code, reason) => say(`closed ${code} ${reason}`));
  });
}

function receive(socket, text) {
  say(`message ${text}`);
  if (!text.startsWith("[")) return socket.send(text);
  const [joined, reference, topic, event] = JSON.parse(text);
  if (topic === "phoenix" && event === "heartbeat") {
    const payload = { status: "ok", response: {} };
    socket.send(JSON.stringify([joined, reference, topic, "phx_reply", payload]));
    say("heartbeat");
  }
}

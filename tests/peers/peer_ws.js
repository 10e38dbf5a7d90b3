// Node's `ws`, as client or server; `run` says what it is told and what it prints.
"use strict";

const readline = require("node:readline");
const { WebSocket, WebSocketServer } = require("ws");

const [role, url] = process.argv.slice(2);
const say = (event) => process.stdout.write(event + "\n");

if (role === "client") {
  const socket = new WebSocket(url);
  socket.on("open", () => converse(socket));
  socket.on("error", (error) => console.error(error.message));
} else {
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0 });
  server.on("listening", () => say(`listening ws://127.0.0.1:${server.address().port}`));
  server.on("connection", (socket) => {
    socket.on("error", (error) => console.error(error.message));
    socket.on("message", (data, binary) => socket.send(data, { binary }));
    converse(socket);
  });
}

function converse(socket) {
  say("open");
  const input = readline.createInterface({ input: process.stdin });
  input.on("line", (line) => obey(socket, line));
  socket.on("message", (data) => say(`message ${data}`));
  socket.on("close", (code, reason) => {
    input.close();
    say(`closed ${code} ${reason}`);
  });
}

function obey(socket, line) {
  const [name, ...rest] = line.split(" ");
  if (name === "send") {
    socket.send(rest.join(" "));
  } else if (name === "pings") {
    for (let ping = 0; ping < Number(rest[0]); ping++) socket.ping();
  } else if (name === "begin") {
    socket.send("half a message", { fin: false });
  } else if (name === "close") {
    socket.close(Number(rest[0]), rest[1]);
  }
}

// Node `ws`, with the sweep of its README ("How to detect and close broken connections").
import { WebSocketServer } from "ws";

const ping = 1000 * Number(process.argv[2]);
const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });

function heartbeat() {
  this.isAlive = true;
}

server.on("connection", (socket) => {
  socket.isAlive = true;
  socket.on("error", console.error);
  socket.on("pong", heartbeat);
  socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
});

setInterval(() => {
  server.clients.forEach((socket) => {
    if (socket.isAlive === false) return socket.terminate();
    socket.isAlive = false;
    socket.ping();
  });
}, ping);

server.on("listening", () => console.log(`listening on ${server.address().port}`));

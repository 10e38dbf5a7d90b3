"""Python `websockets`, with the keepalive that it has built in."""

import asyncio
import sys

from websockets.asyncio.server import serve


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def main():
    ping = float(sys.argv[1])
    async with serve(
        echo, "127.0.0.1", 0, ping_interval=ping, ping_timeout=ping + 60, compression=None
    ) as server:
        print("listening on", server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main())

"""Python's `websockets`, as client or server; `run` says what it is told and what it prints."""

import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from commands import commands, say


async def main(role, url=None):
    if role == "client":
        async with connect(url) as socket:
            await converse(socket)
        return

    async def answer(socket):
        await converse(socket, echoes=True)

    async with serve(answer, "127.0.0.1", 0) as server:
        say("listening ws://127.0.0.1:%d" % server.sockets[0].getsockname()[1])
        await server.serve_forever()


async def converse(socket, echoes=False):
    say("open")
    obeying = asyncio.create_task(obey(socket))
    try:
        async for message in socket:
            say(f"message {message}")
            if echoes:
                await socket.send(message)
    except ConnectionClosed:
        pass
    obeying.cancel()
    say(f"closed {socket.close_code} {socket.close_reason}")


async def obey(socket):
    async for name, rest in commands():
        if name == "send":
            await socket.send(rest)
        elif name == "pings":
            for _ in range(int(rest)):
                await socket.ping()
        elif name == "begin":
            await socket.send(half_a_message(socket))
        elif name == "close":
            code, reason = rest.split()
            await socket.close(int(code), reason)


async def half_a_message(socket):
    yield "half a message"
    await socket.wait_closed()


asyncio.run(main(*sys.argv[1:]))

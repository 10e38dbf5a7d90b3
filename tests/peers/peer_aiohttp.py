"""Python's `aiohttp`, as client or server; `run` says what it is told and what it prints."""

import asyncio
import os
import sys

from aiohttp import ClientSession, WSMsgType, web

from commands import commands, say


async def main(role, url=None):
    if role == "client":
        async with ClientSession() as session, session.ws_connect(url) as socket:
            await converse(socket, serves=False)
        return

    async def answer(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await converse(socket, serves=True)
        return socket

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    say("listening ws://127.0.0.1:%d" % runner.addresses[0][1])
    await asyncio.Event().wait()


async def converse(socket, serves):
    say("open")
    receiving = asyncio.create_task(receive(socket, serves))
    obeying = asyncio.create_task(obey(socket, serves))
    await asyncio.wait({receiving, obeying}, return_when=asyncio.FIRST_COMPLETED)
    if receiving.done():
        obeying.cancel()
        reason = await receiving
    else:
        # `close` reads the answer. A server's does not if it interrupts a task that reads, and a
        # client's counts a reading that was cancelled as the end.
        if serves:
            receiving.cancel()
            await asyncio.wait({receiving})
        code, reason = await obeying
        await socket.close(code=code, message=reason.encode())
    say(f"closed {socket.close_code} {reason}")


async def receive(socket, serves):
    """The peer's reason, when the connection has ended."""
    while True:
        message = await socket.receive()
        if message.type != WSMsgType.TEXT:
            return message.extra
        say(f"message {message.data}")
        if serves:
            await socket.send_str(message.data)


async def obey(socket, serves):
    """The code and reason to close with."""
    async for name, rest in commands():
        if name == "send":
            await socket.send_str(rest)
        elif name == "pings":
            for _ in range(int(rest)):
                await socket.ping()
        elif name == "begin":
            # aiohttp sends whole frames only, so this goes past it: the head of a text frame of a
            # hundred bytes, and four of them.
            head = [0x81, 100] if serves else [0x81, 0x80 | 100, 0, 0, 0, 0]
            os.write(socket.get_extra_info("socket").fileno(), bytes(head) + b"half")
        elif name == "close":
            code, reason = rest.split()
            return int(code), reason


asyncio.run(main(*sys.argv[1:]))

"""What the Python peers share: one line in a command, one line out an event."""

import asyncio
import sys


def say(event):
    print(event, flush=True)


async def commands():
    """The commands on standard input, each as its name and the rest of the line."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    async for line in reader:
        name, _, rest = line.decode().strip().partition(" ")
        yield name, rest

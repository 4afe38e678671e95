"""The unified information stream: message types, codec, sockets. Needs msgspec and pyzmq only."""

"""The process on a host of tools: how busy it is, and which tool calls run there."""

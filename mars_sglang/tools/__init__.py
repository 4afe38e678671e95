"""What runs beside a tool call and tells the sidecar of it. Needs msgspec and pyzmq only."""

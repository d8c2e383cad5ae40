"""The striped socket transport: wire format, sender, receiver, sandbox, authentication."""

"""The hooks of `TokenSentinelHandler`, one module for each kind of call."""

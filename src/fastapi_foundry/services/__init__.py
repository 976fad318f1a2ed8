"""The use cases of the gateway: what the edges call, in terms of the ports."""

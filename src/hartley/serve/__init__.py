"""The server and its page: what a client touches over HTTP."""

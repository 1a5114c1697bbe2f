"""The service behind the HTTP API, the web page and the agent tools, and its client."""

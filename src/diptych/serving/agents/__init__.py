"""Tools for agents: MCP and smolagents."""

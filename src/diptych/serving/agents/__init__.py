"""Tools for agents, over MCP and for smolagents."""

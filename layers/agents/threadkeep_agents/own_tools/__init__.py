"""A team's own tools: each file here is loaded, and registers its functions with `own_tool`."""

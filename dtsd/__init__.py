"""The site: the `dts` program and, with it, everything that stands on top of the agents."""

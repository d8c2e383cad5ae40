"""The rows of the report: each module measures one of them with `measure(bench)`."""

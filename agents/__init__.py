"""The periodic agents: claim, do, commit; and the replica manager that they use."""

"""The request database: requests, their operations and files, the state machine and the request files."""

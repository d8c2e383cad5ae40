"""Programs that the rows run in processes of their own: ours, and the peers' in their own virtual environment."""

"""The accounting: one row per attempt, and the reports and plots drawn from them."""

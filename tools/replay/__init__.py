"""`mdf replay`: recorded traffic published to the raw log again."""

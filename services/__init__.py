"""The four services and what they share. See ARCHITECTURE.md for who may import whom."""

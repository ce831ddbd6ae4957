"""The charts on a real Kubernetes: installed, loaded, restarted; nothing may be lost."""

"""What the Dockerfiles would make, made without a container engine and looked into."""

"""What is deployed, by the tools that operators use: `make test-deploy`, in its own environment."""

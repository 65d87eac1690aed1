"""What is copied into emitted packages. Standard library only, Python 3.9."""

"""Every parser of bytes from outside, fed with what nobody sends: `make fuzz`, docs/testing.md."""

"""The `raymodal` command."""

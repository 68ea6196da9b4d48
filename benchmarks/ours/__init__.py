"""The questions of `scenarios/` answered by raymodal, through its public API only."""
